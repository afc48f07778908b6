from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import foveate
from foveate import create_attention, describe, list_attention, register, registry
from foveate.contracts import MapOfTokens, TokenMixer
from foveate.registry import TAGS, Spec, option_names
from tests.mechanisms import CleanGate, CleanMixer, ConvMixer

FAMILIES = {"gates", "local", "window", "full", "sequence"}


@pytest.fixture
def names_of_a_test(monkeypatch):
    """What a test registers is forgotten after it."""
    list_attention()
    monkeypatch.setattr(registry, "_SPECS", dict(registry._SPECS))


def test_names_match_a_glob_in_order():
    names = list_attention()
    assert names == sorted(names)
    assert {"multi_head", "squeeze_excitation", "additive"} <= set(names)
    assert list_attention("multi_*") == [n for n in names if n.startswith("multi_")]
    assert list_attention("*") == names
    assert list_attention("no_such*") == []
    assert list_attention("MULTI_HEAD") == []


def test_names_by_family_and_role():
    assert "multi_head" in list_attention(family="full")
    assert "multi_head" not in list_attention(family="gates")
    assert "multi_head" in list_attention(role="token_mixer")
    assert "multi_head" not in list_attention(role="mixer")
    both = list_attention("*", family="gates", role="gate")
    assert "squeeze_excitation" in both
    assert set(both) <= set(list_attention(family="gates"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"family": "gate"}, "unknown family 'gate'; did you mean 'gates'"),
        ({"role": "mixers"}, "unknown role 'mixers'; did you mean 'mixer'"),
    ],
)
def test_unknown_family_or_role_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        list_attention(**options)


@pytest.mark.parametrize("name", list_attention())
def test_every_record_is_complete(name):
    spec = describe(name)
    assert spec.name == name
    assert name == name.lower().replace("-", "_")
    assert spec.family in FAMILIES
    assert spec.cls.role == spec.role
    assert spec.tags <= set(TAGS)
    assert spec.title
    assert not spec.title.endswith(".")
    assert any(digit.isdigit() for digit in spec.paper), "a paper has a year"
    assert not spec.source or "@" in spec.source, "a source states its commit"
    assert bool(spec.license) <= bool(spec.source)
    assert option_names(spec)[0] == "dim"
    assert ("num_heads" in option_names(spec)) >= ("heads" in spec.tags)
    assert spec.cls.__doc__
    assert f"foveate.attention.{spec.family}." in spec.cls.__module__


@pytest.mark.parametrize("name", list_attention())
def test_a_record_as_plain_values(name):
    spec, known = describe(name), describe(name).to_dict()
    assert json.loads(json.dumps(known)) == known
    assert set(known) >= {field.name for field in dataclasses.fields(Spec)} - {"cls"}
    assert set(known["tags"]) == spec.tags
    assert known["documentation"].startswith(sys.modules[spec.cls.__module__].__doc__[:20])
    assert [option["name"] for option in known["options"]] == option_names(spec)
    assert all(option["meaning"] for option in known["options"])


def test_a_record_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        describe("multi_head").name = "other"


def test_unknown_names_offer_the_nearest():
    with pytest.raises(
        ValueError, match=r"unknown attention 'multihead'; did you mean 'multi_head"
    ):
        describe("multihead")
    with pytest.raises(ValueError, match="unknown attention 'squeeze_exitation'; did you mean"):
        create_attention("squeeze_exitation", 16)


def test_unknown_options_offer_the_nearest():
    with pytest.raises(ValueError, match=r"no option 'heads'; did you mean 'num_heads'"):
        create_attention("multi_head", 16, heads=2)


def test_create_by_name_and_role():
    x = torch.randn(2, 16, 5, 4)
    assert create_attention("multi_head", 16, num_heads=2).role == "token_mixer"
    assert create_attention("multi_head", dim=16, num_heads=2, role="token_mixer").dim == 16
    assert create_attention("squeeze_excitation", 16, role="gate")(x).shape == x.shape
    with pytest.raises(ValueError, match="is a gate and cannot stand as a mixer"):
        create_attention("squeeze_excitation", 16, role="mixer")
    with pytest.raises(ValueError, match="is a token_mixer and cannot stand as a"):
        create_attention("multi_head", 16, role="aligner")


def test_a_decorator_registers_from_outside(names_of_a_test):
    @register("my_gate", family="mine", title="Mine", paper="None, 2026", tags=("unordered",))
    class MyGate(CleanGate):
        pass

    spec = describe("my_gate")
    assert spec == Spec(
        "my_gate", MyGate, "gate", "mine", "Mine", "None, 2026", tags=frozenset({"unordered"})
    )
    assert list_attention(family="mine") == ["my_gate"]
    assert isinstance(create_attention("my_gate", 8), MyGate)


def test_a_taken_name_is_refused(names_of_a_test):
    record = {"family": "mine", "title": "Mine", "paper": "None, 2026"}
    with pytest.raises(
        ValueError, match=r"'multi_head' is already registered by foveate\.attention"
    ):
        register("multi_head", **record)(CleanMixer)
    register("mine", **record)(CleanMixer)
    register("mine", **record)(CleanMixer)  # as when a module is imported anew
    with pytest.raises(ValueError, match=r"registered by tests\.mechanisms\.CleanMixer"):
        register("mine", **record)(ConvMixer)
    assert describe("mine").cls is CleanMixer


def test_unknown_tags_and_roles_are_refused(names_of_a_test):
    record = {"family": "mine", "title": "Mine", "paper": "None, 2026"}
    with pytest.raises(ValueError, match="unknown tag 'weight'; did you mean 'weights'"):
        register("mine", **record, tags=["weight"])(CleanMixer)
    with pytest.raises(ValueError, match="Linear has no role"):
        register("mine", **record)(torch.nn.Linear)
    assert "mine" not in list_attention()


PACKAGE = """
from foveate import register
from foveate.contracts import Gate


@register("from_a_package", family="theirs", title="Theirs", paper="None, 2026")
class Theirs(Gate):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def gate(self, x):
        return x.sigmoid()
"""


def test_an_entry_point_registers(tmp_path: Path):
    (tmp_path / "their_package.py").write_text(PACKAGE)
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[foveate.attention]\ntheirs = their_package\n")
    source = Path(foveate.__file__).parents[1]
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(source)!r}]; import foveate; "
        "print(foveate.list_attention(family='theirs')); "
        "print(foveate.create_attention('from_a_package', 4))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['from_a_package']\nTheirs(dim=4)"


@pytest.mark.parametrize("name", list_attention(role="token_mixer"))
def test_a_token_mixer_stands_as_a_mixer(name):
    options = {"num_heads": 2} if "heads" in describe(name).tags else {}
    mixer = create_attention(name, 16, role="mixer", **options).eval()
    assert isinstance(mixer, MapOfTokens)
    assert isinstance(mixer.token_mixer, TokenMixer)
    assert (mixer.role, mixer.dim) == ("mixer", 16)
    x = torch.randn(2, 16, 3, 4).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        y = mixer(x)
        tokens = mixer.token_mixer(x.flatten(2).transpose(1, 2))
    torch.testing.assert_close(y.flatten(2).transpose(1, 2), tokens)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["My-gate", "a:b", "a b", "", "_x"])
def test_a_name_that_could_not_be_written_is_refused(name):
    with pytest.raises(ValueError, match="lower case with underscores"):
        register(name, family="x", title="x", paper="x")


def test_a_class_without_a_role_and_tags_in_one_word_are_refused():
    with pytest.raises(ValueError, match="Identity has no role: derive it from foveate"):
        register("no_role", family="x", title="x", paper="x")(torch.nn.Identity)
    with pytest.raises(TypeError, match=r"pass \['weights'\]"):
        register("one_tag", family="x", title="x", paper="x", tags="weights")


def test_an_argument_that_is_missing_is_named():
    with pytest.raises(TypeError, match=r"needs dim: create_attention\('cbam', dim\)"):
        create_attention("cbam")

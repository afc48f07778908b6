"""The command: what it prints, and how it refuses."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from foveate.cli import main
from foveate.registry import describe, list_attention


@pytest.fixture
def run(capsys):
    def call(*arguments: str):
        assert main(list(arguments)) == 0
        return capsys.readouterr().out

    return call


@pytest.fixture
def refused(capsys):
    def call(*arguments: str):
        with pytest.raises(SystemExit) as exit_:
            main(list(arguments))
        output = capsys.readouterr()
        assert exit_.value.code == 2
        assert output.out == ""
        assert output.err.startswith("foveate: ")
        assert output.err.count("\n") == 1
        return output.err

    return call


def test_help_does_not_wait_for_torch():
    code = (
        "import sys; sys.argv = ['foveate', '--help']\n"
        "from foveate.cli import main\n"
        "try: main()\n"
        "finally: assert not {'torch', 'timm', 'lightning', 'rich'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "profile" in done.stdout


def test_list(run):
    names = [item["name"] for item in json.loads(run("list", "--json"))]
    assert names == list_attention()
    gates = run("list", "--family", "gates")
    assert "squeeze_excitation" in gates
    assert "multi_head" not in gates
    assert [item["name"] for item in json.loads(run("list", "multi_h*", "--json"))] == [
        "multi_head"
    ]


def test_describe_says_all_of_the_record(run):
    spec = describe("multi_head")
    text = run("describe", "multi_head")
    for part in (spec.title, spec.paper, spec.source, spec.license, *spec.tags):
        assert part in text
    assert "softmax(q k^T / sqrt(D)) v" in text
    known = json.loads(run("describe", "multi_head", "--json"))
    heads = next(option for option in known["options"] if option["name"] == "num_heads")
    assert heads == {
        "name": "num_heads",
        "required": False,
        "default": 8,
        "meaning": "heads; must divide ``dim``.",
    }


@pytest.mark.parametrize("name", list_attention())
def test_every_mechanism_can_be_described(run, name):
    known = json.loads(run("describe", name, "--json"))
    assert known["options"]
    assert all(option["meaning"] for option in known["options"]), "an option is not documented"


def test_profile_of_every_mechanism(run):
    names = list_attention()
    rows = json.loads(
        run("profile", *names, "--size", "14", "7", "--dim", "32", "--repeats", "1", "--json")
    )
    assert [row["name"] for row in rows] == names
    assert all(row["multiply_adds"] > 0 for row in rows)


def test_profile_of_a_model_at_another_size(run):
    row = json.loads(
        run("profile", "vit_tiny_patch16_224", "--size", "32", "64", "--repeats", "1", "--json")
    )[0]
    assert row["input_size"] == [3, 32, 64]


def test_profile_table(run):
    text = run("profile", "multi_head", "--option", "num_heads=4", "qkv_bias=false", "--size", "4")
    assert "16,448" in text
    assert "0.29 M" in text
    assert "batch of 1" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "a command is missing"),
        ("lisst", "did you mean 'list'?"),
        ("list --famly gates", "did you mean '--family'?"),
        ("list --family gate", "did you mean 'gates'"),
        ("list --role mixr", "did you mean 'mixer'"),
        ("list nothing*", "no attention matches 'nothing*'"),
        ("describe", "NAME is missing"),
        ("describe multi_heed", "did you mean 'multi_head'"),
        ("profile resnet188", "did you mean 'resnet18'"),
        ("profile multi_heed", "did you mean 'multi_head'"),
        ("profile multi_head --size x", "--size element 1: Expected a int. Got value: x"),
        ("profile multi_head --size 4 4 4", "size takes one or two"),
        ("profile multi_head --size 0", "size takes one or two"),
        ("profile multi_head --num-heads 3", "num_heads could be one of [1, 2, 4]"),
        ("profile multi_head --option kernel=3", "no option 'kernel'"),
        ("profile multi_head --option kernel", "--option takes KEY=VALUE"),
        ("profile multi_head --device nonsense", "device 'nonsense' is not available"),
        ("profile multi_head --batch 0", "batch_size must be"),
        ("profile resnet18 --option kernel=3", "cannot be built"),
    ],
)
def test_refusals_take_one_line(refused, arguments, message):
    assert message in refused(*arguments.split())

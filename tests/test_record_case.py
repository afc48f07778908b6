"""A case that the recorder wrote is reproduced by the tests' own reading of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tools.record_case import Input, Recording, main, record, table_row
from torch import Tensor, nn

from foveate.attention.gates.squeeze_excitation import SqueezeExcitation
from tests.published.golden import CASES, Row, largest_differences, load_case

PUBLISHED = '''
import torch
from torch import nn


class Published(nn.Module):
    """A convolution, a batch norm and a table that follows from the options."""

    def __init__(self, dim, bias=True):
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(dim)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("table", torch.arange(dim))

    def forward(self, x, mask=None):
        y = self.drop(self.norm(self.conv(x)))
        return y if mask is None else y * mask[:, None, None, None]


def both(module, x, mask):
    return {"masked": module(x, mask), "whole": module(x)}
'''
STATED = [
    "--source", "somebody/attention@0a1b2c3:attention.py",
    "--paper", "Somebody, Attention, 2026",
]  # fmt: skip


@pytest.fixture
def published(tmp_path: Path) -> str:
    path = tmp_path / "published.py"
    path.write_text(PUBLISHED)
    return str(path)


def _load(path: str) -> type[nn.Module]:
    scope: dict = {}
    exec(Path(path).read_text(), scope)
    return scope["Published"]


def test_a_recorded_case_is_reproduced(tmp_path, published, capsys):
    main([
        "mine", "--module", f"{published}:Published", "--kwargs", '{"dim": 6}',
        "--input", "x=2,6,5,4", "--value", "mask=[true, false]", "--call", f"{published}:both",
        "--license", "MIT", "--notes", "none", "--out", str(tmp_path), *STATED,
    ])  # fmt: skip
    golden = load_case("mine", tmp_path)
    assert golden.kwargs == {"dim": 6}
    assert golden.inputs["x"].shape == (2, 6, 5, 4)
    assert golden.inputs["mask"].tolist() == [True, False]
    assert golden.fixed == {"table": (6,)}
    module = _load(published)(**golden.kwargs).eval()
    assert module.load_state_dict(golden.state, strict=False).missing_keys == ["table"]
    with torch.no_grad():
        y = module(golden.inputs["x"])
    torch.testing.assert_close(golden.outputs["whole"], y)
    assert golden.outputs["masked"][0].any()
    assert not golden.outputs["masked"][1].any()
    meta = json.loads((tmp_path / "mine.json").read_text())
    assert meta["source"] == {
        "repo": "somebody/attention", "commit": "0a1b2c3", "path": "attention.py",
        "class": "Published", "license": "MIT",
    }  # fmt: skip
    assert 'Row("mine", lambda dim: Ours(dim)),' in capsys.readouterr().out


def test_a_case_kept_here_is_recorded_as_it_is(tmp_path):
    """timm's module, recorded anew, gives the file that the table of gates uses."""
    main([
        "se_timm", "--module", "timm.layers:SEModule", "--kwargs", '{"channels": 256}',
        "--input", "x=2,256,5,4", "--out", str(tmp_path), *STATED,
    ])  # fmt: skip
    anew, kept = load_case("se_timm", tmp_path), load_case("se_timm", CASES)
    assert anew.kwargs == kept.kwargs
    for name, value in {**kept.state, **kept.inputs}.items():
        assert torch.equal({**anew.state, **anew.inputs}[name], value)
    torch.testing.assert_close(anew.outputs["y"], kept.outputs["y"])
    row = Row("se_timm", lambda channels: SqueezeExcitation(channels, divisor=8))
    assert largest_differences(row, anew)[1]["y"] <= row.tolerance


class Noisy(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn(())


class Drawn(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 3)
        self.register_buffer("means", torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.means


class Infinite(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + float("inf")


class Wordy(nn.Linear):
    def forward(self, x: Tensor) -> str:
        return "y"


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda: Noisy(3, 3), ValueError, "differs from run to run"),
        (Drawn, ValueError, "differs from run to run"),
        (lambda: Infinite(3, 3), ValueError, "not finite"),
        (lambda: Wordy(3, 3), TypeError, "expected a tensor"),
    ],
)
def test_what_no_test_could_reproduce_is_not_written(tmp_path, build, error, words):
    what = Recording("mine", build, [Input("x", (2, 3))])
    with pytest.raises(error, match=words):
        record(what, {}, "paper", folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_buffers_are_filled_and_parameters_kept_when_asked(tmp_path):
    what = Recording("mine", Drawn, [Input("x", (2, 3))], fill=["means"])
    record(what, {}, "paper", folder=tmp_path)
    assert "means" in load_case("mine", tmp_path).state
    plain = Recording("plain", lambda: nn.LayerNorm(3), [Input("x", (2, 3))], keep=["bias"])
    record(plain, {}, "paper", folder=tmp_path)
    assert load_case("plain", tmp_path).state.keys() == {"weight"}


def test_a_case_is_not_overwritten(tmp_path):
    what = Recording("mine", lambda: nn.LayerNorm(3), [Input("x", (2, 3))])
    record(what, {}, "paper", folder=tmp_path)
    with pytest.raises(FileExistsError, match="remove it to record it anew"):
        record(what, {}, "paper", folder=tmp_path)


def test_training_mode_is_stated_in_the_row():
    what = Recording("mine", nn.BatchNorm2d, [], {"num_features": 3}, train=True)
    row = 'Row("mine", lambda num_features: Ours(num_features), train=True),'
    assert table_row(what) == row


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--input", "x=2,a"], "argument --input: expected NAME=N,N"),
        (["--input", "x"], "argument --input: expected NAME=N,N"),
        ([], "at least one --input"),
    ],
)
def test_wrong_arguments_are_refused(published, arguments, words, capsys):
    with pytest.raises(SystemExit):
        main(["mine", "--module", f"{published}:Published", *arguments, *STATED])
    assert words in capsys.readouterr().err


def test_wrong_sources_and_modules_are_refused(published, tmp_path):
    stated = ["--input", "x=2,3", "--paper", "p", "--out", str(tmp_path)]
    with pytest.raises(ValueError, match="OWNER/REPOSITORY@COMMIT:PATH"):
        main(["mine", "--module", "torch.nn:Identity", "--source", "somebody", *stated])
    with pytest.raises(ValueError, match="expected MODULE:NAME"):
        main(["mine", "--module", "torch.nn", "--source", "a/b@c:d", *stated])
    with pytest.raises(ValueError, match="no Python file"):
        main(["mine", "--module", "absent.py:Identity", "--source", "a/b@c:d", *stated])

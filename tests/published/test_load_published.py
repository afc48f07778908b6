"""Loading is strict, whole or not at all, and says what is wrong."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import foveate


class Renaming(nn.Linear):
    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"weight": state.pop("w"), "bias": state.pop("b").reshape(2)}


def _state() -> dict[str, Tensor]:
    return {"weight": torch.randn(2, 3), "bias": torch.randn(2)}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": _state(), "state_dict_ema": state},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
    ids=["plain", "model", "averaged", "data_parallel"],
)
def test_loads_and_returns_the_module(wrap) -> None:
    module, state = nn.Linear(3, 2), _state()
    assert foveate.load_published(module, wrap(state)) is module
    assert torch.equal(module.weight, state["weight"])
    assert torch.equal(module.bias, state["bias"])


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_reads_files(tmp_path: Path, name: str) -> None:
    state, path = _state(), tmp_path / name
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state}, path)
    assert torch.equal(foveate.load_published(nn.Linear(3, 2), path).bias, state["bias"])


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_refuses_files_that_are_not_weights(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    torch.save({"state_dict": _state(), "hook": Path("x")}, path)
    with pytest.raises(ValueError, match=name) as error:
        foveate.load_published(nn.Linear(3, 2), path)
    assert len(str(error.value).splitlines()) <= 10
    assert path.suffix == ".safetensors" or "safe_globals([pathlib." in str(error.value)
    with pytest.raises(FileNotFoundError):
        foveate.load_published(nn.Linear(3, 2), tmp_path / "absent.pth")


def test_converts_through_the_module_and_leaves_the_state_alone() -> None:
    state = {"w": torch.randn(2, 3), "b": torch.randn(2, 1)}
    module = foveate.load_published(Renaming(3, 2), state)
    assert torch.equal(module.weight, state["w"])
    assert list(state) == ["w", "b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, r"missing: 'bias' \(2,\)"),
        ({"bias": None, "biass": torch.zeros(2)}, "'bias' .*did you mean 'biass'"),
        ({"extra.bias": torch.zeros(7)}, r"left over: 'extra.bias' \(7,\); did you mean 'bias'"),
        ({"weight": torch.zeros(3, 2)}, r"'weight' \(3, 2\) where the module has \(2, 3\)"),
        ({"bias": torch.zeros(2).int()}, "'bias' torch.int32 where the module has torch.float32"),
    ],
)
def test_refuses_what_does_not_fit_and_changes_nothing(change: dict, message: str) -> None:
    module = nn.Linear(3, 2)
    before = copy.deepcopy(module.state_dict())
    state = {key: value for key, value in (_state() | change).items() if value is not None}
    with pytest.raises(ValueError, match=message):
        foveate.load_published(module, state)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"w": torch.zeros(2, 3)}, "missing 'b'"),
        ({"w": torch.zeros(2, 3), "b": torch.zeros(5)}, "unexpected shape"),
    ],
)
def test_names_what_a_conversion_lacks(state: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        foveate.load_published(Renaming(3, 2), state)


def test_refuses_wrong_containers() -> None:
    module = nn.Linear(3, 2)
    with pytest.raises(TypeError, match=r"state_dict\(\)"):
        foveate.load_published(module, nn.Linear(3, 2))
    with pytest.raises(TypeError, match="got list"):
        foveate.load_published(module, [torch.zeros(2)])
    with pytest.raises(TypeError, match=r"'bias' must be a torch\.Tensor, got ndarray"):
        foveate.load_published(module, {"bias": torch.zeros(2).numpy()})
    with pytest.raises(TypeError, match="Module to load into, got dict"):
        foveate.load_published({}, {})


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it is empty"),
        (b"hello", "it is no PyTorch file"),
        (b"<!DOCTYPE html>", "it is a page"),
        (b'{"a": 1}', "it is a text"),
        (b"version https://git-lfs.github.com/spec/v1", "a pointer of git-lfs"),
        (b"PK\x03\x04abc", "it is an archive"),
        (b"\x80\x02abc", "it is a pickle, but cut off"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_told_by_what_it_is(tmp_path, content, what):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"cannot be read as weights: .*{what}") as info:
        foveate.load_published(foveate.create_attention("cbam", 64), path)
    assert "weights_only" not in str(info.value)


def test_weights_that_are_not_finite_are_said():
    module = foveate.create_attention("cbam", 64)
    state = module.state_dict()
    state["spatial.bn.weight"] = state["spatial.bn.weight"] * float("nan")
    with pytest.warns(UserWarning, match=r"not finite .*'spatial.bn.weight'"):
        foveate.load_published(module, state)


def test_the_advice_is_what_would_help():
    module = foveate.create_attention("cbam", 64)
    within = {f"blocks.0.attn.{key}": value for key, value in module.state_dict().items()}
    with pytest.raises(ValueError, match=r"all names begin with 'blocks\.0\.attn\.'"):
        foveate.load_published(module, within)
    with pytest.raises(ValueError, match="there is no entry"):
        foveate.load_published(module, {})
    changed = timm.create_model("resnet18")
    state = dict(changed.state_dict())
    foveate.insert(changed, "cbam")
    with pytest.raises(ValueError, match="load these weights before insert"):
        foveate.load_published(changed, state)


def test_numbers_that_overflow_in_the_module_are_said():
    state = foveate.create_attention("cbam", 16).state_dict()
    state = {key: v * 1e6 if v.is_floating_point() else v for key, v in state.items()}
    with pytest.warns(UserWarning, match="not finite"):
        foveate.load_published(foveate.create_attention("cbam", 16).half(), state)


def test_a_file_whose_bytes_have_changed_is_said(tmp_path):
    module = foveate.create_attention("cbam", 64)
    path = tmp_path / "w.pt"
    torch.save(module.state_dict(), path)
    whole = bytearray(path.read_bytes())
    place = whole.find(module.channel.fc1.weight.detach().numpy().tobytes()[:16])
    whole[place + 2] ^= 1
    path.write_bytes(whole)
    with pytest.warns(UserWarning, match="may be damaged"):
        foveate.load_published(module, path)


def _sparse() -> nn.Module:
    module = nn.Linear(4, 4)
    module.weight = nn.Parameter(module.weight.detach().to_sparse())
    return module


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: nn.Linear(4, 4, device="meta"), r"^weight is on the meta device"),
        (lambda: nn.LazyLinear(4), r"^weight has no shape yet: call the module once"),
        (_sparse, r"^weight is sparse"),
    ],
)
def test_a_module_that_cannot_take_numbers_is_refused(module, message):
    with pytest.raises(ValueError, match=message):
        foveate.load_published(module(), nn.Linear(4, 4).state_dict())


def test_sparse_weights_and_paths_that_are_none_are_refused():
    module = nn.Linear(4, 4)
    state = {**module.state_dict(), "weight": module.weight.detach().to_sparse()}
    with pytest.raises(TypeError, match=r"'weight' is sparse; pass its to_dense\(\)"):
        foveate.load_published(module, state)
    for name in ("a\0b", "a\0b.safetensors"):
        with pytest.raises(ValueError, match="NUL byte"):
            foveate.load_published(module, name)


def test_float8_is_filled():
    module = nn.Linear(4, 4)
    module.weight = nn.Parameter(module.weight.detach().to(torch.float8_e4m3fn), False)
    state = nn.Linear(4, 4).state_dict()
    foveate.load_published(module, state)
    torch.testing.assert_close(module.weight.float(), state["weight"], rtol=0.1, atol=0.01)

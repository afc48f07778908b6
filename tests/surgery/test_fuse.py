"""Fusing: every module once, as each library calls it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import foveate
from foveate.attention.local.slide import SlideAttention


class _Counts(nn.Module):
    def __init__(self, method: str) -> None:
        super().__init__()
        self.calls = 0
        setattr(self, method, self._count)

    def _count(self) -> None:
        self.calls += 1


class _Replaced(nn.Module):
    def fuse(self) -> nn.Module:
        return nn.Sequential(nn.Identity(), SlideAttention(8, 2))


class _Both(_Counts):
    def switch_to_deploy(self) -> None:
        raise AssertionError("fuse comes first")


def test_fuse_reaches_every_module_once():
    shared = _Counts("reparameterize")
    parts = [_Both("fuse"), shared, nn.Sequential(shared, _Counts("switch_to_deploy"))]
    model = nn.Sequential(*parts, _Replaced())
    assert foveate.fuse(model) is model
    assert [parts[0].calls, shared.calls, parts[2][1].calls] == [1, 1, 1]
    assert model[3][1].fused


def test_fuse_follows_timm():
    import timm

    model = timm.create_model("repvit_m0_9", num_classes=3).eval()
    x = torch.randn(1, 3, 64, 64)
    expected, before = model(x), sum(1 for _ in model.modules())
    fused = foveate.fuse(model)
    assert sum(1 for _ in fused.modules()) < before
    torch.testing.assert_close(fused(x), expected, rtol=1e-3, atol=1e-4)


def test_fuse_takes_modules_only():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module to fuse, got str"):
        foveate.fuse("model")


def test_what_stands_between_the_parts_of_a_module_is_not_merged_away():
    import timm

    model = timm.create_model("mobileone_s0", num_classes=3).eval()
    x = torch.randn(2, 3, 64, 64)
    foveate.insert(model, "efficient_channel", where="stages.0.*", example=x)
    for parameter in foveate.added(model):
        parameter.data.fill_(0.5)
    with torch.no_grad():
        expected, before = model(x), sum(1 for _ in model.modules())
        with pytest.warns(UserWarning, match=r"^stages\.0\.1 and 2 more keep"):
            foveate.fuse(model)
        torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-4)
    assert sum(1 for _ in model.modules()) < before

"""CBAM against timm's."""

from __future__ import annotations

import torch
from timm.layers.cbam import CbamModule

import foveate
from foveate.attention.gates.cbam import CBAM


def test_equals_timm() -> None:
    theirs = CbamModule(32)
    ours, x = CBAM(32, bias=False), torch.randn(2, 32, 7, 5)
    foveate.load_published(ours, theirs.state_dict())
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))

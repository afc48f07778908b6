"""What the published names of the blocks become, and what ``spec`` refuses."""

from __future__ import annotations

import pytest
import torch

from foveate.models.dat import dat_tiny
from tests.models.small import SMALL


def dat(**kwargs):
    return dat_tiny(**{**SMALL["dat_tiny"], **kwargs})


def test_attention_in_windows_and_at_points_name_their_last_projection_differently():
    attns = {f"stages.1.attns.{block}.proj_out.bias": torch.zeros(32) for block in (0, 1)}
    converted = dat(spec=("ND", "LD", "D", "D")).convert_published(attns)
    assert sorted(converted) == [
        "stages.1.blocks.0.attention.proj.bias",
        "stages.1.blocks.1.attention.proj_out.bias",
    ]


def test_every_block_needs_a_letter():
    with pytest.raises(ValueError, match="stage 1 has depths=2 and spec='N'"):
        dat(spec=("ND", "N", "D", "D"))
    with pytest.raises(ValueError, match="unknown letter of spec 'X'; known: D, L, N, S"):
        dat(spec=("ND", "XD", "D", "D"))

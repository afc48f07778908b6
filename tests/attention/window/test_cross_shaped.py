"""Cross-shaped attention: its local enhancement, and its last stage."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import foveate
from foveate.attention.window.cross_shaped import CrossShapedAttention


def _module() -> CrossShapedAttention:
    torch.manual_seed(0)
    module = CrossShapedAttention(16, 2, 3).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


def test_cross_shaped_positions_stay_inside_the_stripe():
    m, x = _module(), torch.randn(1, 16, 6, 6)
    v = m._project(x)[2].clone()
    local = m._local(v)
    v[:, :, 3:] += 1  # the other upright stripe
    changed = (m._local(v) - local)[0, :, :3].abs().amax((0, 1))
    assert not changed[:8].any()
    assert changed[8:].all()


def test_cross_shaped_loads_the_single_branch_of_the_last_stage():
    m, x = _module(), torch.randn(1, 16, 3, 2)
    state = {k: v for k, v in m.state_dict().items() if not k.startswith("lepe")}
    whole = nn.Conv2d(16, 16, 3, 1, 1, groups=16)
    state |= {f"attns.0.get_v.{key}": value for key, value in whole.state_dict().items()}
    foveate.load_published(m, state)
    q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in m._project(x))
    y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
    y = y.unflatten(1, (3, 2)) + whole(
        v.transpose(1, 2).flatten(-2).mT.unflatten(2, (3, 2))
    ).permute(0, 2, 3, 1)
    torch.testing.assert_close(m(x), m.proj(y).permute(0, 3, 1, 2))


def test_cross_shaped_refuses_an_odd_number_of_heads():
    with pytest.raises(ValueError, match="must be even"):
        CrossShapedAttention(12, 3)

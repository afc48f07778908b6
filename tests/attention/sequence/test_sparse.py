"""Sparse attention: its patterns, and that only they are visited."""

from __future__ import annotations

import pytest
import torch

from foveate.attention.sequence.sparse import SparseAttention


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tokens", [1, 5, 16, 21])
@pytest.mark.parametrize(
    ("pattern", "options"),
    [
        ("all", {}),
        ("local", {}),
        ("strided", {}),
        (("local", "strided"), {}),
        ("fixed", {"num_verts": 2}),
        (("fixed", "local"), {"block_size": 2, "num_verts": 2}),
    ],
)
def test_visiting_the_pattern_is_masking_the_rest(
    pattern: str, options: dict, tokens: int, causal: bool
) -> None:
    module = SparseAttention(16, 4, pattern, 4, causal=causal, **options).eval()
    x = torch.randn(2, tokens, 16)
    torch.testing.assert_close(module.apply_weights(x, module.weights(x)), module(x))


def test_two_steps_reach_everything() -> None:
    local, strided = SparseAttention(16, 2, ("local", "strided"), 4, causal=False).mask(16)
    assert (local.float() @ strided.float() > 0).all()


def test_fixed_patterns_need_blocks_that_fit() -> None:
    with pytest.raises(ValueError, match="multiple of block_size"):
        SparseAttention(16, 2, "fixed", 8, block_size=3)
    with pytest.raises(ValueError, match="do not fit"):
        SparseAttention(16, 2, "fixed", 8, block_size=4, num_verts=3)
    with pytest.raises(ValueError, match="unknown pattern 'stride'; did you mean 'strided'"):
        SparseAttention(16, 2, "stride")

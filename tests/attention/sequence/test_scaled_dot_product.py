"""Scaled dot-product attention: heads, groups and masks."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from foveate.attention.sequence.scaled_dot_product import (
    ScaledDotProductAligner,
    scaled_dot_product,
)


@pytest.mark.parametrize("causal", [False, True])
def test_grouped_queries_are_torchs(causal: bool) -> None:
    q, k, v = torch.randn(2, 6, 5, 8), torch.randn(2, 3, 7, 8), torch.randn(2, 3, 7, 4)
    ours, weights = scaled_dot_product(q, k, v, causal=causal)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 6, 5))


def test_causal_alignment_ignores_what_follows() -> None:
    module = ScaledDotProductAligner(8, causal=True)
    query, memory = torch.randn(2, 4, 8), torch.randn(2, 6, 8)
    context, weights = module(query, memory)
    assert not weights.triu(1).any()
    torch.testing.assert_close(context[:, :2], module(query[:, :2], memory[:, :2])[0])


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((2, 4, 5, 8), (2, 3, 5, 8), (2, 3, 5, 8)), "must divide those of the query"),
        (((2, 4, 5, 8), (2, 4, 5, 6), (2, 4, 5, 6)), "agree in batch and channels"),
        (((2, 4, 5, 8), (2, 4, 5, 8), (2, 4, 6, 8)), "agree in batch, heads and length"),
        (((2, 5, 8), (2, 4, 5, 8), (2, 4, 5, 8)), r"query must be \(B, heads, length, channels\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scaled_dot_product(*(torch.randn(shape) for shape in shapes))

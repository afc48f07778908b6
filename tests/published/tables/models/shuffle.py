"""Shuffle Transformer, in training mode: drawn weights make it overflow in evaluation."""

from __future__ import annotations

from functools import partial
from typing import Any

from foveate.models.shuffle import ShuffleTransformer
from tests.published.golden import Row
from tests.published.pyramids import means_and_corners


def _shuffle(
    num_heads: list[int],
    layers: list[int],
    qkv_bias: bool = False,
    relative_pos_embedding: bool = True,
    token_dim: int = 32,
    embed_dim: int = 96,
    **options: Any,
) -> ShuffleTransformer:
    return ShuffleTransformer(
        stem_dim=token_dim,
        dims=[32 * heads for heads in num_heads],
        depths=layers,
        num_heads=num_heads,
        local_bias=qkv_bias,
        rel_pos_bias=relative_pos_embedding,
        **options,
    )


ROWS = [Row("shuffle_t", _shuffle, partial(means_and_corners, corner="corner"), train=True)]

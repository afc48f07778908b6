"""Scaled dot-product attention that gives its weights back; heads may share keys and values."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.attention._softmax import masked_softmax, wide_product
from foveate.ops._dropout import dropout


def scaled_dot_product(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Attention with its weights.

    Args:
        query: ``(B, h, T, D)``.
        key: ``(B, g, S, D)``; ``g`` divides ``h``, and query head i takes head ``i // (h / g)``.
        value: ``(B, g, S, E)``.
        mask: broadcastable to ``(B, h, T, S)``; boolean: True where attention may go; floating:
            added to the scaled products.
        causal: whether query i sees keys 0 to i only.
        scale: factor of the products; ``D**-0.5`` by default.
        dropout_p: dropout of the weights that make the output.

    Returns:
        The output ``(B, h, T, E)``, and the weights ``(B, h, T, S)`` before dropout.

    Raises:
        ValueError: if heads, channels or lengths do not fit together.
    """
    _check(query, key, value)
    queries, keys = query.shape[2], key.shape[2]
    grouped = query.unflatten(1, (key.shape[1], -1))  # (B, g, h / g, T, D)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    logits = wide_product(factor * grouped, key[:, :, None].mT)  # (B, g, h / g, T, S)
    logits = logits.flatten(1, 2)
    allowed = None
    if mask is not None and mask.dtype is torch.bool:
        allowed = mask
    elif mask is not None:
        logits = logits + mask
    if causal:
        rows = torch.arange(queries, device=query.device)
        past = rows[:, None] >= torch.arange(keys, device=query.device)
        allowed = past if allowed is None else allowed & past
    weights = masked_softmax(logits, allowed).to(value.dtype)
    dropped = dropout(weights, dropout_p).unflatten(1, (key.shape[1], -1))
    return (dropped @ value[:, :, None]).flatten(1, 2), weights


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.dim() != 4:
            raise ValueError(f"{name} must be (B, heads, length, channels), got {tuple(x.shape)}")
    shapes = f"query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if key.shape[:3] != value.shape[:3]:
        raise ValueError(f"key and value must agree in batch, heads and length: {shapes}")
    if query.shape[0] != key.shape[0] or query.shape[3] != key.shape[3]:
        raise ValueError(f"query and key must agree in batch and channels: {shapes}")
    if query.shape[1] % key.shape[1]:
        raise ValueError(f"heads of key and value must divide those of the query: {shapes}")

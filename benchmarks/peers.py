"""What else computes local attention: each a function of q, k, v ``(B, H, W, heads, D)``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Maps = Sequence[Tensor]  # q, k, v: (B, H, W, heads, D)


def by_unfold(q: Tensor, k: Tensor, v: Tensor, kernel: int) -> Tensor:
    """im2col: every query's keys and values side by side in memory; zero padding."""
    batch, height, width, heads, dim = q.shape

    def windows(x: Tensor) -> Tensor:
        x = x.flatten(3).permute(0, 3, 1, 2)
        x = F.unfold(x, kernel, padding=kernel // 2)
        return x.view(batch, heads, dim, kernel * kernel, height * width)

    query = q.flatten(3).permute(0, 3, 1, 2).reshape(batch, heads, dim, 1, height * width)
    logits = (query * dim**-0.5 * windows(k)).sum(2)  # (B, h, k*k, N)
    out = (logits.softmax(2).unsqueeze(2) * windows(v)).sum(3)
    return out.view(batch, heads, dim, height, width).permute(0, 3, 4, 1, 2)


def by_flex(height: int, width: int, kernel: int) -> Callable[..., Tensor]:
    """Compiled FlexAttention whose block mask is the neighbourhood."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    half = kernel // 2

    def near(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        row = (query // width).clamp(half, height - 1 - half)
        column = (query % width).clamp(half, width - 1 - half)
        return ((row - key // width).abs() <= half) & ((column - key % width).abs() <= half)

    mask = create_block_mask(near, None, None, height * width, height * width, device="cpu")
    compiled = torch.compile(flex_attention, dynamic=False)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
        return compiled(q, k, v, block_mask=mask)

    return attend


def by_windows(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Swin's window attention through SDPA: each query sees its window, wherever it stands."""
    batch, height, width, heads, dim = q.shape

    def partition(x: Tensor) -> Tensor:
        x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window)).permute(0, 1, 3, 5, 2, 4, 6)
        return x.reshape(-1, heads, window * window, dim)

    out = F.scaled_dot_product_attention(*(partition(x) for x in (q, k, v)))
    out = out.view(batch, height // window, width // window, heads, window, window, dim)
    return out.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, heads, dim)


def by_biased_windows(q: Tensor, k: Tensor, v: Tensor, shift: int, bias: Tensor) -> Tensor:
    """Swin's shifted windows with a bias, its own steps: roll, cut, mask, SDPA, and back."""
    batch, height, width, heads, dim = q.shape
    side = math.isqrt(bias.shape[-1])
    region = torch.zeros(height, width)
    for i in (side, shift):
        region[-i:] += 3
        region[:, -i:] += 1
    region = region.unflatten(1, (-1, side)).unflatten(0, (-1, side)).transpose(1, 2).flatten(0, 1)
    region = region.flatten(1)  # (windows, cells)
    mask = torch.where(region[:, None] == region[:, :, None], 0.0, -100.0)
    mask = (bias + mask[:, None]).repeat(batch, 1, 1, 1)

    def cut(x: Tensor) -> Tensor:
        x = x.roll((-shift, -shift), (1, 2))
        x = x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).permute(0, 1, 3, 5, 2, 4, 6)
        return x.reshape(-1, heads, side * side, dim)

    out = F.scaled_dot_product_attention(cut(q), cut(k), cut(v), mask)
    out = out.view(batch, height // side, width // side, heads, side, side, dim)
    out = out.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, heads, dim)
    return out.roll((shift, shift), (1, 2))


def by_full_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every query sees the whole map, through SDPA."""
    batch, height, width, heads, dim = q.shape
    tokens = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(*tokens).transpose(1, 2)
    return out.reshape(batch, height, width, heads, dim)


def by_natten(q: Tensor, k: Tensor, v: Tensor, kernel: int) -> Tensor:
    """NATTEN's own fused operator; only where it is installed."""
    from natten import na2d  # pyrefly: ignore[missing-import]

    return na2d(*(x.contiguous() for x in (q, k, v)), kernel_size=kernel)


def slide_weights(heads: int, dim: int, kernel: int) -> list[Tensor]:
    """The fused slide operator's depthwise kernels and biases, for keys and for values."""
    slots = kernel * kernel
    weight = torch.eye(slots).unsqueeze(-1).repeat(1, 1, dim)
    return [
        x
        for _ in range(2)
        for x in (weight + 0.1 * torch.randn_like(weight), 0.1 * torch.randn(heads, slots, dim))
    ]


def by_depthwise(q: Tensor, k: Tensor, v: Tensor, weights: list[Tensor], kernel: int) -> Tensor:
    """Slide attention in its published form: depthwise convolutions make all shifted maps."""
    batch, height, width, heads, dim = q.shape
    slots = kernel * kernel

    def shifted(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x.permute(0, 3, 4, 1, 2).reshape(batch * heads, dim, height, width)
        filters = weight.permute(2, 0, 1).reshape(dim * slots, 1, kernel, kernel)
        x = F.conv2d(x, filters, padding=kernel // 2, groups=dim)
        x = x.view(batch, heads, dim, slots, height, width)
        return x + bias.transpose(1, 2)[:, :, :, None, None]

    query = q.permute(0, 3, 4, 1, 2).unsqueeze(3) * dim**-0.5
    logits = (query * shifted(k, *weights[:2])).sum(2, keepdim=True)
    out = (logits.softmax(3) * shifted(v, *weights[2:])).sum(3)
    return out.permute(0, 3, 4, 1, 2)

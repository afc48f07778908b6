"""Window attention in the form that is exported: few large steps that every runtime does fast.

Equals ``reference.py``. One gather of rows brings queries, keys or values into windows and heads,
and one the output back: padding, shift, partition and the order of heads are a matter of the
gathers' index, which hangs on the map's size alone; with a fixed size it is a constant.

Where cells of a window do not all see each other, the softmax is written out and no weight falls
below ``exp(-80)``: those of masked keys would be denormal numbers, with which ONNX Runtime's
softmax takes ten times as long. In float32 sums neither counts.

Legend: B batch, H x W map, h heads, D channels of a head; n windows of T cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.ops.window._arguments import Arguments
from foveate.ops.window.windows import Windows

_LEAST = -80.0


def window_attention(a: Arguments) -> Tensor:
    """Output ``(B, H, W, h, Dv)`` of checked arguments, without dropout."""
    _, height, width, heads, _ = a.q.shape
    (rows, columns), (down, across) = a.window_size, a.shift_size
    windows = Windows((height, width), (rows, columns), (down, across), a.spread)
    index = _of_heads(windows, heads, a.q.device)  # (n, h, T)
    q, k, v = (_rows(x, index) for x in (a.q, a.k, a.v))  # (B, n, h, T, D)
    together = windows.together(a.q.device)  # (n, T, T)
    if together is None:  # runtimes fuse this, with four axes alone
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))

    logits = (q * a.scale) @ k.mT  # (..., h, T, T)
    if logits.dtype is not torch.float64:
        logits = logits.float()
    if together is None:
        if a.bias is not None:
            logits = logits + a.bias.to(logits.dtype)
        out = logits.softmax(-1).to(v.dtype) @ v
        out = out.unflatten(0, (-1, windows.count))
    else:
        never = torch.finfo(a.q.dtype).min / 2
        added = torch.where(together, 0.0, never)[:, None].to(logits.dtype)  # (n, 1, T, T)
        logits = logits + (added if a.bias is None else added + a.bias.to(logits.dtype))
        top = logits.amax(-1, keepdim=True)
        weights = (logits - top).clamp(min=_LEAST).exp()
        out = weights.to(v.dtype) @ v / weights.sum(-1, keepdim=True).to(v.dtype)
    back = _places_in_windows(windows, heads, a.q.device)  # (H, W, h)
    out = out.flatten(1, 3).index_select(1, back.flatten())
    return out.unflatten(1, back.shape)


def _of_heads(windows: Windows, heads: int, device: torch.device) -> Tensor:
    """``(n, h, T)``: which row of the map's heads each window's cell is; padding is some row."""
    height, width = windows.map
    places = torch.arange(height * width, device=device).view(1, height, width, 1)
    places = windows.split(places)[0, :, None, :, 0]  # (n, 1, T)
    return places * heads + torch.arange(heads, device=device)[:, None]


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """``(B, H, W, h, D)`` by rows of ``(n, h, T)``: ``(B, n, h, T, D)``."""
    x = x.clone(memory_format=torch.contiguous_format).flatten(1, 3)
    return x.index_select(1, index.flatten()).unflatten(1, index.shape)


def _places_in_windows(windows: Windows, heads: int, device: torch.device) -> Tensor:
    """``(H, W, h)``: where each cell's result lies among ``(n, h, T)``."""
    count, cells = windows.count, windows.size[0] * windows.size[1]
    number = torch.arange(count, device=device)[:, None, None] * heads
    number = number + torch.arange(heads, device=device)  # (n, 1, h)
    places = number * cells + torch.arange(cells, device=device)[:, None]  # (n, T, h)
    return windows.merge(places[None])[0]

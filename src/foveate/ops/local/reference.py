"""Local attention as it is defined, one query at a time: slow, plain, what the bodies must equal.

A query at position p attends to its window W(p), a set of positions p'; with logits

    l(p, p') = scale * q(p) . k(p') + bias(p, p')

the output and the log-sum-exp are

    out(p) = sum over p' in W(p) of exp(l(p, p')) v(p') / sum over p' in W(p) of exp(l(p, p'))
    lse(p) = log sum over p' in W(p) of exp(l(p, p'))

Along each axis W(p) has ``k`` positions, ``d`` apart, from ``p - (k // 2) * d`` on; the border says
what becomes of those outside the map.
"""

from __future__ import annotations

import torch
from torch import Tensor


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int] = (1, 1),
    bias: Tensor | None = None,
    scale: float | None = None,
    border: str = "shift",
    key_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp in float64, differentiable; arguments as for the public function."""
    q, k, v = q.double(), k.double(), v.double()
    batch, height, width, heads, dim = q.shape
    scale = dim**-0.5 if scale is None else scale
    kh, kw = kernel_size
    outs, lses = [], []
    for y in range(height):
        for x in range(width):
            keys, values, biases, allowed = [], [], [], []
            for i, ky in enumerate(_window(y, height, kh, dilation[0], border)):
                for j, kx in enumerate(_window(x, width, kw, dilation[1], border)):
                    inside = 0 <= ky < height and 0 <= kx < width
                    ry, rx = ky, kx
                    if border == "reflect":
                        ry, rx, inside = _reflected(ky, height), _reflected(kx, width), True
                    if not inside and border == "mask":
                        continue
                    keys.append(k[:, ry, rx] if inside else k.new_zeros(batch, heads, dim))
                    values.append(v[:, ry, rx] if inside else v.new_zeros(batch, heads, v.shape[4]))
                    if key_mask is None or not inside:
                        allowed.append(torch.ones(batch, dtype=torch.bool))
                    else:
                        allowed.append(key_mask[:, ry, rx])
                    if bias is not None and bias.dim() == 3:
                        dy, dx = (ky - y) // dilation[0], (kx - x) // dilation[1]
                        biases.append(bias[:, dy + kh - 1, dx + kw - 1].double().expand(batch, -1))
                    elif bias is not None:
                        biases.append(bias[:, y, x, :, i, j].double())
            logits = torch.einsum("bhd,nbhd->bhn", q[:, y, x], torch.stack(keys)) * scale
            if bias is not None:
                logits = logits + torch.stack(biases, -1)
            visible = torch.stack(allowed, -1)[:, None]  # (B, 1, n)
            logits = logits.masked_fill(~visible, float("-inf"))
            blind = ~visible.any(-1, keepdim=True)
            weights = logits.masked_fill(blind, 0).softmax(-1).masked_fill(blind, 0)
            outs.append(torch.einsum("bhn,nbhd->bhd", weights, torch.stack(values)))
            lses.append(logits.logsumexp(-1))
    out = torch.stack(outs, 1).unflatten(1, (height, width))
    return out, torch.stack(lses, 1).unflatten(1, (height, width))


def _window(position: int, length: int, kernel: int, dilation: int, border: str) -> list[int]:
    """The positions of a query's window; outside the map: negative or >= length."""
    first = position - kernel // 2 * dilation
    if border == "shift":
        while first < 0:
            first += dilation
        while first + (kernel - 1) * dilation >= length:
            first -= dilation
    return [first + i * dilation for i in range(kernel)]


def _reflected(position: int, length: int) -> int:
    """Where a mirrored position comes from."""
    if position < 0:
        return -position
    return 2 * (length - 1) - position if position >= length else position

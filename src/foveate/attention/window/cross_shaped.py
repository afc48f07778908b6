"""Cross-shaped window attention: half of the heads attend in upright stripes, half in level ones.

    y = [upright(q_1, k_1, v_1), level(q_2, k_2, v_2)] W,
    stripe(q, k, v) = softmax(q k^T / sqrt(D)) v + LePE(v)

The stripes are s cells wide and as long as the map. LePE, the locally enhanced positional encoding,
is a depthwise 3x3 convolution of the values inside each stripe.

Shapes: x (B, C, H, W), stripes of T = H * s or W * s cells, heads h of D = C / h channels.
Cost: ``4 H W C^2 + H W (H + W) s C + 9 H W C`` multiply-adds; H and W rounded up to multiples of s
where they are cut.

Paper: Dong et al., "CSWin Transformer", CVPR 2022, arXiv:2107.00652.
Published code: microsoft/CSWin-Transformer@f111ae2 ``CSWinBlock`` with its ``LePEAttention``.
The last stage's block attends to the whole map in one branch there; its weights load as well, for
two branches that see everything are one (``split_size`` None). Stripes must
divide the map there; here the rest is padded, and the padding is not attended.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate import layout, ops
from foveate.arguments import check_map, head_dim, positive, probability, query_scale
from foveate.attention._dropout import Dropout
from foveate.attention.window._inside import (
    WindowSize,
    apply_dense,
    cut_into,
    dense,
    one_hot_values,
)
from foveate.contracts import Mixer
from foveate.registry import register


@register(
    "cross_shaped",
    family="window",
    title="Cross-shaped window attention with local positions in the values (CSWin)",
    paper="Dong et al., CSWin Transformer, CVPR 2022, arXiv:2107.00652",
    source="microsoft/CSWin-Transformer@f111ae2f771df32006e7afd7916835dd67d4cb9d",
    license="MIT",
    tags=("weights", "self", "heads", "published"),
    parity="Maps that stripes do not divide, refused there, are padded and the padding masked.",
)
class CrossShapedAttention(Mixer):
    """Self-attention inside upright and level stripes.

    Args:
        dim: channels C, even.
        num_heads: heads of both branches together, even; must divide ``dim``.
        split_size: width of a stripe; None for stripes that cover the map.
        qkv_bias: whether q, k, v projections have a bias.
        qk_scale: factor of the products of queries and keys; ``head_dim**-0.5`` by default.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        split_size: int | None = 7,
        *,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim(dim, num_heads)
        self.scale = query_scale(self.head_dim, qk_scale)
        if num_heads % 2:
            raise ValueError(
                f"num_heads must be even, half for each kind of stripe; got {num_heads}"
            )
        self.split_size = None if split_size is None else positive(split_size, "split_size")
        self.attn_drop = probability(attn_drop, "attn_drop")
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        half = dim // 2
        self.lepe = nn.ModuleList(nn.Conv2d(half, half, 3, 1, 1, groups=half) for _ in range(2))
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._project(x)
        y = self._attend(q, k, v, self.attn_drop if self.training else 0.0)
        return self._finish(layout.merge_heads(y) + self._local(v), x)

    def weights(self, x: Tensor) -> Tensor:
        """``(B, h, H*W, H*W)``: the heads of the upright stripes, then those of the level ones."""
        q, k, _ = self._project(x)
        return dense(self._attend(q, k, one_hot_values(q)))

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        v = self._project(x)[2]
        return self._finish(apply_dense(weights, v) + self._local(v), x)

    def multiply_adds(self, height: int, width: int) -> int:
        cost = 4 * height * width * self.dim**2
        for part in self._stripes:
            parts = cut_into((height, width), part)
            cost += parts.pairs * self.dim  # two products, half of C
            cost += 9 * math.prod(parts.padded) * self.dim // 2
        return cost

    @property
    def _stripes(self) -> tuple[WindowSize, WindowSize]:
        return (None, self.split_size), (self.split_size, None)

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        check_map(x, self.dim)
        qkv = self.qkv(layout.to_channels_last(x))
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        return q, k, v  # (B, H, W, h, D)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
        halves = zip(*(t.chunk(2, 3) for t in (q, k, v)), strict=True)
        y = [
            ops.window_attention(*half, stripe, scale=self.scale, dropout_p=dropout_p)
            for half, stripe in zip(halves, self._stripes, strict=True)
        ]
        return torch.cat(y, 3)

    def _local(self, v: Tensor) -> Tensor:
        """LePE: what the values' neighbours in the stripe add, ``(B, H, W, C)``."""
        compiled = torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting()
        inside = _by_shifts if compiled else _by_stripes
        halves = zip(v.chunk(2, 3), self._stripes, self.lepe, strict=True)
        return torch.cat([inside(layout.merge_heads(half), *other) for half, *other in halves], 3)

    def _finish(self, y: Tensor, x: Tensor) -> Tensor:
        return layout.to_channels_first(self.proj_drop(self.proj(y)), like=x)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the branches' convolutions; a single branch's is split in two."""
        converted = {}
        single = any(k.startswith("attns.0.") for k in state) and not any(
            k.startswith("attns.1.") for k in state
        )
        for key, value in state.items():
            if not key.startswith("attns."):
                converted[key] = value
            elif single:
                leaf = key.rpartition(".")[2]
                first, second = value.chunk(2)
                converted |= {f"lepe.0.{leaf}": first, f"lepe.1.{leaf}": second}
            else:
                converted[key.replace("attns.", "lepe.").replace(".get_v.", ".")] = value
        return converted


def _by_stripes(v: Tensor, stripe: WindowSize, convolution: nn.Module) -> Tensor:
    """A depthwise 3x3 convolution of ``(B, H, W, C)`` inside each stripe, cut out."""
    parts = cut_into((v.shape[1], v.shape[2]), stripe)
    values = parts.split(v)  # (B, n, T, C)
    count = values.shape[1]
    values = values.flatten(0, 1).unflatten(1, parts.size).permute(0, 3, 1, 2)
    values = convolution(values).permute(0, 2, 3, 1).flatten(1, 2)
    return parts.merge(values.unflatten(0, (-1, count)))


def _by_shifts(v: Tensor, stripe: WindowSize, convolution: nn.Module) -> Tensor:
    """The same as a sum of shifted maps, which a compiler makes one loop of.

    The number of stripes, on which it would compile again, is in no shape.
    """
    height, width = v.shape[1:3]
    padded = F.pad(v, (0, 0, 1, 1, 1, 1))
    rows, columns = (
        _same_stripe(length, side, v.device)
        for length, side in zip((height, width), stripe, strict=True)
    )
    y = convolution.bias.expand_as(v)
    for i in range(3):
        for j in range(3):
            tap = convolution.weight[:, 0, i, j] * padded[:, i : i + height, j : j + width]
            y = y + torch.where((rows[i][:, None] & columns[j])[..., None], tap, 0)
    return y


def _same_stripe(length: int, side: int | None, device: torch.device) -> Tensor:
    """``(3, length)``: whether the place before, this one and the next are in its stripe."""
    places = torch.arange(length, device=device)
    if side is None:
        return torch.ones_like(places, dtype=torch.bool).expand(3, -1)
    moved = places + torch.arange(-1, 2, device=device)[:, None]
    return moved.div(side, rounding_mode="floor") == places.div(side, rounding_mode="floor")

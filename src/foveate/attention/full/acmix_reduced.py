"""ACmix on a reduced map: PVT's attention and a convolution from the same projections.

    q = x W_q,   [k, v] = reduce(x) W_kv
    out = alpha softmax(q k^T / sqrt(D)) v W + beta G(q, expand(k), expand(v))

G is a k x k convolution of the maps q, k, v, made of pointwise maps that are shifted and summed
(see ``acmix``). Keys and values are those of the reduced map (see ``spatial_reduction``); for the
convolution, ``expand`` gives every cell those of the reduced cell that it went into.

Shapes: x (B, C, H, W), M = (H / r)(W / r) reduced positions, heads h of D = C / h channels.
Cost: that of ``spatial_reduction`` and ``H W C (3 h + 1) k^2`` multiply-adds.

Paper: Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022,
arXiv:2111.14556, which reports PVT with ACmix. No code of it is public and the paper does not say
how reduced keys and values reach the convolution. ``expand`` is of this library: it projects
nothing a second time, and only so are the paper's multiply-adds met.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate import layout
from foveate.arguments import check_map
from foveate.attention._shifted_convolution import ShiftedConvolution
from foveate.attention.full.spatial_reduction import SpatialReductionAttention
from foveate.registry import register


@register(
    "acmix_reduced",
    family="full",
    title="ACmix on a reduced map: PVT attention and convolution from shared projections",
    paper="Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022, "
    "arXiv:2111.14556",
    tags=("heads",),
    parity="No code is public; how reduced keys and values reach the convolution is ours.",
)
class ACmixReducedAttention(SpatialReductionAttention):
    """A weighted sum of attention to a reduced map and a convolution of its projections.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        sr_ratio: how many times smaller the reduced map is in height and width; 1 keeps it.
        conv_kernel_size: side of the convolution, odd.
        shift: how its pointwise maps are shifted: "learned", "fixed" or "tensor", as in ``acmix``.
        qkv_bias: whether q, k, v projections have a bias.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        sr_ratio: int = 2,
        conv_kernel_size: int = 3,
        *,
        shift: str = "learned",
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(
            dim, num_heads, sr_ratio, qkv_bias=qkv_bias, attn_drop=attn_drop, proj_drop=proj_drop
        )
        self.convolution = ShiftedConvolution(
            num_heads, self.head_dim, conv_kernel_size, 1, shift, bias=True
        )
        self.rate1 = nn.Parameter(torch.full((1,), 0.5))
        self.rate2 = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        q, k, v = self._project(x)
        attended = self.proj(self._attend(q, k, v)).unflatten(1, x.shape[2:])
        maps = torch.cat([q.unflatten(1, x.shape[2:]), self._expand(k, x), self._expand(v, x)], -1)
        convolved = self.convolution(layout.split_heads(maps, 3 * self.num_heads))
        y = self.proj_drop(self.rate1 * attended + self.rate2 * convolved)  # (B, H, W, C)
        return layout.to_channels_first(y, like=x)

    def multiply_adds(self, height: int, width: int) -> int:
        attention = super().multiply_adds(height, width)
        return attention + self.convolution.multiply_adds(height, width)

    def _expand(self, reduced: Tensor, x: Tensor) -> Tensor:
        """``(B, M, C) -> (B, H, W, C)``; what the reduction leaves out has its nearest cell's."""
        if self.sr_ratio == 1:
            return reduced.unflatten(1, x.shape[2:])
        size = self._reduced_size(*x.shape[2:])
        rows, columns = (
            (torch.arange(length, device=x.device) // self.sr_ratio).clamp(max=count - 1)
            for length, count in zip(x.shape[2:], size, strict=True)
        )
        return reduced.unflatten(1, size).index_select(1, rows).index_select(2, columns)

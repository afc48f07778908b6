"""ACmix on SAN: patchwise self-attention and a convolution from the same three projections.

    out = alpha A + beta G

A is SAN's patchwise attention (see ``san_patchwise``), G a k x k convolution of the maps q, k, v,
made of pointwise maps that are shifted and summed (see ``acmix``). Queries and keys have the r
channels of the relation, which are one map each; the values are O / r such maps.

Shapes: x (B, C, H, W), out (B, O, H, W), r channels of the relation, T = k_c^2 shifts.
Cost: that of ``san_patchwise`` and ``H W O (2 + O / r) T`` multiply-adds.

Paper: Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022,
arXiv:2111.14556, which names SAN among its hosts and gives the equations for patchwise attention.
Its authors did not publish this form: how SAN's narrow q and k make maps is this library's reading.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.arguments import check_map
from foveate.attention._shifted_convolution import ShiftedConvolution
from foveate.attention.local.san_patchwise import PatchwiseAttention
from foveate.layout import in_format, memory_format, split_heads, to_channels_last
from foveate.registry import register


@register(
    "acmix_patchwise",
    family="local",
    title="ACmix on SAN: patchwise attention and convolution from shared projections",
    paper="Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022, "
    "arXiv:2111.14556",
    tags=("self", "local", "batch_statistics"),
)
class ACmixPatchwiseAttention(PatchwiseAttention):
    """A weighted sum of patchwise attention and a convolution that share their projections.

    Args:
        dim: channels C.
        kernel_size: side of the attention's window, odd.
        conv_kernel_size: side of the convolution, odd.
        dim_out: channels that come out; ``dim`` by default.
        rel_dim: channels of the relation, a divisor of those that come out; a quarter of ``dim``
            by default.
        share: how many channels share one weight; must divide those that come out.
        dilation: distance of the attention's taps.
        shift: how the pointwise maps are shifted: "learned", "fixed" or "tensor", as in ``acmix``.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 7,
        conv_kernel_size: int = 3,
        *,
        dim_out: int | None = None,
        rel_dim: int | None = None,
        share: int = 8,
        dilation: int = 1,
        shift: str = "learned",
    ) -> None:
        super().__init__(
            dim, kernel_size, dim_out=dim_out, rel_dim=rel_dim, share=share, dilation=dilation
        )
        relation = self.conv1.out_channels
        if self.dim_out % relation:
            raise ValueError(
                f"the channels of the relation must divide those that come out, {self.dim_out}, "
                f"got rel_dim={relation}"
            )
        groups = self.dim_out // relation
        self.convolution = ShiftedConvolution(
            groups, relation, conv_kernel_size, 1, shift, bias=False, maps=2 + groups
        )
        self.rate1 = nn.Parameter(torch.full((1,), 0.5))
        self.rate2 = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        q, k, v = self.conv1(x), self.conv2(x), self.conv3(x)
        maps = split_heads(
            to_channels_last(torch.cat([q, k, v], 1)), self.convolution.fc.in_features
        )
        convolved = self.convolution(maps).permute(0, 3, 1, 2)
        y = self.rate1 * self._attend(q, k, v, like=x) + self.rate2 * convolved
        return in_format(y, memory_format(x))

    def multiply_adds(self, height: int, width: int) -> int:
        attention = super().multiply_adds(height, width)
        return attention + self.convolution.multiply_adds(height, width)

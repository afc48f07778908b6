"""ACmix on windows: Swin's attention and a convolution from the same three projections.

    out = alpha proj(A) + beta G

A is attention inside (shifted) windows, G a k x k convolution of the maps q, k, v, made of
pointwise maps that are shifted and summed (see ``acmix``). G has no projection after it.

Shapes: x (B, C, H, W), windows of T cells, heads h of D = C / h channels.
Cost: ``H W (4 C^2 + C (3 h + 1) k^2) + 2 H' W' T C`` multiply-adds, H' and W' rounded up to whole
windows.

Paper: Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022,
arXiv:2111.14556.
Published code: LeapLabTHU/ACmix@81dddb6 ``WindowAttention_acmix`` (no license; written here from
the paper). As there, the convolution sees the map as the shift rolled it: cells that the roll
brought together are neighbours, those it parted are not. Padding to whole windows takes no part.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate import layout
from foveate.arguments import check_map
from foveate.attention._shifted_convolution import ShiftedConvolution, read_published
from foveate.attention.window.window import WindowAttention
from foveate.registry import register


@register(
    "acmix_window",
    family="window",
    title="ACmix on windows: Swin attention and convolution from shared projections",
    paper="Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022, "
    "arXiv:2111.14556",
    source="LeapLabTHU/ACmix@81dddb6dff98f5e238a7fb6ab174e256489c07fa",
    tags=("weights", "self", "local", "heads", "published", "fusable"),
    parity="Maps that windows do not divide are padded, and the padding masked.",
)
class ACmixWindowAttention(WindowAttention):
    """A weighted sum of window attention and a convolution that share their projections.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        window_size: height and width of a window.
        shift_size: how far the windows are shifted, less than ``window_size``.
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
        window_size: int | tuple[int, int] = 7,
        shift_size: int | tuple[int, int] = 0,
        conv_kernel_size: int = 3,
        *,
        shift: str = "learned",
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(
            dim,
            num_heads,
            window_size,
            shift_size,
            qkv_bias=qkv_bias,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
        )
        self.convolution = ShiftedConvolution(
            num_heads, self.head_dim, conv_kernel_size, 1, shift, bias=True
        )
        self.rate1 = nn.Parameter(torch.full((1,), 0.5))
        self.rate2 = nn.Parameter(torch.full((1,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        qkv = self.qkv(layout.to_channels_last(x))
        q, k, v = layout.split_heads(qkv, 3 * self.num_heads).chunk(3, -2)
        y = self._attend(q, k, v, self.attn_drop if self.training else 0.0)
        return self._mix(layout.merge_heads(y), qkv, x)

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        check_map(x, self.dim)
        qkv = self.qkv(layout.to_channels_last(x))
        v = layout.split_heads(qkv[..., 2 * self.dim :].flatten(1, 2), self.num_heads)
        y = (weights @ v.transpose(1, 2)).transpose(1, 2).flatten(-2)  # (B, H*W, C)
        return self._mix(y.unflatten(1, tuple(x.shape[2:])), qkv, x)

    def multiply_adds(self, height: int, width: int) -> int:
        return super().multiply_adds(height, width) + self.convolution.multiply_adds(height, width)

    def _mix(self, attended: Tensor, qkv: Tensor, x: Tensor) -> Tensor:
        down, across = self._shift(*x.shape[2:])
        maps = layout.split_heads(layout.rolled(qkv, (-down, -across)), 3 * self.num_heads)
        convolved = layout.rolled(self.convolution(maps), (down, across))
        y = self.proj_drop(self.rate1 * self.proj(attended) + self.rate2 * convolved)
        return layout.to_channels_first(y, like=x)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the convolution's entries, and leave out the tables as ``window`` does."""
        return read_published(super().convert_published(state))

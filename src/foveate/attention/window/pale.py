"""Pale-shaped attention: every position attends to interlaced rows, and to interlaced columns.

    y = [rows(q_r, k_r, v_r), columns(q_c, k_c, v_c)] W,   q, k, v = separable convolutions of x

Rows i, i + n, i + 2n, ... (n = H / p) form a group of p whole rows, whose positions attend to each
other in one half of the channels; columns do so in the other half. Together the p rows and p
columns through a position look like a pale.

Shapes: x (B, C, H, W), groups of T = p * W or p * H positions, h heads of D = C / 2h channels in
each half.
Cost: ``(4 C + 3 k^2) H W C + p H W (H + W) C`` multiply-adds; H and W in the second term are
rounded up to multiples of p, each where it is divided into groups.

Paper: Wu et al., "Pale Transformer", AAAI 2022, arXiv:2112.14000. Its authors published no code.
Published code: the port qwopqwop200/pale-transformer-pytorch@99ebd2a ``PS_Attention``, followed
here. It scales logits by ``(C / h) ** -0.5``, which is the width of *two* heads, as if h counted
the heads of both halves; ``scale`` sets another. It has batch normalisation between the depthwise
and the pointwise convolution, after CvT, which the paper does not say. It needs maps that p
divides; here others are padded after the projection, and the padding is not attended.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate import layout, ops
from foveate.arguments import check_map, odd, positive, probability
from foveate.attention._conv_norm import conv_norm, fold
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
    "pale",
    family="window",
    title="Pale-shaped attention over interlaced rows and columns (Pale Transformer)",
    paper="Wu et al., Pale Transformer, AAAI 2022, arXiv:2112.14000",
    source="qwopqwop200/pale-transformer-pytorch@99ebd2ade0e08e1e10b9dfe0b0011b9cc1559493",
    license="MIT",
    tags=("weights", "self", "heads", "batch_statistics", "published", "fusable"),
    parity="Follows an unofficial port, the only public code, in its scale and normalisation.",
)
class PaleAttention(Mixer):
    """Self-attention inside groups of interlaced rows and of interlaced columns.

    Args:
        dim: channels C.
        num_heads: heads of each half; twice as many must divide ``dim``.
        pale_size: rows, and columns, of a group.
        kernel_size: of the depthwise convolutions that make q, k, v; odd.
        scale: factor of the logits; ``(dim / num_heads) ** -0.5`` by default, as in the port. The
            usual one for these heads would be ``(dim / (2 * num_heads)) ** -0.5``.
        qkv_bias: whether the convolutions that make q, k, v have biases.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        pale_size: int = 7,
        kernel_size: int = 3,
        *,
        scale: float | None = None,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        positive(dim, "dim")
        if dim % (2 * positive(num_heads, "num_heads")):
            raise ValueError(
                f"dim={dim} does not divide into two halves of num_heads={num_heads} equal heads; "
                f"dim must be a multiple of {2 * num_heads}"
            )
        self.dim = dim
        self.num_heads = num_heads
        self.pale_size = positive(pale_size, "pale_size")
        self.kernel_size = odd(kernel_size, "kernel_size")
        self.scale = (dim // num_heads) ** -0.5 if scale is None else scale
        self.attn_drop = probability(attn_drop, "attn_drop")
        self.qkv = nn.ModuleList(
            _SeparableConvolution(dim, kernel_size, qkv_bias) for _ in range(3)
        )
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        q, k, v = (self._heads(convolution(x)) for convolution in self.qkv)
        y = self._attend(q, k, v, self.attn_drop if self.training else 0.0)
        return self._finish(layout.merge_heads(y), x)

    def weights(self, x: Tensor) -> Tensor:
        """``(B, 2h, H*W, H*W)``: the heads of the rows, then those of the columns."""
        check_map(x, self.dim)
        q, k = (self._heads(convolution(x)) for convolution in self.qkv[:2])
        return dense(self._attend(q, k, one_hot_values(q)))

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        check_map(x, self.dim)
        return self._finish(apply_dense(weights, self._heads(self.qkv[2](x))), x)

    def multiply_adds(self, height: int, width: int) -> int:
        project = (4 * self.dim + 3 * self.kernel_size**2) * height * width * self.dim
        pairs = sum(cut_into((height, width), part).pairs for part in self._parts)
        return project + pairs * self.dim

    def fuse(self) -> None:
        """Fold the batch normalisations into the convolutions, in place."""
        for convolution in self.qkv:
            convolution.fuse()

    def _heads(self, x: Tensor) -> Tensor:
        return layout.split_heads(x, 2 * self.num_heads)  # (B, H, W, 2h, D)

    @property
    def _parts(self) -> tuple[WindowSize, WindowSize]:
        """The cells spread over the map that attend to each other: rows, columns."""
        return (self.pale_size, None), (None, self.pale_size)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
        halves = zip(*(t.chunk(2, 3) for t in (q, k, v)), strict=True)
        y = [
            ops.window_attention(*half, part, spread=True, scale=self.scale, dropout_p=dropout_p)
            for half, part in zip(halves, self._parts, strict=True)
        ]
        return torch.cat(y, 3)  # (B, H, W, 2h, D)

    def _finish(self, y: Tensor, x: Tensor) -> Tensor:
        return layout.to_channels_first(self.proj_drop(self.proj(y)), like=x)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The port's convolutions of one by one are linear layers here."""
        linear = ("proj.weight", "pw.weight")
        return {k: v.flatten(1) if k.endswith(linear) else v for k, v in state.items()}


class _SeparableConvolution(nn.Module):
    """Depthwise convolution, batch normalisation, pointwise: ``(B, C, H, W) -> (B, H, W, C)``."""

    def __init__(self, dim: int, kernel_size: int, bias: bool) -> None:
        super().__init__()
        self.dw = nn.Conv2d(dim, dim, kernel_size, 1, kernel_size // 2, groups=dim, bias=bias)
        self.bn: nn.Module = nn.BatchNorm2d(dim)
        self.pw = nn.Linear(dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.pw(layout.to_channels_last(conv_norm(self.dw, self.bn, x)))

    def fuse(self) -> None:
        self.bn = fold(self.dw, self.bn)

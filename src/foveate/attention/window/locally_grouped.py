"""Locally grouped attention: attention inside windows, without shifts or position biases.

    out = softmax(q k^T / sqrt(D)) v   inside each window of s x s cells

Twins puts attention to a coarse summary of the map (``spatial_reduction``) in every other block,
and positions into a depthwise convolution between blocks.

Shapes: x (B, C, H, W), windows of T = s^2 cells, heads h of D = C / h channels.
Cost: ``4 H W C^2 + 2 H' W' T C`` multiply-adds, H' and W' rounded up to whole windows.

Paper: Chu et al., "Twins: Revisiting the Design of Spatial Attention in Vision Transformers",
NeurIPS 2021, arXiv:2104.13840.
Published code: Meituan-AutoML/Twins@c1ff671 ``GroupAttention`` (and timm's ``LocallyGroupedAttn``).
It needs maps that windows divide. Its code for segmentation pads others and masks the padding,
which is done here; timm pads with zeros that take part.
"""

from __future__ import annotations

from torch import Tensor, nn

from foveate import layout, ops
from foveate.arguments import check_map, head_dim, pair, probability
from foveate.attention._dropout import Dropout
from foveate.attention.window._inside import (
    apply_dense,
    cut_into,
    dense,
    one_hot_values,
)
from foveate.contracts import Mixer
from foveate.registry import register


@register(
    "locally_grouped",
    family="window",
    title="Locally grouped attention in plain windows (Twins-SVT)",
    paper="Chu et al., Twins, NeurIPS 2021, arXiv:2104.13840",
    source="Meituan-AutoML/Twins@c1ff6714969ad8ef330e75cf97bd310f7488f529",
    license="Apache-2.0",
    tags=("weights", "self", "local", "heads", "published"),
    parity="Padding is masked, as in the published segmentation code; timm attends to it.",
)
class LocallyGroupedAttention(Mixer):
    """Self-attention inside windows.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        window_size: height and width of a window.
        qkv_bias: whether q, k, v projections have a bias.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        window_size: int | tuple[int, int] = 7,
        *,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim(dim, num_heads)
        self.window_size = pair(window_size, "window_size")
        self.attn_drop = probability(attn_drop, "attn_drop")
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._project(x)
        dropout_p = self.attn_drop if self.training else 0.0
        y = ops.window_attention(q, k, v, self.window_size, dropout_p=dropout_p)
        return self._finish(layout.merge_heads(y), x)

    def weights(self, x: Tensor) -> Tensor:
        q, k, _ = self._project(x)
        return dense(ops.window_attention(q, k, one_hot_values(q), self.window_size))

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        return self._finish(apply_dense(weights, self._project(x)[2]), x)

    def multiply_adds(self, height: int, width: int) -> int:
        pairs = cut_into((height, width), self.window_size).pairs
        return 4 * height * width * self.dim**2 + 2 * pairs * self.dim

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        check_map(x, self.dim)
        qkv = self.qkv(layout.to_channels_last(x))
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        return q, k, v  # (B, H, W, h, D)

    def _finish(self, y: Tensor, x: Tensor) -> Tensor:
        return layout.to_channels_first(self.proj_drop(self.proj(y)), like=x)

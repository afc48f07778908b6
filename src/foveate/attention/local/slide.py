"""Slide attention: a local window whose shifts are depthwise convolutions, fixed plus learned.

    K_n = (S_n + W_n) * k + b_n + r_{h,n},   V_n = (S_n + W_n) * v + b_n      (* depthwise)
    out = softmax_n(q . K_n / sqrt(D)) V_n

S_n picks tap n of the window, so with W = 0 shift n is neighbour n. The learned W_n deforms the
window; keys, values and all heads share it. The bias r of a head and shift is added to the key in
every channel: the logit gains ``r_{h,n}`` times the sum of q. Beyond the border keys and values are
zero and take part in the softmax.

Shapes: x (B, C, H, W), heads h of D channels, n = k * k shifts of as many taps; C' = h * D is C
over ``dim_reduction``.
Cost: ``H W (4 C C' + 2 C' n (n + 1))`` multiply-adds, with S + W merged into one kernel as in the
paper's figures; the published code runs both paths.

Paper: Pan et al., "Slide-Transformer: Hierarchical Vision Transformer with Local Self-Attention",
CVPR 2023, arXiv:2304.04237.
Published code: LeapLabTHU/Slide-Transformer@6b1e184 ``SlideAttention`` (no license; written here
from the paper), and its variant in LeapLabTHU/DAT@32173fc, arXiv:2309.01430, which reduces the
channels by four, yet scales by the channels of a head before that; there values may have a
deformation of their own, and q, k, v one projection.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.arguments import check_map, head_dim, pair, positive, probability, query_scale
from foveate.attention._dropout import Dropout
from foveate.contracts import Mixer
from foveate.layout import merge_heads, split_heads, to_channels_first, to_channels_last
from foveate.ops.slide import slide_attention
from foveate.registry import register

PUBLISHED_NAMES = {
    "relative_position_bias_table": "position_bias",
    "dep_conv.bias": "shift_bias",
    "dep_conv1.weight": "deform_weight",
    "dep_conv1.bias": "deform_bias",
    "dep_conv2.weight": "value_deform_weight",
    "dep_conv2.bias": "value_deform_bias",
}


@register(
    "slide",
    family="local",
    title="Slide attention: local attention by deformed depthwise shifts",
    paper="Pan et al., Slide-Transformer: Hierarchical Vision Transformer with Local "
    "Self-Attention, CVPR 2023, arXiv:2304.04237",
    source="LeapLabTHU/Slide-Transformer@6b1e1842eadfeb77c191d4884db30e27c9946ade",
    tags=("local", "heads", "published", "fusable"),
    parity="The fixed path's kernel is a constant here, not an entry of the state.",
)
class SlideAttention(Mixer):
    """Attention to a window of keys and values that a learned depthwise kernel deforms.

    Args:
        dim: channels C.
        num_heads: heads; must divide the channels within, ``dim // dim_reduction``.
        kernel_size: window's height and width; one number for both.
        dim_reduction: how many times fewer channels attention works in (4 in the DAT variant).
        share_kernel: whether keys and values share the learned kernel.
        share_qkv: whether q, k and v are one projection.
        position_bias: whether a head adds a bias to the keys of each shift.
        qkv_bias: whether q, k, v projections have a bias.
        qk_scale: factor of the products of queries and keys; ``(dim / num_heads)**-0.5`` by
            default, whatever ``dim_reduction``.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        kernel_size: int | tuple[int, int] = 3,
        *,
        dim_reduction: int = 1,
        share_kernel: bool = True,
        share_qkv: bool = False,
        position_bias: bool = True,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.scale = query_scale(head_dim(dim, num_heads), qk_scale)
        inner = head_dim(dim, positive(dim_reduction, "dim_reduction"))
        self.head_dim = head_dim(inner, num_heads)
        self.kernel_size = pair(kernel_size, "kernel_size")
        self.shifts = self.kernel_size[0] * self.kernel_size[1]
        self.share_qkv = share_qkv
        self.attn_drop = probability(attn_drop, "attn_drop")
        self.qkv = nn.Linear(dim, inner if share_qkv else 3 * inner, bias=qkv_bias)
        self.proj = nn.Linear(inner, dim)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))

        self.shift_bias = self._parameter(self.shifts)
        self.deform_weight = self._parameter(self.shifts, self.shifts)
        self.deform_bias = self._parameter(self.shifts)
        if not share_kernel:
            self.value_deform_weight = self._parameter(self.shifts, self.shifts)
            self.value_deform_bias = self._parameter(self.shifts)
        if position_bias:
            self.position_bias = nn.Parameter(torch.empty(num_heads, self.shifts))
        self.reset_parameters()

    def _parameter(self, *shape: int) -> nn.Parameter:
        return nn.Parameter(torch.empty(*shape, self.head_dim))

    def reset_parameters(self) -> None:
        """Draw both paths as PyTorch draws a depthwise convolution, as published.

        That is uniform within ``1 / sqrt(taps)``; position biases are normal with a deviation of
        0.02.
        """
        bound = self.shifts**-0.5
        for name, parameter in self.named_parameters(recurse=False):
            if name == "position_bias":
                nn.init.trunc_normal_(parameter, std=0.02)
            else:
                nn.init.uniform_(parameter, -bound, bound)

    @property
    def fused(self) -> bool:
        """Whether the two paths have been folded into one."""
        return hasattr(self, "key_weight")

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        q, k, v = self._queries_keys_values(x)
        y = slide_attention(
            q,
            k,
            v,
            *self.kernels(),
            self.kernel_size,
            self.scale,
            self.attn_drop if self.training else 0.0,
        )  # (B, H, W, h, D)
        return to_channels_first(self.proj_drop(self.proj(merge_heads(y))), like=x)

    def kernels(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Key weight ``(n, n, D)`` and bias ``(h or 1, n, D)``, then those of the values."""
        if self.fused:
            value_weight = getattr(self, "value_weight", self.key_weight)
            return self.key_weight, self.key_bias, value_weight, self.value_bias
        learned = self.deform_weight
        shift = torch.eye(len(learned), device=learned.device, dtype=learned.dtype)[..., None]
        key_weight = shift + learned
        key_bias = value_bias = (self.shift_bias + self.deform_bias)[None]  # (1, n, D)
        value_weight = key_weight
        if hasattr(self, "value_deform_weight"):
            value_weight = shift + self.value_deform_weight
            value_bias = (self.shift_bias + self.value_deform_bias)[None]
        if hasattr(self, "position_bias"):
            key_bias = key_bias + self.position_bias[..., None]  # (h, n, D)
        return key_weight, key_bias, value_weight, value_bias

    @torch.no_grad()
    def fuse(self) -> None:
        """Fold the fixed and the learned path and the position bias into one set of weights."""
        if self.fused:
            return
        key_weight, key_bias, value_weight, value_bias = self.kernels()
        paths = [name for name, _ in self.named_parameters(recurse=False)]
        for name in paths:
            delattr(self, name)
        self.key_weight, self.key_bias = nn.Parameter(key_weight), nn.Parameter(key_bias)
        self.value_bias = nn.Parameter(value_bias.clone())
        if value_weight is not key_weight:
            self.value_weight = nn.Parameter(value_weight)

    def multiply_adds(self, height: int, width: int) -> int:
        inner = self.num_heads * self.head_dim
        projections = (2 if self.share_qkv else 4) * self.dim * inner
        return height * width * (projections + 2 * inner * self.shifts * (self.shifts + 1))

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v as ``(B, H, W, h, D)``, views of one projection."""
        qkv = self.qkv(to_channels_last(x))
        if self.share_qkv:
            q = split_heads(qkv, self.num_heads)
            return q, q, q
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(3)
        return q, k, v

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read the depthwise convolutions as kernels; sort q, k, v, stored there head by head."""
        if "dep_conv1.weight" not in state:
            return dict(state)
        # The fixed shifts, dep_conv.weight, are a constant here.
        return {
            PUBLISHED_NAMES.get(key, key): self._converted(key, value)
            for key, value in state.items()
            if key != "dep_conv.weight"
        }

    def _converted(self, key: str, value: Tensor) -> Tensor:
        """A published entry in the layout of this module; one of another size is left as it is."""
        if key.startswith("qkv.") and not self.share_qkv and len(value) == self.qkv.out_features:
            parts = value.unflatten(0, (self.num_heads, 3, self.head_dim))
            return parts.transpose(0, 1).flatten(0, 2)
        if key.startswith("dep_conv") and len(value) == self.head_dim * self.shifts:
            kernel = value.reshape(self.head_dim, self.shifts, -1).permute(1, 2, 0)
            return kernel.flatten(0, 1) if key.endswith("bias") else kernel  # (n, D), (n, n, D)
        if key == "relative_position_bias_table" and value.numel() == self.num_heads * self.shifts:
            return value.reshape(self.num_heads, self.shifts)
        return value

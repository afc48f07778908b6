"""ACmix: self-attention and convolution from the same three projections.

    stage I    q, k, v = 1x1 projections of x, seen as 3 h maps of D channels
    stage II   attention:    A = softmax_n(q . (k_n + P - P_n) / sqrt(D)) v_n   over a k_a^2 window
               convolution:  f_t = sum_j F[t, j] [q, k, v]_j,   G = sum_t shift_t(f_t),   t in k_c^2
    out = alpha A + beta G

A k x k convolution is k*k pointwise ones whose outputs are shifted and summed; the pointwise
products are the projections that attention needs anyway. P is a linear map of the coordinates. It
only enters through ``k_n - P_n``: a term that all neighbours of a query share leaves the softmax
as it was.

Shapes: x (B, C, H, W), heads h of D = C / h channels, K = k_a^2, T = k_c^2.
Cost: ``H W (3 C^2 + 2 C K + 3 h C T + 2 D)`` multiply-adds; other attentions and
shifts change the second and the third term.

Paper: Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022,
arXiv:2111.14556.
Published code: LeapLabTHU/ACmix@81dddb6 ``ACmix`` (no license; written here from the paper). As
there, the border is reflected for attention and zero for the convolution, ``dep_conv`` has no bias,
and the two paths disagree on what a channel is: the convolution's channel ``d h + j`` is added to
the attention's ``j D + d``. Its code for ``dilation`` does not run and is left out. The form on
windows (Swin) is ``acmix_window``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate import layout
from foveate.arguments import check_map, head_dim, odd, one_of, positive, probability
from foveate.attention._dropout import Dropout, scaled_dot_product_attention
from foveate.attention._shifted_convolution import (
    ShiftedConvolution,
    read_published,
)
from foveate.attention.local._patches import coordinates
from foveate.contracts import Mixer
from foveate.ops import local_aggregate, local_attention, local_relation
from foveate.ops._dropout import dropout
from foveate.ops._taps import neighbours
from foveate.registry import register

ATTENTIONS = ("local", "patchwise", "global")


@register(
    "acmix",
    family="local",
    title="ACmix: self-attention and convolution from shared projections",
    paper="Pan et al., On the Integration of Self-Attention and Convolution, CVPR 2022, "
    "arXiv:2111.14556",
    source="LeapLabTHU/ACmix@81dddb6dff98f5e238a7fb6ab174e256489c07fa",
    tags=("weights", "self", "local", "heads", "published"),
    parity="Odd sizes work with a stride; the published dilation does not run and is left out.",
)
class ACmix(Mixer):
    """A weighted sum of self-attention and a convolution that share their projections.

    Args:
        dim: channels C.
        num_heads: heads; must divide the channels that come out.
        kernel_size: side of the attention's window, odd.
        conv_kernel_size: side of the convolution, odd.
        dim_out: channels that come out; ``dim`` by default.
        stride: with 2, every other row and column comes out.
        attention: "local" (a window around each position), "patchwise" (the window's weights by a
            small network from all it holds, without softmax; its form is ours) or "global".
        shift: how the pointwise maps are shifted: "learned" (a grouped convolution that starts as
            the shifts), "fixed" (the same, not learned) or "tensor" (slices of the map). The last
            two give the same numbers, all heads alike.
        qkv_bias: whether q, k, v projections have a bias.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 4,
        kernel_size: int = 7,
        conv_kernel_size: int = 3,
        *,
        dim_out: int | None = None,
        stride: int = 1,
        attention: str = "local",
        shift: str = "learned",
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = positive(dim, "dim")
        self.dim_out = dim if dim_out is None else positive(dim_out, "dim_out")
        self.num_heads = num_heads
        self.head_dim = head_dim(self.dim_out, num_heads)
        self.kernel_size = odd(kernel_size, "kernel_size")
        self.stride = positive(stride, "stride")
        self.attention = one_of(attention, ATTENTIONS, "attention")
        self.attn_drop = probability(attn_drop, "attn_drop")
        self.qkv = nn.Linear(dim, 3 * self.dim_out, bias=qkv_bias)
        if attention == "local":
            self.conv_p = nn.Linear(2, self.head_dim)
        elif attention == "patchwise":
            taps = kernel_size**2
            self.conv_w = nn.Sequential(
                nn.Linear(self.head_dim * (taps + 1), self.head_dim),
                nn.ReLU(),
                nn.Linear(self.head_dim, taps),
            )
        self.convolution = ShiftedConvolution(
            num_heads, self.head_dim, conv_kernel_size, stride, shift, bias=False
        )
        self.rate1 = nn.Parameter(torch.full((1,), 0.5))
        self.rate2 = nn.Parameter(torch.full((1,), 0.5))
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self._project(x)
        drop = self.attn_drop if self.training else 0.0
        attended = self._attend(*qkv.chunk(3, -2), drop)  # (B, H, W, h, D)
        return self._finish(self._strided(attended), qkv, x)

    def weights(self, x: Tensor) -> Tensor:
        if self.attention == "patchwise" or self.stride > 1:
            raise ValueError(
                "weights are shown with attention='local' or 'global' and stride=1 only, "
                f"this has attention={self.attention!r} and stride={self.stride}"
            )
        q, k, _ = self._project(x).chunk(3, -2)
        values = layout.one_hot_positions(q, x.shape[2], x.shape[3])[:, :, :, None]
        y = self._attend(q, k, values.expand(*q.shape[:-1], -1), 0.0)  # (B, H, W, h, H*W)
        return y.flatten(1, 2).transpose(1, 2)

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        qkv = self._project(x)
        v = qkv.chunk(3, -2)[2]
        y = (weights @ v.flatten(1, 2).transpose(1, 2)).transpose(1, 2)  # (B, H*W, h, D)
        return self._finish(y.unflatten(1, v.shape[1:3]), qkv, x)

    def multiply_adds(self, height: int, width: int) -> int:
        positions, taps = height * width, self.kernel_size**2
        total = 3 * positions * self.dim * self.dim_out
        if self.attention == "local":
            total += 2 * positions * (self.dim_out * taps + self.head_dim)
        elif self.attention == "global":
            total += 2 * positions**2 * self.dim_out
        else:
            mapping = self.dim_out * (self.head_dim * (taps + 1) + taps)
            total += positions * (mapping + self.dim_out * taps)
        return total + self.convolution.multiply_adds(height, width)

    def _project(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        return layout.split_heads(self.qkv(layout.to_channels_last(x)), 3 * self.num_heads)

    def _strided(self, y: Tensor) -> Tensor:
        """Every ``stride``-th row and column; copied, since compilers guard on a view's strides."""
        if self.stride == 1:
            return y
        for axis in (1, 2):
            y = y.index_select(axis, torch.arange(0, y.shape[axis], self.stride, device=y.device))
        return y

    def _finish(self, attended: Tensor, qkv: Tensor, x: Tensor) -> Tensor:
        y = self.rate1 * attended.flatten(-2) + self.rate2 * self.convolution(qkv)
        return layout.to_channels_first(self.proj_drop(y), like=x)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, drop: float) -> Tensor:
        if self.attention == "global":
            tokens = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))  # (B, h, N, D)
            y = scaled_dot_product_attention(*tokens, dropout_p=drop)
            return y.transpose(1, 2).unflatten(1, q.shape[1:3])
        if self.attention == "patchwise":
            q, k = (t.transpose(1, 3).flatten(0, 1) for t in (q, k))  # (B*h, W, H, D)
            related = local_relation(
                q.transpose(1, 2),
                k.transpose(1, 2),
                self.kernel_size,
                relation="concatenation",
                border="reflect",
            )
            weights = self.conv_w(related).unflatten(0, (-1, self.num_heads))  # (B, h, H, W, T)
            return self._sum(dropout(weights.movedim(1, -1), drop), v)
        places = self.conv_p(coordinates(_as_map(q)).movedim(0, -1))  # (H, W, D)
        k = k - places[:, :, None]
        if torch.compiler.is_exporting() or min(q.shape[1:3]) > self.kernel_size // 2:
            return local_attention(q, k, v, self.kernel_size, border="reflect", dropout_p=drop)
        # The map is too small to reflect that far: its nearest position is taken instead.
        weights = (self._products(q, k) * self.head_dim**-0.5).softmax(3)
        return self._sum(dropout(weights, drop), v)

    def _products(self, q: Tensor, k: Tensor) -> Tensor:
        """Of queries with the keys around them: ``(B, H, W, T, h)``."""
        near = neighbours(k.flatten(3), (self.kernel_size,) * 2, (1, 1), "reflect")
        return torch.einsum("byxhd,byxhdt->byxth", q, near.unflatten(3, k.shape[3:]))

    def _sum(self, weights: Tensor, v: Tensor) -> Tensor:
        """Neighbours weighted by ``(B, H, W, T, h)``: ``(B, H, W, h, D)``."""
        return local_aggregate(v.mT, weights, self.kernel_size, border="reflect").mT

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Join the three 1x1 convolutions; read them and the others as linear maps."""
        state = read_published(state)
        for key in ("conv_p.weight", *(f"conv{i}.weight" for i in (1, 2, 3))):
            if key in state:
                state[key] = state[key].flatten(1)
        if "conv1.weight" in state:
            for leaf in ("weight", "bias"):
                parts = [state.pop(f"conv{i}.{leaf}") for i in (1, 2, 3)]
                state[f"qkv.{leaf}"] = torch.cat(parts)
        return state


def _as_map(x: Tensor) -> Tensor:
    """``(B, H, W, h, D) -> (B, h*D, H, W)``."""
    return x.flatten(-2).permute(0, 3, 1, 2)

"""Squeeze-axial attention: rows attend to rows and columns to columns, each squeezed to a token.

    r = attention over the H tokens mean_W([q, k, v]),   c = over the W tokens mean_H([q, k, v])
    out = sigmoid(P(v + P_r(r) + P_c(c))) * detail,   detail = D([q, k, v])

The squeezed axes give every cell what its row and its column see, at a cost that grows with
H + W instead of their product; what squeezing loses comes back from the detail branch D, a
depthwise 3 x 3 convolution, ReLU6 and a linear layer, which the attention gates. q, k, v and
every P are 1 x 1 convolutions with batch normalisation, P after ReLU6; the sigmoid is the
piecewise linear one. Squeezed q and k get learned position embeddings, resized to H and W.

Shapes: x (B, C, H, W); q, k (B, h d, H, W), v (B, V, H, W) with V = h d attn_ratio;
row tokens (B, h, H, channels / h), column tokens (B, h, W, channels / h).
Cost: ``H W (C (2 E + V) + 9 E) + (H + W) V^2 + (H^2 + W^2) (h d + V)`` multiply-adds, where
E = 2 h d + V.

Paper: Wan et al., "SeaFormer: Squeeze-enhanced Axial Transformer for Mobile Semantic
Segmentation", ICLR 2023, arXiv:2301.13156.
Published code: fudan-zvg/SeaFormer@9718d05 ``Sea_Attention``, whose weights load. Its models have
``key_dim`` 16 or 24 whatever C; where C / h differs from that, pass it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import check_map, head_dim, positive
from foveate.attention._conv_norm import ConvNorm
from foveate.contracts import Mixer
from foveate.layout import in_format, memory_format
from foveate.registry import register


@register(
    "squeeze_axial",
    family="window",
    title="Squeeze-axial attention: rows and columns squeezed to tokens (SeaFormer)",
    paper="Wan et al., SeaFormer, ICLR 2023, arXiv:2301.13156",
    source="fudan-zvg/SeaFormer@9718d05b6e70d0561dda7c052b8457feed74d4d9",
    license="Apache-2.0",
    tags=("heads", "batch_statistics", "published", "fusable"),
    parity="fudan-zvg/SeaFormer's Sea_Attention, exactly",
)
class SqueezeAxialAttention(Mixer):
    """Attention between squeezed rows, and between squeezed columns, that gates local detail.

    Args:
        dim: channels C.
        num_heads: heads h; must divide ``dim`` unless ``key_dim`` is given.
        key_dim: channels d of a head's queries and keys; ``dim / num_heads`` by default.
        attn_ratio: channels of a head's values, in ``key_dim``.
        positions: length of the position embeddings before they are resized.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        key_dim: int | None = None,
        attn_ratio: float = 2,
        *,
        positions: int = 16,
    ) -> None:
        super().__init__()
        self.dim = positive(dim, "dim")
        self.num_heads = positive(num_heads, "num_heads")
        key_dim = head_dim(dim, num_heads) if key_dim is None else positive(key_dim, "key_dim")
        self.keys = num_heads * key_dim
        self.values = num_heads * int(attn_ratio * key_dim)
        if self.values < num_heads:
            raise ValueError(f"attn_ratio={attn_ratio!r} leaves values of key_dim={key_dim} none")
        self.widths = (self.keys, self.keys, self.values)
        self.to_q, self.to_k, self.to_v = (ConvNorm(dim, width) for width in self.widths)
        self.row = _SqueezedAxis(num_heads, self.keys, self.values, positions)
        self.column = _SqueezedAxis(num_heads, self.keys, self.values, positions)
        self.proj = ConvNorm(self.values, dim, start=0.0)
        width = sum(self.widths)
        self.dwconv = ConvNorm(width, width, 3, groups=width)
        self.pwconv = ConvNorm(width, dim)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        detail = self.pwconv(F.relu6(self.dwconv(torch.cat([q, k, v], 1))))
        row = self.row(q.mean(3), k.mean(3), v.mean(3))[:, :, :, None]  # (B, V, H, 1)
        column = self.column(q.mean(2), k.mean(2), v.mean(2))[:, :, None]  # (B, V, 1, W)
        context = self.proj(F.relu6(v + row + column))  # (B, C, H, W)
        return in_format(F.hardsigmoid(context) * detail, memory_format(x))

    def multiply_adds(self, height: int, width: int) -> int:
        inner = sum(self.widths)
        cell = self.dim * (2 * inner + self.values) + 9 * inner
        squeezed = (height + width) * self.values**2
        attention = (height**2 + width**2) * (self.keys + self.values)
        return height * width * cell + squeezed + attention

    def fuse(self) -> None:
        """Fold the batch normalisations into the convolutions, in place."""
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fuse()

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Group the entries by axis."""
        names = {"proj.1.": "proj."}
        for axis in ("row", "column"):
            names |= {f"proj_encode_{axis}.1.": f"{axis}.proj."}
            names |= {f"pos_emb_{axis}{t}.pos_embed": f"{axis}.position_{t}" for t in "qk"}
        converted = {}
        for key, value in state.items():
            for old, new in names.items():
                if key.startswith(old):
                    key = new + key.removeprefix(old)
            converted[key.replace(".c.weight", ".conv.weight")] = value
        return converted


class _SqueezedAxis(nn.Module):
    """Attention between the tokens of one axis, and the projection of what they gather."""

    def __init__(self, num_heads: int, keys: int, values: int, positions: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.position_q = nn.Parameter(torch.randn(1, keys, positive(positions, "positions")))
        self.position_k = nn.Parameter(torch.randn(1, keys, positions))
        self.proj = ConvNorm(values, values, start=0.0)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``(B, channels, L)`` each, to ``(B, V, L)``."""
        q = q + F.interpolate(self.position_q, q.shape[2], mode="linear")
        k = k + F.interpolate(self.position_k, k.shape[2], mode="linear")
        q, k, v = (t.unflatten(1, (self.num_heads, -1)).mT for t in (q, k, v))  # (B, h, L, .)
        y = F.scaled_dot_product_attention(q, k, v).mT.flatten(1, 2)  # (B, V, L)
        return self.proj(F.relu6(y)[:, :, None]).squeeze(2)

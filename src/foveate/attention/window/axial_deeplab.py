"""Position-sensitive axial attention: columns, then rows, with positions in q, k and v.

    a_ij = softmax_j(n(q_i . k_j) + n(q_i . r^q_{i-j}) + n(k_j . r^k_{j-i}))
    out_i = n(sum_j a_ij v_j) + n(sum_j a_ij r^v_{i-j}),    row(column(x))

Every n is a batch normalisation of its own for each head or channel, which stands for the scale
as well. The queries and keys of a head have half the channels of its values; its learned vectors
r of relative positions are shared by all heads.

Shapes: x (B, C, H, W), heads h, v of C / h channels, q and k of C / (2 h).
Cost: ``4 H W C^2 + 3.5 H W (H + W) C`` multiply-adds.

Paper: Wang et al., "Axial-DeepLab: Stand-Alone Axial-Attention for Panoptic Segmentation", ECCV
2020, arXiv:2003.07853.
Published code: csrhddlam/axial-deeplab@79088ed ``AxialAttention``, whose weights load, two to a
block. There the map has exactly ``span`` rows and columns. Here a shorter one uses the offsets it
has, and in a longer one those beyond ``span`` share the vector of the last.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.arguments import check_map, head_dim, positive
from foveate.contracts import Mixer
from foveate.layout import in_format, memory_format
from foveate.registry import register


@register(
    "axial_deeplab",
    family="window",
    title="Position-sensitive axial attention (Axial-DeepLab)",
    paper="Wang et al., Axial-DeepLab, ECCV 2020, arXiv:2003.07853",
    source="csrhddlam/axial-deeplab@79088edb4bdb8c94351d85f54272ec12b9e79c8b",
    license="Apache-2.0",
    tags=("heads", "batch_statistics", "published"),
    parity="csrhddlam/axial-deeplab's AxialAttention, exactly where the map is as long as span; "
    "it accepts no other",
)
class AxialDeepLabAttention(Mixer):
    """Self-attention along columns, then along rows, that knows relative positions.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim`` into even parts.
        span: offsets that have a vector of their own, ``1 - span`` to ``span - 1``.
    """

    def __init__(self, dim: int, num_heads: int = 8, span: int = 56) -> None:
        super().__init__()
        self.dim = dim
        if head_dim(dim, num_heads) % 2:
            raise ValueError(
                f"num_heads={num_heads} gives dim={dim} heads of {dim // num_heads} channels; "
                "the number must be even, for queries and keys have half of it"
            )
        positive(span, "span")
        self.column = _OneAxis(dim, num_heads, span)
        self.row = _OneAxis(dim, num_heads, span)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        return in_format(self.along_rows(self.along_columns(x)), memory_format(x))

    def along_columns(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)``, each column for itself."""
        lines = x.permute(0, 3, 1, 2)  # (B, W, C, H)
        y = self.column(lines.flatten(0, 1)).unflatten(0, lines.shape[:2])
        return y.permute(0, 2, 3, 1)

    def along_rows(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)``, each row for itself."""
        lines = x.permute(0, 2, 1, 3)  # (B, H, C, W)
        y = self.row(lines.flatten(0, 1)).unflatten(0, lines.shape[:2])
        return y.permute(0, 2, 1, 3)

    def multiply_adds(self, height: int, width: int) -> int:
        attention = 7 * self.dim * (height + width) // 2
        return height * width * (4 * self.dim**2 + attention)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read a block's names; the index that it keeps is computed here."""
        names = {"hight_block.": "column.", "width_block.": "row."}
        converted = {}
        for key, value in state.items():
            for old, new in names.items():
                if key.startswith(old):
                    key = new + key.removeprefix(old)
            if not key.endswith(".flatten_index"):
                converted[key] = value
        return converted


class _OneAxis(nn.Module):
    """Attention within lines ``(lines, C, L)``."""

    def __init__(self, dim: int, num_heads: int, span: int) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.span = span
        head = dim // num_heads
        self.parts = (head // 2, head // 2, head)  # channels of q, k and v
        self.qkv_transform = nn.Conv1d(dim, 2 * dim, 1, bias=False)
        self.bn_qkv = nn.BatchNorm1d(2 * dim)
        self.bn_similarity = nn.BatchNorm2d(3 * num_heads)
        self.bn_output = nn.BatchNorm1d(2 * dim)
        self.relative = nn.Parameter(torch.empty(2 * head, 2 * span - 1))
        nn.init.normal_(self.qkv_transform.weight, std=dim**-0.5)
        nn.init.normal_(self.relative, std=head**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.bn_qkv(self.qkv_transform(x)).unflatten(1, (self.num_heads, sum(self.parts)))
        q, k, v = qkv.split(self.parts, 2)  # each (lines, h, D, L)
        of_q, of_k, of_v = self._positions(x.shape[2]).split(self.parts)  # each (D, L, L)
        from_query = torch.einsum("nhdi,dij->nhij", q, of_q)
        from_key = torch.einsum("nhdj,dji->nhij", k, of_k)
        logits = self.bn_similarity(torch.cat([q.mT @ k, from_query, from_key], 1))
        weights = logits.unflatten(1, (3, self.num_heads)).sum(1).softmax(-1)  # (lines, h, L, L)
        content = v @ weights.mT  # (lines, h, D, L)
        position = torch.einsum("nhij,dij->nhdi", weights, of_v)
        y = torch.stack([content, position], 3).flatten(1, 3)  # (lines, 2 C, L)
        return self.bn_output(y).unflatten(1, (self.dim, 2)).sum(2)

    def _positions(self, length: int) -> Tensor:
        """``(channels, L, L)``: the vector of each offset, row less column."""
        places = torch.arange(length, device=self.relative.device)
        offsets = (places[:, None] - places).clamp(1 - self.span, self.span - 1)
        return self.relative[:, offsets + self.span - 1]

"""Bilinear attention: a gate from products of channels, itself weighted by their mean.

    z = relu(BN(W1 x + b1)),   b = products z_i z_j, i <= j                    (each position)
    s = relu(BN(W3 mean_{H,W}(b) + b3)),   u = relu(BN(W2 b + b2))
    out = x * sigmoid(s * u)

Shapes: x (B, C, H, W), z (B, m, H, W), b (B, m(m+1)/2, H, W), s (B, C, 1, 1), u (B, C, H, W);
m = C / reduction. The gate lies in [1/2, 1).
Cost: ``H W C (m + m(m+1)/2) + C m(m+1)/2`` multiply-adds, and as many products as b has entries.

Paper: Fang et al., "Bilinear Attention Networks for Person Retrieval", ICCV 2019,
doi 10.1109/ICCV.2019.00812; the attention in attention of Fang et al., TPAMI 2021,
doi 10.1109/TPAMI.2021.3073512.
Published code: PengfeiFANGanu/Attention-in-Attention-Networks. b runs along the diagonals
(z_0 z_0, z_1 z_1, ..., z_1 z_0, z_2 z_1, ...), its entries off the first are not scaled.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.arguments import check_map
from foveate.attention.gates._common import reduced_width, rename
from foveate.contracts import Gate
from foveate.registry import register

PUBLISHED_NAMES = {
    f"dimReduceLayer{i}.conv.{part}": f"{name}.{j}"
    for i, name in ((1, "reduce"), (2, "local"), (3, "inner"))
    for j, part in enumerate(("conv", "bn"))
}


@register(
    "bilinear",
    family="gates",
    title="Bilinear attention in attention: a gate from products of channels",
    paper="Fang et al., Bilinear Attention Networks for Person Retrieval, ICCV 2019, "
    "doi 10.1109/ICCV.2019.00812",
    source="PengfeiFANGanu/Attention-in-Attention-Networks@b5b9822956bb719a167c7bf846207ee0df0268c6",
    tags=("unordered", "batch_statistics", "published"),
    parity="PengfeiFANGanu/Attention-in-Attention-Networks' BilinearAttention, exactly",
)
class BilinearAttention(Gate):
    """A gate for every feature, from second-order features with a channel attention inside.

    Args:
        dim: channels C.
        reduction: C / m, by how much channels shrink before they are multiplied.
    """

    def __init__(self, dim: int, reduction: int = 16) -> None:
        super().__init__()
        self.dim = dim
        self.hidden = reduced_width(dim, reduction)
        products = self.hidden * (self.hidden + 1) // 2
        self.reduce = _conv_bn_relu(dim, self.hidden)
        self.local = _conv_bn_relu(products, dim)
        self.inner = _conv_bn_relu(products, dim)

    def gate(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        z = self.reduce(x)  # (B, m, H, W)
        products = self.products(z)  # (B, m(m+1)/2, H, W)
        inner = self.inner(products.mean((2, 3), keepdim=True))  # (B, C, 1, 1)
        return (inner * self.local(products)).sigmoid()  # (B, C, H, W)

    def products(self, z: Tensor) -> Tensor:
        """``(B, m, H, W)``: every product of two channels once, ``(B, m(m+1)/2, H, W)``."""
        return torch.cat([z[:, : self.hidden - i] * z[:, i:] for i in range(self.hidden)], 1)

    def multiply_adds(self, height: int, width: int) -> int:
        products = self.hidden * (self.hidden + 1) // 2
        return self.dim * (height * width * (self.hidden + products) + products)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read the published names."""
        return rename(state, PUBLISHED_NAMES)


def _conv_bn_relu(dim: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(dim, out, 1), nn.BatchNorm2d(out), nn.ReLU())

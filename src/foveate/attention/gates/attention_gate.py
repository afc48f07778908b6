"""Attention gate: a coarse, knowing map says where a fine map matters.

    f = relu(conv_s(x) + up(W_g g + b_g)),   a = up(sigmoid(w_psi . f + b_psi)),   out = x * a

Shapes: x (B, C, H, W), gating g (B, C_g, H_g, W_g), f (B, A, H / s, W / s), a (B, 1, H, W); conv_s
has kernel and stride s, ``up`` is bilinear. With ``volume`` all have a depth before the height.
Cost: ``H W C A + H W A / s^2 + H_g W_g C_g A`` multiply-adds; ``H W C^2`` more with ``output``.

Papers: Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018,
arXiv:1804.03999; Schlemper et al., "Attention Gated Networks", MedIA 2019, arXiv:1808.08114.
Published code: ozan-oktay/Attention-Gated-Networks, whose block puts a convolution and a batch norm
behind the product (``output=True``); bilinear resampling is today's, corners not aligned. Its
classifier's block has ``gating_bias=False, stride=1`` and other normalisations. The block of
LeeJunHyun/Image_Segmentation, which most copies follow, has ``stride=1, batch_norm=True``.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import check_map, one_of, positive
from foveate.attention.gates._common import rename
from foveate.contracts import Gate
from foveate.registry import register

PUBLISHED_NAMES = {
    "theta.weight": "theta.0.weight",
    "phi.weight": "phi.0.weight",
    "phi.bias": "phi.0.bias",
    "psi.weight": "psi.0.weight",
    "psi.bias": "psi.0.bias",
    "W_x": "theta",
    "W_g": "phi",
    "W": "output",
}


@register(
    "attention_gate",
    family="gates",
    title="Attention gate: positions weighted by a coarser gating map (Attention U-Net)",
    paper="Oktay et al., Attention U-Net: Learning Where to Look for the Pancreas, MIDL 2018, "
    "arXiv:1804.03999",
    source="ozan-oktay/Attention-Gated-Networks@eee4881fdc31920efd873773e0b744df8dacbfb6",
    license="MIT",
    tags=("published",),
    parity="ozan-oktay/Attention-Gated-Networks' 2D blocks and LeeJunHyun/Image_Segmentation's "
    "Attention_block, exactly",
)
class AttentionGate(Gate):
    """A gate for each position, from the map and a gating map; from the map alone without one.

    Args:
        dim: channels C of the map.
        gating_dim: channels of the gating map; ``dim`` by default.
        hidden: channels A in which both are added; half of ``dim`` by default.
        stride: by how much the map is coarsened before.
        gating_bias: whether the gating map's projection has a bias.
        batch_norm: whether batch norms follow the three projections, and all have biases.
        softplus: softplus in place of the ReLU.
        normalize: "sigmoid"; or over positions "softmax", "range" (from 0 to 1) or "flow" (from 0,
            with a sum of 1).
        output: whether a convolution and a batch norm follow; the output is then theirs.
        volume: whether maps are volumes ``(B, C, D, H, W)``, resampled trilinearly.
    """

    def __init__(
        self,
        dim: int,
        gating_dim: int | None = None,
        hidden: int | None = None,
        *,
        stride: int = 2,
        gating_bias: bool = True,
        batch_norm: bool = False,
        softplus: bool = False,
        normalize: str = "sigmoid",
        output: bool = False,
        volume: bool = False,
    ) -> None:
        super().__init__()
        self.axes = 3 if volume else 2
        conv, norm = (nn.Conv3d, nn.BatchNorm3d) if volume else (nn.Conv2d, nn.BatchNorm2d)
        self.dim = positive(dim, "dim")
        self.gating_dim = dim if gating_dim is None else positive(gating_dim, "gating_dim")
        self.hidden = max(1, dim // 2) if hidden is None else positive(hidden, "hidden")
        self.stride = positive(stride, "stride")
        self.softplus = softplus
        self.normalize = one_of(normalize, ("sigmoid", "softmax", "range", "flow"), "normalize")
        self.theta = nn.Sequential(conv(dim, self.hidden, stride, stride, bias=batch_norm))
        self.phi = nn.Sequential(conv(self.gating_dim, self.hidden, 1, bias=gating_bias))
        self.psi = nn.Sequential(conv(self.hidden, 1, 1))
        if batch_norm:
            for projection in (self.theta, self.phi, self.psi):
                projection.append(norm(projection[0].out_channels))
        self.output = nn.Sequential(conv(dim, dim, 1), norm(dim)) if output else None

    def gate(self, x: Tensor, gating: Tensor | None = None) -> Tensor:
        check_map(x, self.dim, axes=self.axes)
        gating = x if gating is None else gating
        check_map(gating, self.gating_dim, axes=self.axes)
        coarse = self.theta(self._at_least_one_window(x))  # (B, A, H / s, W / s)
        f = coarse + _resample(self.phi(gating), coarse.shape[2:])
        a = self.psi(F.softplus(f) if self.softplus else f.relu())  # (B, 1, H / s, W / s)
        return _resample(self._normalized(a), x.shape[2:])  # (B, 1, H, W)

    def forward(self, x: Tensor, gating: Tensor | None = None) -> Tensor:
        y = x * self.gate(x, gating)
        return y if self.output is None else self.output(y)

    def _at_least_one_window(self, x: Tensor) -> Tensor:
        """``x``, with zeros where it is smaller than the stride."""
        if all(side >= self.stride for side in x.shape[2:]):
            return x
        missing = [max(0, self.stride - side) for side in reversed(x.shape[2:])]
        return F.pad(x, [amount for side in missing for amount in (0, side)])

    def _normalized(self, a: Tensor) -> Tensor:
        if self.normalize == "sigmoid":
            return a.sigmoid()
        if self.normalize == "softmax":
            return a.flatten(2).softmax(2).view_as(a)
        places = tuple(range(2, a.dim()))
        a = a - a.amin(places, keepdim=True)
        whole = a.amax if self.normalize == "range" else a.sum
        return a / whole(places, keepdim=True).clamp_min(torch.finfo(a.dtype).tiny)

    def multiply_adds(self, *size: int, gating: tuple[int, ...] | None = None) -> int:
        """For maps of ``size``, and a gating map of the size ``gating`` where it differs."""
        coarse = prod(max(1, side // self.stride) for side in size)
        total = coarse * (self.dim * self.stride**self.axes + 1) * self.hidden
        total += prod(gating or size) * self.gating_dim * self.hidden
        return total if self.output is None else total + prod(size) * self.dim**2

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read the names of ozan-oktay's blocks and of LeeJunHyun's."""
        return rename(state, PUBLISHED_NAMES)


def _resample(x: Tensor, size: torch.Size) -> Tensor:
    """``x`` at ``size``; itself where it already has it, since the weights are then 1 and 0."""
    mode = "bilinear" if x.dim() == 4 else "trilinear"
    return F.interpolate(x, tuple(size), mode=mode, align_corners=False)

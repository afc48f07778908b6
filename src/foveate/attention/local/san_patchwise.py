"""Patchwise self-attention (SAN): all weights of a window at once, from all it holds.

    w = g(relu(f([phi(x_p), psi(x_n) for all n])))      n in the k x k window of p
    out_p = sum_n w_n * beta(x_n)

``g`` gives a vector of O / s weights to each of the k x k places: it can tell them apart, as a
convolution does and no softmax over similarities can. The weights are not normalised.

Shapes: x (B, C, H, W), out (B, O, H, W), N = H * W, T = k * k taps, r channels of the relation,
m = O / s weights.
Cost: ``N (C O + 2 C r + r (T + 1) m + m^2 T + T O)`` multiply-adds.

Paper: Zhao et al., "Exploring Self-attention for Image Recognition", CVPR 2020, arXiv:2004.13621.
Published code: hszhao/SAN@d88b022 ``SAM(sa_type=1)``. As there, channel c has weight ``c % m``
(channels that share a weight are not neighbours) and the border is reflected; its stride is left
out, and dilation, whose padding does not fit there, works.
"""

from __future__ import annotations

from torch import Tensor, nn

from foveate.arguments import check_map
from foveate.attention.local._patches import check_san_options, summed
from foveate.attention.local._relation import WeightMapping
from foveate.contracts import Mixer
from foveate.layout import to_channels_last
from foveate.registry import register


@register(
    "san_patchwise",
    family="local",
    title="Patchwise vector self-attention on small windows (SAN)",
    paper="Zhao et al., Exploring Self-attention for Image Recognition, CVPR 2020, "
    "arXiv:2004.13621",
    source="hszhao/SAN@d88b022fc3ec4920d4596f94983f0e5b1ced62c6",
    license="MIT",
    tags=("self", "local", "batch_statistics", "published"),
    parity="Dilation works, and maps smaller than the reflected border are accepted.",
)
class PatchwiseAttention(Mixer):
    """Attention whose weights a small network computes from the whole window.

    Args:
        dim: channels C.
        kernel_size: side of the window, odd.
        dim_out: channels that come out; ``dim`` by default.
        rel_dim: channels of the relation; a quarter of ``dim`` by default, as in the paper.
        share: how many channels share one weight; must divide those that come out.
        dilation: distance of the taps.
    """

    def __init__(
        self,
        dim: int,
        kernel_size: int = 7,
        *,
        dim_out: int | None = None,
        rel_dim: int | None = None,
        share: int = 8,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.dim_out, rel_dim = check_san_options(
            dim, kernel_size, dim_out, rel_dim, share, dilation
        )
        self.dim = dim
        self.kernel_size = kernel_size
        self.dilation = dilation
        taps, weights = kernel_size**2, self.dim_out // share
        self.conv1 = nn.Conv2d(dim, rel_dim, 1)
        self.conv2 = nn.Conv2d(dim, rel_dim, 1)
        self.conv3 = nn.Conv2d(dim, self.dim_out, 1)
        self.conv_w = WeightMapping(
            rel_dim * (taps + 1),
            weights,
            weights * taps,
            kernel_size=kernel_size,
            dilation=dilation,
            relation="concatenation",
        )

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        return self._attend(self.conv1(x), self.conv2(x), self.conv3(x), like=x)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, like: Tensor) -> Tensor:
        weights = self.conv_w(to_channels_last(q), to_channels_last(k))  # (B, m*T, H, W)
        weights = to_channels_last(weights).unflatten(-1, (-1, self.kernel_size**2)).mT
        return summed(v, weights, self.kernel_size, self.dilation, like=like)

    def multiply_adds(self, height: int, width: int) -> int:
        taps = self.kernel_size**2
        relation, weights = self.conv1.out_channels, self.conv_w[2].out_channels
        project = self.dim * (self.dim_out + 2 * relation)
        mapping = relation * (taps + 1) * weights + weights**2 * taps
        return height * width * (project + mapping + taps * self.dim_out)

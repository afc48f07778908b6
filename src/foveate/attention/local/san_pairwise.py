"""Pairwise self-attention (SAN): each neighbour's weight, a vector, comes from its difference.

    w_n = softmax_n g(relu(f([phi(x_p) - psi(x_n), P(p) - P(n)])))      n in the k x k window of p
    out_p = sum_n w_n * beta(x_n)

``g``, ``f`` and the projections are linear, with batch normalisation. ``w_n`` has O / s channels;
s channels share one. There is no product of query and key and no projection after.

Shapes: x (B, C, H, W), out (B, O, H, W), N = H * W, T = k * k taps, r channels of the relation,
m = O / s weights.
Cost: ``N (C O + 2 C r) + N T (r (r + 2) + r m + O)`` multiply-adds, and 4 N for the positions.

Paper: Zhao et al., "Exploring Self-attention for Image Recognition", CVPR 2020, arXiv:2004.13621.
Published code: hszhao/SAN@d88b022 ``SAM(sa_type=0)``. As there, channel c has weight ``c % m``
(channels that share a weight are not neighbours) and the border is reflected; its stride is left
out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.arguments import check_map
from foveate.attention.local._patches import check_san_options, coordinates, dense, summed
from foveate.attention.local._relation import WeightMapping
from foveate.contracts import Mixer
from foveate.layout import in_format, memory_format, to_channels_last
from foveate.registry import register


@register(
    "san_pairwise",
    family="local",
    title="Pairwise vector self-attention on small windows (SAN)",
    paper="Zhao et al., Exploring Self-attention for Image Recognition, CVPR 2020, "
    "arXiv:2004.13621",
    source="hszhao/SAN@d88b022fc3ec4920d4596f94983f0e5b1ced62c6",
    license="MIT",
    tags=("weights", "self", "local", "batch_statistics", "published"),
    parity="Maps smaller than the reflected border are accepted.",
)
class PairwiseAttention(Mixer):
    """Attention with a vector of weights per pair, from the difference of its two positions.

    Args:
        dim: channels C.
        kernel_size: side of the window, odd.
        dim_out: channels that come out; ``dim`` by default.
        rel_dim: channels of the relation; a quarter of ``dim`` by default, as in the paper.
        share: how many channels share one weight; must divide those that come out.
        dilation: distance of the taps.
    """

    cancelled = ("conv_p.bias",)  # in P(p) - P(n); but for rounding

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
        self.share = share
        self.conv1 = nn.Conv2d(dim, rel_dim, 1)
        self.conv2 = nn.Conv2d(dim, rel_dim, 1)
        self.conv3 = nn.Conv2d(dim, self.dim_out, 1)
        self.conv_p = nn.Conv2d(2, 2, 1)
        self.conv_w = WeightMapping(
            rel_dim + 2,
            rel_dim,
            self.dim_out // share,
            kernel_size=kernel_size,
            dilation=dilation,
            relation="difference",
        )

    def forward(self, x: Tensor) -> Tensor:
        logits = self._logits(x)
        values = self.conv3(x)
        return summed(values, logits, self.kernel_size, self.dilation, normalize=True, like=x)

    def weights(self, x: Tensor) -> Tensor:
        """``(B, C / share, H*W, H*W)``: each weight channel in the place of a head."""
        return dense(self._logits(x).softmax(3), self.kernel_size, self.dilation)

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        values = self.conv3(x)
        channels = values.flatten(2).unflatten(1, (self.share, -1))  # (B, s, m, N)
        y = (weights[:, None] @ channels[..., None]).reshape(values.shape)
        return in_format(y, memory_format(x))

    def multiply_adds(self, height: int, width: int) -> int:
        positions, taps = height * width, self.kernel_size**2
        relation, weights = self.conv1.out_channels, self.dim_out // self.share
        project = self.dim * (self.dim_out + 2 * relation)
        mapping = relation * (relation + 2) + relation * weights
        return positions * (project + taps * (mapping + self.dim_out) + 4)

    def _logits(self, x: Tensor) -> Tensor:
        """``(B, H, W, T, C / share)``."""
        check_map(x, self.dim)
        places = self.conv_p(coordinates(x)[None]).expand(x.shape[0], -1, -1, -1)
        q, k = (
            torch.cat([to_channels_last(y), to_channels_last(places)], -1)
            for y in (self.conv1(x), self.conv2(x))
        )
        logits = self.conv_w(q, k)  # (B, m, N, T)
        return logits.permute(0, 2, 3, 1).unflatten(1, x.shape[2:])

"""CBAM: a gate over channels, then a gate over positions of what it let through.

    channel:  a = sigmoid(sum_p W2 relu(W1 p(x) + b1) + b2),   p in (avg, max) over H, W
    spatial:  s = sigmoid(BN(conv_7x7([max_C(x a), mean_C(x a)])))
    out = x * a * s

Shapes: x (B, C, H, W), W1 (C', C), W2 (C, C'), a (B, C, 1, 1), s (B, 1, H, W).
Cost: ``2 P C C' + 2 k^2 H W`` multiply-adds for P pools and a k x k convolution.

Paper: Woo et al., "CBAM: Convolutional Block Attention Module", ECCV 2018, arXiv:1807.06521.
Published code: Jongchan/attention-module. It stacks [max, mean] where the paper writes
[mean, max], adds a batch norm, and offers the pools ``lp`` (2-norm) and ``lse`` (log-sum-exp), both
sums over the map. Weights of timm's ``CbamModule`` (the other order, no biases) load with
``bias=False``. In the published ResNet the batch norm's weight starts at zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from foveate.arguments import check_map, odd, one_of, positive
from foveate.attention.gates._common import as_linear, reduced_width, rename
from foveate.attention.gates._plane import PlaneConv
from foveate.contracts import Gate
from foveate.layout import map_to_tokens
from foveate.ops import axis_pool
from foveate.registry import register

POOLS = {
    "avg": lambda x: x.mean((2, 3)),
    "max": lambda x: x.amax((2, 3)),
    "lp": lambda x: torch.linalg.vector_norm(x, dim=(2, 3)),
    "lse": lambda x: x.logsumexp((2, 3)),
}

PUBLISHED_NAMES = {
    "ChannelGate.mlp.1": "channel.fc1",
    "ChannelGate.mlp.3": "channel.fc2",
    "SpatialGate.spatial": "spatial",
    "mlp.1": "channel.fc1",
    "mlp.3": "channel.fc2",
    "spatial.conv.conv": "spatial.conv",
    "spatial.conv.bn": "spatial.bn",
}


class ChannelGate(Gate):
    """CBAM's channel gate: one bottleneck for all pools, their outputs summed.

    Args:
        dim: channels C.
        reduction: C / C', how much narrower the bottleneck is.
        bias: whether its two layers have biases.
        pools: which of avg, max, lp, lse summarise the map.
    """

    def __init__(
        self,
        dim: int,
        reduction: int = 16,
        *,
        bias: bool = True,
        pools: Sequence[str] = ("avg", "max"),
    ) -> None:
        super().__init__()
        if isinstance(pools, str) or not pools:
            raise ValueError(f"pools must name one or more of {list(POOLS)}, got {pools!r}")
        self.dim = dim
        self.pools = tuple(one_of(pool, POOLS, "pool") for pool in pools)
        self.hidden = reduced_width(dim, reduction)
        self.fc1 = nn.Linear(dim, self.hidden, bias=bias)
        self.fc2 = nn.Linear(self.hidden, dim, bias=bias)

    def gate(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        return self.fc2(self.fc1(self._pooled(x)).relu()).sum(1).sigmoid()[:, :, None, None]

    def _pooled(self, x: Tensor) -> Tensor:
        """``(B, P, C)``, in any order: they are summed."""
        if sorted(self.pools) != ["avg", "max"]:
            return torch.stack([POOLS[pool](x) for pool in self.pools], 1)
        lines = map_to_tokens(x).mT[:, :, None]  # (B, C, 1, H*W)
        return axis_pool(lines, ["width"])[0].squeeze(2)

    def multiply_adds(self, height: int, width: int) -> int:
        return 2 * len(self.pools) * self.dim * self.hidden


class SpatialGate(Gate):
    """CBAM's spatial gate: a convolution over the channels' maximum and mean.

    Args:
        dim: channels C.
        kernel_size: side of the convolution; odd.
    """

    def __init__(self, dim: int, *, kernel_size: int = 7) -> None:
        super().__init__()
        self.dim = positive(dim, "dim")
        odd(kernel_size, "kernel_size")
        self.conv = PlaneConv(kernel_size)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)

    def gate(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        (summary,) = axis_pool(x, ["channels"])  # (B, 2, H, W)
        return self.bn(self.conv(summary)).sigmoid()  # (B, 1, H, W)

    def multiply_adds(self, height: int, width: int) -> int:
        return self.conv.weight.numel() * height * width


@register(
    "cbam",
    family="gates",
    title="Convolutional block attention: channels first, then positions",
    paper="Woo et al., CBAM: Convolutional Block Attention Module, ECCV 2018, arXiv:1807.06521",
    source="Jongchan/attention-module@459efad0e05ee7dde50c41ca10a3d0800bc3792a",
    license="MIT",
    tags=("batch_statistics", "published"),
    parity="Jongchan/attention-module and timm's CbamModule, exactly",
)
class CBAM(Gate):
    """Channel gate, then spatial gate; either may be left out.

    Args:
        dim: channels C.
        reduction: how much narrower the channel gate's bottleneck is.
        channel: whether the channel gate is there.
        spatial: whether the spatial gate is there.
        pools: how the channel gate pools the map: avg, max, lp, lse.
        kernel_size: side of the spatial gate's convolution; odd.
        bias: whether the channel gate's layers have biases.
    """

    def __init__(
        self,
        dim: int,
        reduction: int = 16,
        *,
        channel: bool = True,
        spatial: bool = True,
        pools: Sequence[str] = ("avg", "max"),
        kernel_size: int = 7,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if not (channel or spatial):
            raise ValueError("cbam needs its channel gate, its spatial gate or both")
        self.dim = dim
        self.channel = ChannelGate(dim, reduction, bias=bias, pools=pools) if channel else None
        self.spatial = SpatialGate(dim, kernel_size=kernel_size) if spatial else None

    def gate(self, x: Tensor) -> Tensor:
        if self.channel is None:
            return self.spatial.gate(x)
        a = self.channel.gate(x)  # (B, C, 1, 1)
        return a if self.spatial is None else a * self.spatial.gate(x * a)  # (B, C, H, W)

    def forward(self, x: Tensor) -> Tensor:
        for gate in self._gates():
            x = gate(x)
        return x

    def _gates(self) -> list[Gate]:
        return [gate for gate in (self.channel, self.spatial) if gate is not None]

    def multiply_adds(self, height: int, width: int) -> int:
        return sum(gate.multiply_adds(height, width) for gate in self._gates())

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read the names of the published module and of its parts alone, and timm's."""
        if "spatial.conv.conv.weight" in state:  # timm stacks [mean, max]
            state["spatial.conv.conv.weight"] = state["spatial.conv.conv.weight"].flip(1)
        state = rename(state, PUBLISHED_NAMES)
        return {
            key: as_linear(value) if key.startswith("channel.") else value
            for key, value in state.items()
        }

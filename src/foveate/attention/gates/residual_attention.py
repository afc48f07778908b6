"""Residual attention: a trunk of residual blocks, gated by an hourglass that sees further.

    t = trunk(f),   m = sigmoid(head(hourglass(f))),   f = block(x)
    out = block((1 + m) * t)

A block is a pre-activation bottleneck of width C / 4. The hourglass halves the map ``levels`` times
(3x3 max pools, a block behind each, two at the bottom), then doubles it back (bilinear, corners
aligned), adding a skip block's output and passing a block at each level but the full one.

Shapes: x, t, m (B, C, H, W).
Cost: with e = 17/16 C^2, the multiply-adds of a block at one position, and n_k the positions at
level k: ``(2 + trunk_blocks) e n_0 + 2 C^2 n_0 + sum_{0<k<levels} 3 e n_k + 2 e n_levels``.

Paper: Wang et al., "Residual Attention Network for Image Classification", CVPR 2017,
arXiv:1704.06904.
Published code: fwang91/residual-attention-network (Caffe). The port that most use,
tengshaofeng/ResidualAttentionNetwork-pytorch, is another function (``variant="port"``): it adds the
way down's features, at full size the trunk's, once more after each doubling, and pads its pools;
its weights load. Its ``levels=0`` has no hourglass and adds nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import check_map, one_of, positive
from foveate.attention.gates._common import rename
from foveate.contracts import Mixer
from foveate.layout import in_format, memory_format
from foveate.registry import register


class PreActivationBlock(nn.Module):
    """A residual bottleneck: 1x1, 3x3, 1x1, each behind a batch norm and a ReLU.

    Args:
        dim: channels in.
        out: channels out; ``dim`` by default.
        stride: of the 3x3 convolution. Where it or the channels change the map, the shortcut is a
            1x1 convolution of the activated input.
    """

    def __init__(self, dim: int, out: int | None = None, stride: int = 1) -> None:
        super().__init__()
        out = dim if out is None else out
        width = out // 4
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv1 = nn.Conv2d(dim, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        same = stride == 1 and out == dim
        self.conv4 = None if same else nn.Conv2d(dim, out, 1, stride, bias=False)
        self.drop_path = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn1(x).relu()
        shortcut = x if self.conv4 is None else self.conv4(y)
        y = self.conv2(self.bn2(self.conv1(y)).relu())
        return shortcut + self.drop_path(self.conv3(self.bn3(y).relu()))


@register(
    "residual_attention",
    family="gates",
    title="Residual attention module: a trunk gated by an hourglass",
    paper="Wang et al., Residual Attention Network for Image Classification, CVPR 2017, "
    "arXiv:1704.06904",
    source="fwang91/residual-attention-network@bc207a8885168550723d19270f52c8c9c795c7ba",
    tags=("batch_statistics", "published"),
    parity="the authors' Caffe definition and, as variant='port', "
    "tengshaofeng/ResidualAttentionNetwork-pytorch, exactly",
)
class ResidualAttention(Mixer):
    """One attention module of a residual attention network.

    Args:
        dim: channels C, a multiple of 4.
        levels: how many times the hourglass halves the map; 3, 2, 1 in the network's stages.
        trunk_blocks: blocks in the trunk.
        variant: "authors" or "port", the PyTorch port that most use.
    """

    def __init__(
        self, dim: int, levels: int = 3, *, trunk_blocks: int = 2, variant: str = "authors"
    ) -> None:
        super().__init__()
        if positive(dim, "dim") % 4:
            raise ValueError(f"dim must be a multiple of 4, got {dim}")
        if levels < 0:
            raise ValueError(f"levels must be at least 0, got {levels}")
        self.dim, self.levels = dim, levels
        self.variant = one_of(variant, ("authors", "port"), "variant")
        self.first = PreActivationBlock(dim)
        self.trunk = _blocks(positive(trunk_blocks, "trunk_blocks"), dim)
        between = max(0, levels - 1)
        self.down = nn.ModuleList(_blocks(between, dim))
        self.bottom = _blocks(2, dim)
        self.skip = nn.ModuleList(_blocks(between, dim))
        self.up = nn.ModuleList(_blocks(between, dim))
        self.head = nn.Sequential(*_activated_conv(dim), *_activated_conv(dim))
        self.last = PreActivationBlock(dim)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        form = memory_format(x)
        x = self.first(x)
        trunk = self.trunk(x)
        mask = self.head(self._hourglass(x, trunk, form)).sigmoid()
        return self.last((1 + mask) * trunk)

    def _hourglass(self, x: Tensor, trunk: Tensor, form: torch.memory_format) -> Tensor:
        if self.levels == 0:
            return self.bottom(x)
        features = []
        for block in self.down:
            x = block(self._halve(x))
            features.append(x)
        x = self.bottom(self._halve(x))
        for feature, skip, block in zip(
            reversed(features), reversed(self.skip), reversed(self.up), strict=True
        ):
            x = block(self._grow(x, feature, form) + skip(feature))
        return self._grow(x, trunk, form)

    def _grow(self, x: Tensor, like: Tensor, form: torch.memory_format) -> Tensor:
        x = F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)
        x = in_format(x, form)  # a 1x1 map does not tell its own
        return x + like if self.variant == "port" else x

    def _halve(self, x: Tensor) -> Tensor:
        if self.variant == "port":
            return F.max_pool2d(x, 3, 2, padding=1)
        # Windows that run over the edge count (Caffe's pooling), and a map never vanishes.
        bottom, right = (2 if size == 1 else 1 for size in x.shape[2:])
        return F.max_pool2d(F.pad(x, (0, right, 0, bottom), value=float("-inf")), 3, 2)

    def multiply_adds(self, height: int, width: int) -> int:
        convolutions = (self.first.conv1, self.first.conv2, self.first.conv3)
        block = sum(convolution.weight.numel() for convolution in convolutions)
        total = height * width * ((2 + len(self.trunk)) * block + 2 * self.dim**2)
        for level in range(1, self.levels + 1):
            height, width = self._half(height), self._half(width)
            total += (3 if level < self.levels else 2) * block * height * width
        return total if self.levels else total + 2 * block * height * width

    def _half(self, size: int) -> int:
        return (size + 1) // 2 if self.variant == "port" else max(1, size // 2)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read the port's names; drop the shortcut that its blocks own and never use.

        Raises:
            ValueError: if the port's weights are for the authors' variant, where they would fit and
                give other numbers.
        """
        levels = self.levels
        of_port = any(key.startswith(("first_residual_", "trunk_branches.")) for key in state)
        if levels and of_port and self.variant == "authors":
            raise ValueError(
                "these are weights of tengshaofeng/ResidualAttentionNetwork-pytorch, which is "
                "another function; build the module with variant='port'"
            )
        names = {
            "first_residual_blocks": "first",
            "trunk_branches": "trunk",
            "middle_2r_blocks": "bottom",
            f"softmax{levels}_blocks": "bottom",
            f"softmax{2 * levels}_blocks": "head",
            "conv1_1_blocks": "head",
            "last_blocks": "last",
        }
        for level in range(1, levels):
            i = level - 1
            names |= {
                f"softmax{level}_blocks": f"down.{i}",
                f"down_residual_blocks{level}": f"down.{i}",
                f"skip{level}_connection_residual_block": f"skip.{i}",
                f"softmax{2 * levels - level}_blocks": f"up.{i}",
                f"up_residual_blocks{level}": f"up.{i}",
            }
        kept = {key: value for key, value in state.items() if not key.endswith(".conv4.weight")}
        return rename(kept, names)


def _blocks(count: int, dim: int) -> nn.Sequential:
    return nn.Sequential(*(PreActivationBlock(dim) for _ in range(count)))


def _activated_conv(dim: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    return nn.BatchNorm2d(dim), nn.ReLU(), nn.Conv2d(dim, dim, 1, bias=False)

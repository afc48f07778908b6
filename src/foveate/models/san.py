"""SAN: a network of self-attention on small windows, with vectors for weights.

    1x1 convolution -> five stages at 1/2, 1/4, 1/8, 1/16, 1/32, each after a 2x2 maximum and a 1x1
    a block:   x = x + conv1x1(relu(norm(attention(relu(norm(x))))))

There is no other spatial operator. Attention is pairwise or patchwise (see ``san_pairwise``,
``san_patchwise``), on windows of 3 x 3 in the first stage and 7 x 7 in the others; it gives a
quarter of the channels from relations of a sixteenth.

Shapes: images (B, in_chans, H, W) of any size, features (B, C_i, ceil(H / r_i), ceil(W / r_i)) with
r = 2, 4, 8, 16, 32 and C = 64, 256, 512, 1024, 2048.

Paper: Zhao et al., "Exploring Self-attention for Image Recognition", CVPR 2020, arXiv:2004.13621.
Published code: hszhao/SAN@d88b022 ``SAN`` (MIT). There the maximum leaves an odd last row out, here
it takes it. The published weights have no stable address.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from foveate.attention.adapt import create_attention
from foveate.layout import in_format
from foveate.models._backbone import (
    Backbone,
    Published,
    Stage,
    State,
    cfg,
    convert_parts,
    create,
    rename,
)
from foveate.models._layers import check_stages


class SANBlock(nn.Module):
    """``x + conv(relu(norm(attention(relu(norm(x))))))``.

    Args:
        dim: channels.
        attention: name of a mechanism that takes ``kernel_size``, ``dim_out``, ``rel_dim`` and
            ``share``.
        kernel_size: side of its window.
        share: how many channels share one weight.
        drop_path: probability that the branch is left out for a sample.
    """

    def __init__(
        self, dim: int, attention: str, kernel_size: int, share: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        inner = dim // 4
        self.norm1 = nn.BatchNorm2d(dim)
        self.attention = create_attention(
            attention, dim, kernel_size=kernel_size, dim_out=inner, rel_dim=dim // 16, share=share
        )
        self.norm2 = nn.BatchNorm2d(inner)
        self.conv = nn.Conv2d(inner, dim, 1)
        self.act = nn.ReLU(inplace=True)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.attention(self.act(self.norm1(x)))
        return x + self.drop_path(self.conv(self.act(self.norm2(y))))


class Stem(nn.Sequential):
    """A convolution of one by one; from here on channels lie side by side for the attention."""

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__(
            nn.Conv2d(in_chans, dim, 1, bias=False), nn.BatchNorm2d(dim), nn.ReLU(inplace=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(in_format(x, torch.channels_last))


class SAN(Backbone):
    """Self-attention network.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm; ``""`` keeps the map.
        attention: name of a mechanism that takes ``kernel_size``, ``dim_out``, ``rel_dim`` and
            ``share``: ``"san_pairwise"``, ``"san_patchwise"``, ``"acmix_patchwise"``.
        layers: blocks a stage.
        kernels: side of the window of each stage.
        dims: channels a stage.
        share: how many channels share one weight.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, rising to this in the last block.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        attention: str = "san_pairwise",
        layers: Sequence[int] = (2, 1, 2, 4, 1),
        kernels: Sequence[int] = (3, 7, 7, 7, 7),
        dims: Sequence[int] = (64, 256, 512, 1024, 2048),
        share: int = 8,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_stages(layers=layers, kernels=kernels, dims=dims)
        rates = calculate_drop_path_rates(drop_path_rate, list(layers), stagewise=True)
        stages = []
        for level, dim in enumerate(dims):
            blocks = [
                SANBlock(dim, attention, kernels[level], share, rate) for rate in rates[level]
            ]
            finish = nn.Sequential(nn.BatchNorm2d(dim), nn.ReLU(inplace=True))
            halve = nn.Sequential(
                nn.MaxPool2d(2, ceil_mode=True),
                nn.Conv2d(dims[max(level - 1, 0)], dim, 1, bias=False),
            )
            stages.append(Stage([*blocks, finish], halve))
        super().__init__(
            Stem(in_chans, dims[0]),
            stages,
            dims=dims,
            reductions=[2 * 2**level for level in range(len(dims))],
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
        )

    def convert_published(self, state: State) -> State:
        """The published names under ours; the norm that ends a stage stands with its blocks."""
        finish = [
            (rf"^bn{level}\.", f"stages.{level}.blocks.{len(stage.blocks) - 1}.0.")
            for level, stage in enumerate(self.stages)
        ]
        rules = [
            *finish,
            (r"^conv_in\.", "stem.0."),
            (r"^bn_in\.", "stem.1."),
            (r"^conv(\d)\.", r"stages.\1.downsample.1."),
            (r"^layer(\d)\.(\d+)\.bn([12])\.", r"stages.\1.blocks.\2.norm\3."),
            (r"^layer(\d)\.(\d+)\.sam\.", r"stages.\1.blocks.\2.attention."),
            (r"^layer(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
            (r"^fc\.", "head.fc."),
        ]
        return convert_parts(self, rename(state, rules))


LAYERS = {10: (2, 1, 2, 4, 1), 15: (3, 2, 3, 5, 2), 19: (3, 3, 4, 6, 3)}
"""Blocks a stage by the network's number."""

_SOURCE = "README of the published code"
_NOTE = "The published counter takes in norms, activations and pooling."
PUBLISHED = {
    "san10_pairwise": Published("10.5M", "2.2G", 74.9, source=_SOURCE, note=_NOTE),
    "san15_pairwise": Published("14.1M", "3.0G", 76.6, source=_SOURCE, note=_NOTE),
    "san19_pairwise": Published("17.6M", "3.8G", 76.9, source=_SOURCE, note=_NOTE),
    "san10_patchwise": Published("11.8M", "1.9G", 77.1, source=_SOURCE, note=_NOTE),
    "san15_patchwise": Published("16.2M", "2.6G", 78.0, source=_SOURCE, note=_NOTE),
    "san19_patchwise": Published("20.5M", "3.3G", 78.2, source=_SOURCE, note=_NOTE),
}

_CFG = cfg(
    interpolation="bilinear",
    first_conv="stem.0",
    origin_url="https://github.com/hszhao/SAN",
    license="mit",
)

default_cfgs = generate_default_cfgs({f"{name}.untrained": _CFG for name in PUBLISHED})


def create_san(variant: str, number: int, pretrained: bool, **kwargs: Any) -> SAN:
    """The variant with the blocks of SAN10, 15 or 19."""
    defaults = {"layers": LAYERS[number], "out_indices": (0, 1, 2, 3, 4)}
    return create(SAN, variant, pretrained, **{**defaults, **kwargs})


def _create(variant: str, number: int, pretrained: bool, **kwargs: Any) -> SAN:
    attention = "san_" + variant.partition("_")[2]
    return create_san(variant, number, pretrained, **{"attention": attention, **kwargs})


@register_model
def san10_pairwise(pretrained: bool = False, **kwargs: Any) -> SAN:
    """SAN10 with pairwise attention."""
    return _create("san10_pairwise", 10, pretrained, **kwargs)


@register_model
def san15_pairwise(pretrained: bool = False, **kwargs: Any) -> SAN:
    """SAN15 with pairwise attention."""
    return _create("san15_pairwise", 15, pretrained, **kwargs)


@register_model
def san19_pairwise(pretrained: bool = False, **kwargs: Any) -> SAN:
    """SAN19 with pairwise attention."""
    return _create("san19_pairwise", 19, pretrained, **kwargs)


@register_model
def san10_patchwise(pretrained: bool = False, **kwargs: Any) -> SAN:
    """SAN10 with patchwise attention."""
    return _create("san10_patchwise", 10, pretrained, **kwargs)


@register_model
def san15_patchwise(pretrained: bool = False, **kwargs: Any) -> SAN:
    """SAN15 with patchwise attention."""
    return _create("san15_patchwise", 15, pretrained, **kwargs)


@register_model
def san19_patchwise(pretrained: bool = False, **kwargs: Any) -> SAN:
    """SAN19 with patchwise attention."""
    return _create("san19_patchwise", 19, pretrained, **kwargs)

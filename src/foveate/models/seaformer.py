"""SeaFormer: inverted residuals for phones, and squeeze-axial attention where the map is coarse.

    stem /2, then five stages at 1/4, 1/8, 1/16, 1/32, 1/64 of inverted residuals; in the last
    stages blocks follow them,
    x = x + attention(x)            see ``foveate.attention.window.squeeze_axial``
    x = x + mlp(x)                  with a depthwise convolution inside

    segmentation: :mod:`foveate.heads.light` on stage 2 and the stages with attention

There are no norms in front of the branches: every convolution has a batch normalisation.

Shapes: images (B, in_chans, H, W), features (B, C_i, ceil(H / r_i), ceil(W / r_i)), r = 4, 8, 16,
32, 64; segmentation (B, classes, H, W).

Paper: Wan et al., "SeaFormer: Squeeze-enhanced Axial Transformer for Mobile Semantic Segmentation",
ICLR 2023, arXiv:2301.13156.
Published code: fudan-zvg/SeaFormer@9718d05 ``SeaFormer`` of seaformer-cls and seaformer-seg,
Apache-2.0. Its classifier has a thousand classes whatever it is asked for; here
``num_classes``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import timm
import torch
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import one_of
from foveate.attention._conv_norm import ConvNorm
from foveate.attention.window.squeeze_axial import SqueezeAxialAttention
from foveate.heads.light import LightHead
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

__all__ = [
    "SeaFormer",
    "SeaFormerSegmentation",
    "seaformer_base",
    "seaformer_large",
    "seaformer_small",
    "seaformer_tiny",
]


class InvertedResidual(nn.Module):
    """MobileNetV2's block: wider, a depthwise convolution, narrower; beside the identity if alike.

    Args:
        in_chans: channels of the input.
        dim: channels of the output.
        kernel_size: of the depthwise convolution.
        stride: of the depthwise convolution.
        expansion: channels between over ``in_chans``; with 1 nothing widens.
    """

    def __init__(
        self, in_chans: int, dim: int, kernel_size: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        hidden = in_chans * expansion
        widen = [ConvNorm(in_chans, hidden), nn.ReLU(inplace=True)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *widen,
            ConvNorm(hidden, hidden, kernel_size, stride=stride, groups=hidden),
            nn.ReLU(inplace=True),
            ConvNorm(hidden, dim),
        )
        self.residual = stride == 1 and in_chans == dim

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class ConvMlp(nn.Module):
    """Two linear layers with batch normalisation, and a depthwise convolution between them.

    Args:
        dim: channels.
        hidden: channels between the two.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = ConvNorm(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.act = nn.ReLU6(inplace=True)
        self.fc2 = ConvNorm(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.dwconv(self.fc1(x))))


class SeaFormerBlock(nn.Module):
    """Attention and an MLP, each beside the identity.

    Args:
        dim: channels.
        attention: ``(B, C, H, W) -> (B, C, H, W)``.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        drop_path: probability that a branch is left out for a sample.
    """

    def __init__(self, dim: int, attention: nn.Module, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.attention = attention
        self.mlp = ConvMlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(x))
        return x + self.drop_path(self.mlp(x))


class Stem(nn.Sequential):
    """A convolution that halves the image, and an inverted residual.

    Args:
        in_chans: channels of the images.
        dim: channels of the output.
        expansion: of the inverted residual.
    """

    def __init__(self, in_chans: int, dim: int, expansion: int) -> None:
        super().__init__(
            ConvNorm(in_chans, dim, 3, stride=2),
            nn.ReLU(inplace=True),
            InvertedResidual(dim, dim, 3, 1, expansion),
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(in_format(x, torch.channels_last))


class SeaFormer(Backbone):
    """SeaFormer's backbone; a timm model in full.

    ``depths``, ``key_dims`` and ``mlp_ratios`` have one entry for each stage with attention, which
    are the last ones.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm; ``""`` keeps the map.
        stem_dim: channels of the stem.
        stem_expansion: of the stem's inverted residual.
        dims: channels a stage.
        expansions: of the inverted residuals, a stage.
        kernel_sizes: of the inverted residuals, a stage.
        depths: blocks with attention.
        num_heads: heads.
        key_dims: channels of a head's queries and keys.
        attn_ratio: channels of a head's values, in those of its keys.
        mlp_ratios: hidden channels of an MLP over the stage's.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, rising to this through each stage with attention.
    """

    spared: ClassVar[tuple[str, ...]] = (*Backbone.spared, "position_")

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        stem_dim: int = 16,
        stem_expansion: int = 1,
        dims: Sequence[int] = (16, 32, 64, 128, 160),
        expansions: Sequence[Sequence[int]] = ((4, 3), (3, 3), (3, 3), (3,), (6,)),
        kernel_sizes: Sequence[int] = (3, 5, 3, 5, 3),
        depths: Sequence[int] = (2, 2),
        num_heads: int = 4,
        key_dims: Sequence[int] = (16, 24),
        attn_ratio: float = 2,
        mlp_ratios: Sequence[float] = (2, 4),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_stages(dims=dims, expansions=expansions, kernel_sizes=kernel_sizes)
        check_stages(depths=depths, key_dims=key_dims, mlp_ratios=mlp_ratios)

        def residuals(level: int) -> list[nn.Module]:
            dim, kernel_size = dims[level], kernel_sizes[level]
            before = dims[level - 1] if level else stem_dim
            halving, *others = expansions[level]
            return [
                InvertedResidual(before, dim, kernel_size, 2, halving),
                *(InvertedResidual(dim, dim, kernel_size, 1, expansion) for expansion in others),
            ]

        def blocks(index: int) -> list[nn.Module]:
            dim = dims[first + index]
            return [
                SeaFormerBlock(
                    dim,
                    SqueezeAxialAttention(dim, num_heads, key_dims[index], attn_ratio),
                    mlp_ratios[index],
                    rate,
                )
                for rate in calculate_drop_path_rates(drop_path_rate, depths[index])
            ]

        first = len(dims) - len(depths)
        super().__init__(
            Stem(in_chans, stem_dim, stem_expansion),
            [
                Stage(residuals(level) + (blocks(level - first) if level >= first else []))
                for level in range(len(dims))
            ],
            dims=dims,
            reductions=[4 * 2**level for level in range(len(dims))],
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
        )
        self.attention_stages = tuple(range(first, len(dims)))

    def convert_published(self, state: State) -> State:
        """The published network's state, which numbers inverted residuals and blocks apart."""
        first = self.attention_stages[0]
        before = [
            sum(isinstance(block, InvertedResidual) for block in stage.blocks)
            for stage in self.stages
        ]

        def block(found: Any) -> str:
            level = first + int(found[1]) - 1
            return f"stages.{level}.blocks.{before[level] + int(found[2])}."

        names = [
            (r"^smb1\.stem_block\.0\.", "stem.0."),
            (r"^smb1\.layer1\.", "stem.2."),
            (r"^smb1\.layer(\d+)\.", lambda found: f"stages.0.blocks.{int(found[1]) - 2}."),
            (
                r"^smb(\d)\.layer(\d+)\.",
                lambda found: f"stages.{int(found[1]) - 1}.blocks.{int(found[2]) - 1}.",
            ),
            (r"^trans(\d)\.transformer_blocks\.(\d+)\.", block),
            (r"\.attn\.", ".attention."),
            (r"\.c\.weight$", ".conv.weight"),
            (r"^linear\.", "head.fc."),
        ]
        return convert_parts(self, rename(state, names))


HEADS = {
    "seaformer_tiny": (64, 96),
    "seaformer_small": (96, 128),
    "seaformer_base": (128, 160),
    "seaformer_large": (128, 160, 192),
}
"""Channels of the light head over each variant, after each of its fusions."""


class SeaFormerSegmentation(nn.Module):
    """SeaFormer with its light head: a class for every pixel.

    Published on ADE20K at 512 x 512 (seaformer-seg/README, batches of 2 x 8 and 4 x 8): tiny 1.7 M
    parameters, 0.6 G multiply-adds, mIoU 35.0 and 36.5; small 4.0 M, 1.1 G, 38.9 and 39.5; base
    8.6 M, 1.8 G, 41.2 and 41.9; large 14.0 M, 6.5 G, 43.0 and 43.8.

    Args:
        variant: name of the backbone, such as ``"seaformer_tiny"``.
        num_classes: classes.
        dims: channels of the head after each fusion; the variant's own by default.
        dropout: of whole channels before the classifier.
        **kwargs: of the backbone, as for ``timm.create_model``.
    """

    def __init__(
        self,
        variant: str = "seaformer_tiny",
        num_classes: int = 150,
        dims: Sequence[int] | None = None,
        dropout: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        self.encoder = timm.create_model(one_of(variant, HEADS, "variant"), num_classes=0, **kwargs)
        self.levels = [1, *self.encoder.attention_stages]
        channels = [self.encoder.feature_info[level]["num_chs"] for level in self.levels]
        dims = HEADS[variant] if dims is None else dims
        self.head = LightHead(channels, num_classes, dims=dims, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, in_chans, H, W)`` to logits ``(B, classes, H, W)``."""
        return F.interpolate(self.head(self.features(x)), x.shape[2:], mode="bilinear")

    def features(self, x: Tensor) -> list[Tensor]:
        """What the head reads: the map at 1/8 and those of the stages with attention."""
        return self.encoder.forward_intermediates(x, self.levels, intermediates_only=True)

    def convert_published(self, state: State) -> State:
        """The state of mmsegmentation's encoder and decoder; auxiliary entries are refused."""
        names = [
            (r"^backbone\.", "encoder."),
            (r"^decode_head\.", "head."),
        ]
        return convert_parts(self, rename(state, names))


PUBLISHED = {
    "seaformer_tiny": Published("1.8M", "0.1G", 68.1, source="README"),
    "seaformer_small": Published("4.1M", "0.2G", 73.4, source="README"),
    "seaformer_base": Published("8.7M", "0.3G", 76.4, source="README"),
    "seaformer_large": Published("14.0M", "1.2G", 79.9, source="README"),
}

_CFG = cfg(
    first_conv="stem.0.conv",
    pool_size=(4, 4),
    license="apache-2.0",
    origin_url="https://github.com/fudan-zvg/SeaFormer",
    paper_ids="arXiv:2301.13156",
)

default_cfgs = generate_default_cfgs({f"{name}.untrained": _CFG for name in PUBLISHED})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> SeaFormer:
    kwargs.setdefault("out_indices", (0, 1, 2, 3, 4))
    return create(SeaFormer, variant, pretrained, **kwargs)


@register_model
def seaformer_tiny(pretrained: bool = False, **kwargs: Any) -> SeaFormer:
    """SeaFormer-T: 1.8 M parameters."""
    return _create("seaformer_tiny", pretrained, **kwargs)


@register_model
def seaformer_small(pretrained: bool = False, **kwargs: Any) -> SeaFormer:
    """SeaFormer-S: 4.1 M parameters."""
    sizes = {
        "dims": (24, 48, 96, 160, 192),
        "expansions": ((4, 3), (3, 3), (3, 3), (4,), (6,)),
        "depths": (3, 3),
        "num_heads": 6,
    }
    return _create("seaformer_small", pretrained, **{**sizes, **kwargs})


@register_model
def seaformer_base(pretrained: bool = False, **kwargs: Any) -> SeaFormer:
    """SeaFormer-B: 8.7 M parameters."""
    sizes = {
        "dims": (32, 64, 128, 192, 256),
        "expansions": ((4, 3), (3, 3), (3, 3), (4,), (6,)),
        "depths": (4, 4),
        "num_heads": 8,
    }
    return _create("seaformer_base", pretrained, **{**sizes, **kwargs})


@register_model
def seaformer_large(pretrained: bool = False, **kwargs: Any) -> SeaFormer:
    """SeaFormer-L: 14 M parameters, three stages with attention."""
    sizes = {
        "stem_dim": 32,
        "stem_expansion": 3,
        "dims": (64, 128, 192, 256, 320),
        "expansions": ((4, 4), (4, 4), (4, 4), (4,), (6,)),
        "depths": (3, 3, 3),
        "num_heads": 8,
        "key_dims": (16, 20, 24),
        "mlp_ratios": (2, 4, 6),
    }
    return _create("seaformer_large", pretrained, **{**sizes, **kwargs})

"""DAT++: neighbourhoods and deformed sampling points in turn, between convolutions.

    stem /4, then four stages at 1/4, 1/8, 1/16, 1/32; a block is
    x = x + conv3x3(x)              depthwise: the local perception unit
    x = x + attention(norm(x))      of a kind that the stage's ``spec`` names
    x = x + mlp(norm(x))            with a depthwise convolution inside

Shapes: images (B, in_chans, H, W), features (B, C_i, ceil(H / r_i), ceil(W / r_i)), r = 4, 8, 16,
32. The tables of position biases are laid out for ``img_size`` and interpolated at other sizes.

Papers: Xia et al., "DAT++: Spatially Dynamic Vision Transformer with Deformable Attention", 2023,
arXiv:2309.01430, whose networks these are; Xia et al., "Vision Transformer with Deformable
Attention", CVPR 2022, arXiv:2201.00520. The DAT-T, -S and -B of the first paper are others: windows
and shifted windows in the first stages, deformable attention in every second block of the last two.
They are arrangements of the same parts (``spec=("LS", "LS", "LD" * 3, "LD")`` and patches, MLPs and
positions without convolutions), whose weights the second paper's code no longer provides.
Published code: LeapLabTHU/DAT@32173fc ``DAT`` (configs/dat_tiny.yaml and its like), Apache-2.0. Its
blocks by spatial reduction, slide attention, query and attend, and convolution alone are left out:
no published network has them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from timm.layers import LayerNorm2d, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from foveate.arguments import one_of, pair
from foveate.attention._dropout import Dropout
from foveate.attention.full.deformable import DeformableAttention
from foveate.attention.local.neighborhood import NeighborhoodAttention
from foveate.attention.window.window import WindowAttention
from foveate.layout import in_format, to_channels_last
from foveate.models._activation import linear_of
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
from foveate.models._layers import Block, PatchEmbed, ResidualDepthwise

__all__ = ["DAT", "dat_base", "dat_small", "dat_tiny"]

KINDS = {
    "D": "deformable attention",
    "N": "neighborhood attention",
    "L": "attention in windows",
    "S": "attention in windows shifted by half their side, rounded up",
}
"""What a letter of ``spec`` stands for."""


class ConvMlp(nn.Module):
    """Two linear layers, with a depthwise convolution beside the identity between them.

    Args:
        dim: channels.
        hidden: channels between the two.
        drop: dropout after each.
    """

    def __init__(self, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = ResidualDepthwise(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.fc1(to_channels_last(x))).permute(0, 3, 1, 2)
        y = linear_of(self.act, to_channels_last(self.dwconv(y)), self.fc2)
        return self.drop(y).permute(0, 3, 1, 2)


class DATBlock(Block):
    """The residual block after a local perception unit.

    Args:
        dim: channels.
        attention: ``(B, C, H, W) -> (B, C, H, W)``.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        drop: dropout in the MLP.
        drop_path: probability that a branch is left out for a sample.
        layer_scale: first value of a learned factor per channel of each branch; None for none.
        conv_position: whether there is a local perception unit.
        conv_mlp: whether the MLP has a convolution.
    """

    def __init__(
        self,
        dim: int,
        attention: nn.Module,
        mlp_ratio: float,
        drop: float,
        drop_path: float,
        layer_scale: float | None,
        conv_position: bool,
        conv_mlp: bool,
    ) -> None:
        super().__init__(dim, attention, mlp_ratio, drop, drop_path, layer_scale)
        if conv_mlp:
            self.mlp = ConvMlp(dim, int(dim * mlp_ratio), drop)
        self.position = None
        if conv_position:
            self.position = ResidualDepthwise(dim)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.position is None else self.position(x))


class ConvStem(nn.Sequential):
    """Two convolutions that halve the image, each normed.

    Args:
        in_chans: channels of the images.
        dim: channels of the output.
    """

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__(
            nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1),
            LayerNorm2d(dim // 2, eps=1e-5),
            nn.GELU(),
            nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
            LayerNorm2d(dim, eps=1e-5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return in_format(super().forward(x), torch.channels_last)


class DAT(Backbone):
    """The vision transformer with deformable attention; a timm model in full.

    Where an argument says a stage, it has one value for each.

    Args:
        img_size: of the images that the position tables are laid out for; others are interpolated.
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm; ``""`` keeps the map.
        dims: channels a stage.
        depths: blocks a stage.
        spec: a letter a block, a stage: D deformable, N neighborhood, L windows, S shifted windows.
        num_heads: heads a stage.
        groups: groups of heads with their own points, a stage.
        strides: distance of the reference points, a stage.
        offset_kernels: kernel of the convolution that reads the offsets, a stage.
        offset_range: largest offset in reference cells, a stage; negative: any, kept on the map.
        offsets: whether points move, a stage.
        position: position term of deformable attention, a stage: "table", "log", "convolution" or
            "none".
        kernel_size: of the neighborhoods, a stage.
        window_size: of the windows, a stage.
        mlp_ratio: hidden channels of an MLP over the stage's.
        layer_scale: first value of a learned factor per channel of each branch; None for none.
        conv_patches: whether the convolutions that down-sample overlap.
        conv_position: whether blocks begin with a local perception unit.
        conv_mlp: whether MLPs have a convolution.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout of attention's output and in the MLPs.
        attn_drop_rate: dropout of attention's weights.
        drop_path_rate: stochastic depth, rising to this in the last block.
    """

    spared: ClassVar[tuple[str, ...]] = (*Backbone.spared, "rpe_table", "rpb")
    dense_norms = True

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 4, 18, 2),
        spec: Sequence[str] = ("ND", "ND" * 2, "ND" * 9, "DD"),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        groups: Sequence[int] = (1, 2, 4, 8),
        strides: Sequence[int] = (8, 4, 2, 1),
        offset_kernels: Sequence[int] = (9, 7, 5, 3),
        offset_range: Sequence[float] = (-1, -1, -1, -1),
        offsets: Sequence[bool] = (True, True, True, True),
        position: Sequence[str] = ("table", "table", "table", "table"),
        kernel_size: Sequence[int] = (7, 7, 7, 7),
        window_size: Sequence[int] = (7, 7, 7, 7),
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        conv_patches: bool = True,
        conv_position: bool = True,
        conv_mlp: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        for level, (letters, depth) in enumerate(zip(spec, depths, strict=True)):
            if len(letters) < depth:
                raise ValueError(
                    f"spec needs a letter for each block: stage {level} has depths={depth} and "
                    f"spec={letters!r}"
                )
        drops = {"attn_drop": attn_drop_rate, "proj_drop": proj_drop_rate}

        def attention(level: int, kind: str) -> nn.Module:
            dim, heads, window = dims[level], num_heads[level], window_size[level]
            if one_of(kind, KINDS, "letter of spec") == "N":
                return NeighborhoodAttention(dim, heads, kernel_size[level], **drops)
            if kind in "LS":
                shift = -(-window // 2) if kind == "S" else 0
                return WindowAttention(dim, heads, window, shift, **drops)
            return DeformableAttention(
                dim,
                heads,
                groups[level],
                strides[level],
                offset_kernels[level],
                offset_range=offset_range[level],
                offsets=offsets[level],
                position=position[level],
                table_size=table_size(level),
                **drops,
            )

        def table_size(level: int) -> tuple[int, int]:
            height, width = pair(img_size, "img_size", at_least=32)
            return height // 2 ** (level + 2), width // 2 ** (level + 2)

        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for level, dim in enumerate(dims):
            blocks = [
                DATBlock(
                    dim,
                    attention(level, kind),
                    mlp_ratio,
                    proj_drop_rate,
                    rate,
                    layer_scale,
                    conv_position,
                    conv_mlp,
                )
                for kind, rate in zip(spec[level], rates[level], strict=False)
            ]
            stages.append(
                Stage(blocks, halve(dims[level - 1], dim, conv_patches) if level else None)
            )
        stem = ConvStem if conv_patches else patches
        super().__init__(
            stem(in_chans, dims[0]),
            stages,
            dims=dims,
            norm=LayerNorm2d(dims[-1], eps=1e-5),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
        )

    def convert_published(self, state: State) -> State:
        """The published network's state: its linear maps are 1x1 where an MLP has a convolution."""
        stem = CONV_STEM if isinstance(self.stem, ConvStem) else PATCH_STEM
        windows = [
            (rf"^{re.escape(name)}\.proj_out\.", f"{name}.proj.")
            for name, part in self.named_modules()
            if isinstance(part, WindowAttention)
        ]
        state = rename(state, [*stem, *PUBLISHED_NAMES, *windows])
        mlps = (".mlp.fc1.weight", ".mlp.fc2.weight")
        state = {key: v.flatten(1) if key.endswith(mlps) else v for key, v in state.items()}
        return convert_parts(self, state)


def halve(in_chans: int, dim: int, overlap: bool) -> nn.Module:
    """A convolution of stride 2 without bias, over 3x3 or 2x2 cells, and a norm."""
    norm = LayerNorm2d(dim, eps=1e-5)
    return PatchEmbed(in_chans, dim, 2, norm, 3 if overlap else None, bias=False)


def patches(in_chans: int, dim: int) -> nn.Module:
    """Patches of 4x4, normed."""
    return PatchEmbed(in_chans, dim, 4, LayerNorm2d(dim, eps=1e-5))


CONV_STEM = [
    (r"^patch_proj\.([14])\.norm\.", r"stem.\1."),
    (r"^patch_proj\.", "stem."),
]
PATCH_STEM = [
    (r"^patch_proj\.0\.", "stem.proj."),
    (r"^patch_proj\.1\.norm\.", "stem.norm."),
]


def at_block(name: str) -> Callable[[re.Match[str]], str]:
    """The replacement of one of two entries a block, numbered through the stage."""
    return lambda found: f".blocks.{int(found[1]) // 2}.{name}{int(found[1]) % 2 + 1}."


PUBLISHED_NAMES = [
    (r"^down_projs\.(\d)\.", lambda found: f"stages.{int(found[1]) + 1}.downsample."),
    (r"\.downsample\.0\.", ".downsample.proj."),
    (r"\.downsample\.1\.norm\.", ".downsample.norm."),
    (r"\.layer_norms\.(\d+)\.norm\.", at_block("norm")),
    (r"\.layer_scales\.(\d+)\.weight$", at_block("scale")),
    (r"\.(scale[12])\.$", r".\1.gamma"),
    (r"\.local_perception_units\.(\d+)\.", r".blocks.\1.position."),
    (r"\.attns\.(\d+)\.", r".blocks.\1.attention."),
    (r"\.attention\.proj_qkv\.", ".attention.qkv."),
    (r"\.mlps\.(\d+)\.(?:chunk\.)?", r".blocks.\1.mlp."),
    (r"\.mlp\.linear([12])\.(?:0\.)?", r".mlp.fc\1."),
    (r"\.mlp\.dwc\.", ".mlp.dwconv."),
    (r"^cls_norm\.norm\.", "norm."),
    (r"^cls_head\.", "head.fc."),
]

PUBLISHED = {
    "dat_tiny": Published("24M", "4.3G", 83.9, source="arXiv:2309.01430; README"),
    "dat_small": Published("53M", "9.4G", 84.6, source="arXiv:2309.01430; README"),
    "dat_base": Published("93M", "16.6G", 84.9, source="arXiv:2309.01430; README"),
}

_CFG = cfg(
    crop_mode="squash",
    first_conv="stem.0",
    license="apache-2.0",
    origin_url="https://github.com/LeapLabTHU/DAT",
    paper_ids="arXiv:2309.01430",
)

default_cfgs = generate_default_cfgs({f"{name}.untrained": _CFG for name in PUBLISHED})


@register_model
def dat_tiny(pretrained: bool = False, **kwargs: Any) -> DAT:
    """DAT-T++: 24 M parameters."""
    return create(DAT, "dat_tiny", pretrained, **kwargs)


@register_model
def dat_small(pretrained: bool = False, **kwargs: Any) -> DAT:
    """DAT-S++: 53 M parameters."""
    sizes = {
        "dims": (96, 192, 384, 768),
        "num_heads": (3, 6, 12, 24),
        "groups": (1, 2, 3, 6),
    }
    return create(DAT, "dat_small", pretrained, **{**sizes, **kwargs})


@register_model
def dat_base(pretrained: bool = False, **kwargs: Any) -> DAT:
    """DAT-B++: 93 M parameters."""
    sizes = {
        "dims": (128, 256, 512, 1024),
        "num_heads": (4, 8, 16, 32),
        "groups": (2, 4, 8, 16),
    }
    return create(DAT, "dat_base", pretrained, **{**sizes, **kwargs})

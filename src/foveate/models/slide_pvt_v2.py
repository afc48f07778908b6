"""Slide-PVTv2: slide attention in PVT v2's first two stages, PVT's own in the last two.

    overlapping patches of 4, then of 2 between four stages at 1/4, 1/8, 1/16, 1/32; a block is
    x = x + attention(norm(x))      stages 1, 2: slide, 3 x 3; stages 3, 4: to a reduced map
    x = x + mlp(norm(x))            with a depthwise convolution inside, which tells positions
    and a norm ends every stage.

Shapes: images (B, in_chans, H, W), features (B, C_i, ceil(H / r_i), ceil(W / r_i)), r = 4, 8, 16,
32.

Papers: Pan et al., "Slide-Transformer: Hierarchical Vision Transformer with Local Self-Attention",
CVPR 2023, arXiv:2304.04237; Wang et al., "PVT v2", CVMJ 2022, arXiv:2106.13797.
Published code: none of Slide-PVTv2. That two stages slide, with windows of 3 x 3, follows from the
paper's parameters of B1. The network around them is whai362/PVT@57e2dfa
``PyramidVisionTransformerV2`` (Apache-2.0), which timm has as ``pvt_v2_b1`` and so on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from timm.layers import LayerNorm2d, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from foveate.layout import to_channels_last
from foveate.models._backbone import Backbone, Published, Stage, cfg, create
from foveate.models._layers import (
    Block,
    MapMlp,
    PatchEmbed,
    check_stages,
    create_mixer,
    init_trunc_normal,
)

__all__ = [
    "SlidePVTv2",
    "slide_pvt_v2_b0",
    "slide_pvt_v2_b1",
    "slide_pvt_v2_b2",
    "slide_pvt_v2_b3",
    "slide_pvt_v2_b4",
    "slide_pvt_v2_b5",
]


class ConvolutionMlp(MapMlp):
    """The MLP with a depthwise convolution between its layers.

    Args:
        dim: channels.
        hidden: channels between the two.
        drop: dropout after each.
    """

    def __init__(self, dim: int, hidden: int, drop: float = 0.0) -> None:
        super().__init__(dim, hidden, drop)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(self.fc1(to_channels_last(x)).permute(0, 3, 1, 2))
        return self._second(to_channels_last(y))


class ConvolutionBlock(Block):
    """The residual block with :class:`ConvolutionMlp`.

    Args:
        dim: channels.
        attention: ``(B, C, H, W) -> (B, C, H, W)``.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        drop: dropout in the MLP.
        drop_path: probability that a branch is left out for a sample.
    """

    def __init__(
        self, dim: int, attention: nn.Module, mlp_ratio: float, drop: float, drop_path: float
    ) -> None:
        super().__init__(dim, attention, mlp_ratio, drop, drop_path, eps=1e-6)
        self.mlp = ConvolutionMlp(dim, int(dim * mlp_ratio), drop)


class SlidePVTv2(Backbone):
    """PVT v2's backbone around a mechanism of each stage's own.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm; ``""`` keeps the map.
        depths: blocks a stage.
        dims: channels a stage.
        num_heads: heads a stage.
        sr_ratios: how many times smaller the map is made a stage, where that is the mechanism.
        attention: mechanism a stage, by name.
        mlp_ratios: hidden channels of the MLP over the stage's, a stage.
        qkv_bias: whether q, k, v projections have a bias.
        qk_scale: factor of the products of queries and keys; ``head_dim**-0.5`` if None.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout in the blocks.
        attn_drop_rate: dropout of the attention weights.
        drop_path_rate: stochastic depth, rising to this in the last block.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (3, 4, 6, 3),
        dims: Sequence[int] = (64, 128, 320, 512),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        attention: Sequence[str] = ("slide", "slide", "spatial_reduction", "spatial_reduction"),
        mlp_ratios: Sequence[float] = (8.0, 8.0, 4.0, 4.0),
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_stages(
            depths=depths,
            dims=dims,
            num_heads=num_heads,
            sr_ratios=sr_ratios,
            attention=attention,
            mlp_ratios=mlp_ratios,
        )
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)

        def block(level: int, rate: float) -> ConvolutionBlock:
            mixer = create_mixer(
                attention[level],
                dims[level],
                {} if qk_scale is None else {"qk_scale": qk_scale},
                num_heads=num_heads[level],
                qkv_bias=qkv_bias,
                attn_drop=attn_drop_rate,
                proj_drop=proj_drop_rate,
                sr_ratio=sr_ratios[level],
            )
            return ConvolutionBlock(dims[level], mixer, mlp_ratios[level], proj_drop_rate, rate)

        def patches(level: int) -> PatchEmbed:
            norm = LayerNorm2d(dims[level], eps=1e-5)
            if level == 0:
                return PatchEmbed(in_chans, dims[0], 4, norm, kernel_size=7)
            return PatchEmbed(dims[level - 1], dims[level], 2, norm, kernel_size=3)

        stages = []
        for level, dim in enumerate(dims):
            blocks = [block(level, rate) for rate in rates[level]]
            ends = [*blocks, LayerNorm2d(dim, eps=1e-6)]
            stages.append(Stage(ends, patches(level) if level else None))
        super().__init__(
            patches(0),
            stages,
            dims=dims,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
        )
        init_trunc_normal(self, nn.Linear)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
                nn.init.zeros_(module.bias)


_SOURCE = "table 1 of the paper"
_UNEXPLAINED = (
    "Slide attention in two stages of PVT v2-B2, which is what gives the printed parameters of B1, "
    "has 23.6M, and the printed multiply-adds; no published code says where B2 differs."
)
_POINT = Published(source="a point in a figure of the paper, without numbers")
PUBLISHED = {
    "slide_pvt_v2_b0": Published(note="Of this library: the paper has no model of this size."),
    "slide_pvt_v2_b1": Published("13.0M", "2.2G", 79.5, source=_SOURCE),
    "slide_pvt_v2_b2": Published("22.8M", "4.2G", 82.7, source=_SOURCE, note=_UNEXPLAINED),
    "slide_pvt_v2_b3": _POINT,
    "slide_pvt_v2_b4": _POINT,
    "slide_pvt_v2_b5": Published(note="Of this library: the paper has no model of this size."),
}

default_cfgs = generate_default_cfgs(
    {f"{name}.untrained": cfg(first_conv="stem.proj") for name in PUBLISHED}
)


@register_model
def slide_pvt_v2_b0(pretrained: bool = False, **kwargs: Any) -> SlidePVTv2:
    """Slide-PVTv2-B0."""
    sizes = {"depths": (2, 2, 2, 2), "dims": (32, 64, 160, 256)}
    return create(SlidePVTv2, "slide_pvt_v2_b0", pretrained, **{**sizes, **kwargs})


@register_model
def slide_pvt_v2_b1(pretrained: bool = False, **kwargs: Any) -> SlidePVTv2:
    """Slide-PVTv2-B1."""
    sizes = {"depths": (2, 2, 2, 2)}
    return create(SlidePVTv2, "slide_pvt_v2_b1", pretrained, **{**sizes, **kwargs})


@register_model
def slide_pvt_v2_b2(pretrained: bool = False, **kwargs: Any) -> SlidePVTv2:
    """Slide-PVTv2-B2."""
    return create(SlidePVTv2, "slide_pvt_v2_b2", pretrained, **kwargs)


@register_model
def slide_pvt_v2_b3(pretrained: bool = False, **kwargs: Any) -> SlidePVTv2:
    """Slide-PVTv2-B3."""
    sizes = {"depths": (3, 4, 18, 3)}
    return create(SlidePVTv2, "slide_pvt_v2_b3", pretrained, **{**sizes, **kwargs})


@register_model
def slide_pvt_v2_b4(pretrained: bool = False, **kwargs: Any) -> SlidePVTv2:
    """Slide-PVTv2-B4."""
    sizes = {"depths": (3, 8, 27, 3)}
    return create(SlidePVTv2, "slide_pvt_v2_b4", pretrained, **{**sizes, **kwargs})


@register_model
def slide_pvt_v2_b5(pretrained: bool = False, **kwargs: Any) -> SlidePVTv2:
    """Slide-PVTv2-B5."""
    sizes = {"depths": (3, 6, 40, 3), "mlp_ratios": (4.0, 4.0, 4.0, 4.0)}
    return create(SlidePVTv2, "slide_pvt_v2_b5", pretrained, **{**sizes, **kwargs})

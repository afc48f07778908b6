"""Slide-NAT: slide attention in NAT's first two stages, neighborhood attention in the last two.

    stages 1, 2 at 1/4, 1/8     slide attention, 3 x 3
    stages 3, 4 at 1/16, 1/32   neighborhood attention, 7 x 7

Shapes: images (B, in_chans, H, W) of any size, features (B, C_i, ceil(H / r_i), ceil(W / r_i)) with
r = 4, 8, 16, 32.

Paper: Pan et al., "Slide-Transformer: Hierarchical Vision Transformer with Local Self-Attention",
CVPR 2023, arXiv:2304.04237. Its authors published the code of Slide-Swin alone. That two stages
slide, with windows of 3 x 3, is theirs for Swin and what their figures say for PVT; NAT's parameter
counts, which the exchange hardly changes, do not decide it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from foveate.attention.local.slide import SlideAttention
from foveate.models._backbone import Published, cfg, create
from foveate.models.nat import NAT, WIDE, neighborhoods


class SlideNAT(NAT):
    """NAT whose first stages slide.

    Args:
        slide_kernel_size: the window of slide attention.
        slide_stages: how many stages slide.
        kernel_size: height and width of a neighbourhood, in the other stages.
        dilations: of each block of each stage, in the others; all 1 if None.
        qkv_bias: whether q, k, v projections have a bias.
        qk_scale: factor of the products of queries and keys; ``head_dim**-0.5`` if None.
        attn_drop_rate: dropout of the attention weights.
        proj_drop_rate: dropout in the attentions and the MLPs.
        **kwargs: as for NAT.
    """

    def __init__(
        self,
        *,
        slide_kernel_size: int = 3,
        slide_stages: int = 2,
        kernel_size: int = 7,
        dilations: Sequence[Sequence[int]] | None = None,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        options = {
            "qkv_bias": qkv_bias,
            "qk_scale": qk_scale,
            "attn_drop": attn_drop_rate,
            "proj_drop": proj_drop_rate,
        }
        neighborhood = neighborhoods(kernel_size, dilations, **options)

        def attend(level: int, index: int, dim: int, heads: int) -> nn.Module:
            if level < slide_stages:
                return SlideAttention(dim, heads, slide_kernel_size, **options)
            return neighborhood(level, index, dim, heads)

        super().__init__(attend=attend, proj_drop_rate=proj_drop_rate, **kwargs)


_SOURCE = "table 1 of the paper"
_COST = (
    "Slide attention's two paths counted as one, it still costs more than the neighbourhood of 7 x "
    "7 that it replaces; the printed figure is NAT's own."
)
PUBLISHED = {
    "slide_nat_mini": Published(source="a plotted point of the paper, without figures"),
    "slide_nat_tiny": Published("28M", "4.3G", 83.6, source=_SOURCE, note=_COST),
    "slide_nat_small": Published("51M", "7.8G", 84.3, source=_SOURCE, note=_COST),
    "slide_nat_base": Published(source="not in the paper: NAT-Base's sizes"),
}

_CFG = cfg(first_conv="stem.proj.0")

default_cfgs = generate_default_cfgs({f"{name}.untrained": _CFG for name in PUBLISHED})


@register_model
def slide_nat_mini(pretrained: bool = False, **kwargs: Any) -> SlideNAT:
    """Slide-NAT-Mini."""
    return create(SlideNAT, "slide_nat_mini", pretrained, **kwargs)


@register_model
def slide_nat_tiny(pretrained: bool = False, **kwargs: Any) -> SlideNAT:
    """Slide-NAT-Tiny."""
    return create(SlideNAT, "slide_nat_tiny", pretrained, **{"depths": (3, 4, 18, 5), **kwargs})


@register_model
def slide_nat_small(pretrained: bool = False, **kwargs: Any) -> SlideNAT:
    """Slide-NAT-Small."""
    sizes = {**WIDE["small"], "layer_scale": 1e-5}
    return create(SlideNAT, "slide_nat_small", pretrained, **{**sizes, **kwargs})


@register_model
def slide_nat_base(pretrained: bool = False, **kwargs: Any) -> SlideNAT:
    """Slide attention in NAT-Base."""
    sizes = {**WIDE["base"], "layer_scale": 1e-5}
    return create(SlideNAT, "slide_nat_base", pretrained, **{**sizes, **kwargs})

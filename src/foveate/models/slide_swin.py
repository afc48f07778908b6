"""Slide-Swin: slide attention in Swin's first two stages, the whole map in the last two.

    stages 1, 2 at 1/4, 1/8     slide attention, 3 x 3
    stages 3, 4 at 1/16, 1/32   Swin's window attention whose one window is the map

The published configuration asks for windows of 56 cells, which the code clips to the map: 14 and 7
at 224 pixels, so that nothing is shifted and the tables of biases have the size of the map. Here
``img_size`` gives these windows; larger images are cut into windows of that size, smaller ones have
the middle of the table.

Shapes: images (B, in_chans, H, W) of any size, features (B, C_i, ceil(H / r_i), ceil(W / r_i)) with
r = 4, 8, 16, 32.

Paper: Pan et al., "Slide-Transformer: Hierarchical Vision Transformer with Local Self-Attention",
CVPR 2023, arXiv:2304.04237.
Published code: LeapLabTHU/Slide-Transformer@6b1e184 ``SlideSwinTransformer`` (no license; written
here from the paper). Its weights have no stable address.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from foveate.attention.local.slide import SlideAttention
from foveate.attention.window.window import WindowAttention
from foveate.models._backbone import Published, cfg, create
from foveate.models._swin import Swin, window_in_map


class SlideSwin(Swin):
    """Swin with slide attention first and windows after.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm; ``""`` keeps the map.
        img_size: height and width of the images that windows are laid out for.
        depths: blocks a stage.
        window_size: the largest window of the later stages.
        slide_kernel_size: the window of slide attention.
        slide_stages: how many stages slide.
        qkv_bias: whether q, k, v projections have a bias.
        qk_scale: factor of the products of queries and keys; ``head_dim**-0.5`` if None.
        attn_drop_rate: dropout of the attention weights.
        proj_drop_rate: dropout in the attentions and the MLPs.
        **kwargs: of the network around them, as for Swin: ``embed_dim``, ``num_heads``,
            ``patch_size``, ``mlp_ratio``, ``drop_rate``, ``drop_path_rate``.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        img_size: int | tuple[int, int] = 224,
        depths: Sequence[int] = (2, 2, 6, 2),
        window_size: int = 56,
        slide_kernel_size: int = 3,
        slide_stages: int = 2,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        patch_size = kwargs.get("patch_size", 4)
        options = {
            "qkv_bias": qkv_bias,
            "qk_scale": qk_scale,
            "attn_drop": attn_drop_rate,
            "proj_drop": proj_drop_rate,
        }

        def attend(level: int, index: int, dim: int, heads: int) -> nn.Module:
            if level < slide_stages:
                return SlideAttention(dim, heads, slide_kernel_size, **options)
            side = window_in_map(window_size, img_size, patch_size * 2**level)
            shift = side // 2 if index % 2 and side == window_size else 0
            return WindowAttention(dim, heads, side, shift, **options)

        super().__init__(
            attend,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            depths=depths,
            proj_drop_rate=proj_drop_rate,
            **kwargs,
        )


_COST = (
    "The published code has as many parameters. The paper's cost counts the two depthwise paths "
    "as one, and windows of 7 in the last stages where the published configuration attends to the "
    "whole map."
)
PUBLISHED = {
    "slide_swin_tiny": Published("29M", "4.6G", 82.3, source="table 1 of the paper", note=_COST),
    "slide_swin_small": Published("51M", "8.9G", 83.7, source="table 1 of the paper", note=_COST),
    "slide_swin_base": Published("89M", "15.5G", 84.2, source="table 1 of the paper", note=_COST),
}

_CFG = cfg(crop_mode="squash", first_conv="stem.proj")

default_cfgs = generate_default_cfgs({f"{name}.untrained": _CFG for name in PUBLISHED})


@register_model
def slide_swin_tiny(pretrained: bool = False, **kwargs: Any) -> SlideSwin:
    """Slide-Swin-T."""
    return create(SlideSwin, "slide_swin_tiny", pretrained, **kwargs)


@register_model
def slide_swin_small(pretrained: bool = False, **kwargs: Any) -> SlideSwin:
    """Slide-Swin-S."""
    sizes = {"depths": (2, 2, 18, 2)}
    return create(SlideSwin, "slide_swin_small", pretrained, **{**sizes, **kwargs})


@register_model
def slide_swin_base(pretrained: bool = False, **kwargs: Any) -> SlideSwin:
    """Slide-Swin-B."""
    sizes = {"depths": (2, 2, 18, 2), "embed_dim": 128, "num_heads": (4, 8, 16, 32)}
    return create(SlideSwin, "slide_swin_base", pretrained, **{**sizes, **kwargs})

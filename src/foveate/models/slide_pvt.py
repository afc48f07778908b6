"""Slide-PVT: slide attention in PVT's first two stages, PVT's own in the last two.

    stages 1, 2 at 1/4, 1/8     slide attention, 3 x 3
    stages 3, 4 at 1/16, 1/32   attention to a reduced map, and to the class token in the last

Paper: Pan et al., "Slide-Transformer: Hierarchical Vision Transformer with Local Self-Attention",
CVPR 2023, arXiv:2304.04237. No code of this network is public; that two stages slide, with windows
of 3 x 3, follows from the paper's parameters. The network around them is that of
``foveate.models.pvt``.
"""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs, register_model

from foveate.models._backbone import Published, cfg, create
from foveate.models.pvt import PyramidVisionTransformer

__all__ = ["slide_pvt_medium", "slide_pvt_small", "slide_pvt_tiny"]

_SLIDE = {"attention": ("slide", "slide", "spatial_reduction", "spatial_reduction")}

_SOURCE = "table 1 of the paper"
PUBLISHED = {
    "slide_pvt_tiny": Published("12.2M", "2.0G", 78.0, source=_SOURCE),
    "slide_pvt_small": Published("22.7M", "4.0G", 81.7, source=_SOURCE),
    "slide_pvt_medium": Published(source="a point in a figure of the paper, without numbers"),
}

default_cfgs = generate_default_cfgs(
    {f"{name}.untrained": cfg(first_conv="stem.proj") for name in PUBLISHED}
)


@register_model
def slide_pvt_tiny(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """Slide-PVT-T."""
    sizes = {"depths": (2, 2, 2, 2), **_SLIDE}
    return create(PyramidVisionTransformer, "slide_pvt_tiny", pretrained, **{**sizes, **kwargs})


@register_model
def slide_pvt_small(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """Slide-PVT-S."""
    return create(PyramidVisionTransformer, "slide_pvt_small", pretrained, **{**_SLIDE, **kwargs})


@register_model
def slide_pvt_medium(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """Slide-PVT-M."""
    sizes = {"depths": (3, 4, 18, 3), **_SLIDE}
    return create(PyramidVisionTransformer, "slide_pvt_medium", pretrained, **{**sizes, **kwargs})

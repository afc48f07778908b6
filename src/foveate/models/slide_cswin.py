"""Slide-CSWin: slide attention in CSWin's first two stages, stripes in the third, all in the last.

Paper: Pan et al., "Slide-Transformer: Hierarchical Vision Transformer with Local Self-Attention",
CVPR 2023, arXiv:2304.04237. No code of this network is public; which stages slide is taken from the
paper's other models, and the parameters agree. The network around them is that of
``foveate.models.cswin``.
"""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs, register_model

from foveate.models._backbone import Published, cfg, create
from foveate.models.cswin import CSWinTransformer

__all__ = ["slide_cswin_base", "slide_cswin_small", "slide_cswin_tiny"]

_SLIDE = {"attention": ("slide", "slide", "cross_shaped", "cross_shaped")}

_SOURCE = "table 1 of the paper"
PUBLISHED = {
    "slide_cswin_tiny": Published(source="a point in a figure of the paper, without numbers"),
    "slide_cswin_small": Published("35M", "6.9G", 84.0, source=_SOURCE),
    "slide_cswin_base": Published("78M", "15.0G", 84.7, source=_SOURCE),
}

default_cfgs = generate_default_cfgs(
    {f"{name}.untrained": cfg(crop_pct=0.9, first_conv="stem.proj") for name in PUBLISHED}
)


@register_model
def slide_cswin_tiny(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """Slide-CSWin-T."""
    return create(CSWinTransformer, "slide_cswin_tiny", pretrained, **{**_SLIDE, **kwargs})


@register_model
def slide_cswin_small(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """Slide-CSWin-S."""
    sizes = {"depths": (2, 4, 32, 2), **_SLIDE}
    return create(CSWinTransformer, "slide_cswin_small", pretrained, **{**sizes, **kwargs})


@register_model
def slide_cswin_base(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """Slide-CSWin-B."""
    sizes = {
        "depths": (2, 4, 32, 2),
        "dims": (96, 192, 384, 768),
        "num_heads": (4, 8, 16, 32),
        **_SLIDE,
    }
    return create(CSWinTransformer, "slide_cswin_base", pretrained, **{**sizes, **kwargs})

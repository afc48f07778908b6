"""ACmix-PVT: PVT whose attention shares its projections with a convolution.

    a block:   x = x + alpha attention(norm(x)) + beta convolution(norm(x)),   x = x + mlp(norm(x))

The first three stages mix so (see ``foveate.attention.full.acmix_reduced``); the last, where a
class token that has no place on the map takes part, keeps PVT's own attention.

Paper: Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022,
arXiv:2111.14556. No code of this network is public, and the paper does not say how the reduced keys
and values reach the convolution, or what becomes of the class token. That the reduction stays
follows from the paper's parameters, and that nothing is projected twice from its multiply-adds. The
network around is that of ``foveate.models.pvt``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import generate_default_cfgs, register_model

from foveate.attention._shifted_convolution import ShiftedConvolution
from foveate.models._backbone import Published, cfg, create
from foveate.models.pvt import PyramidVisionTransformer

__all__ = ["ACmixPVT", "acmix_pvt_small", "acmix_pvt_tiny"]


class ACmixPVT(PyramidVisionTransformer):
    """PVT with ACmix in its first three stages.

    Args:
        attention: mechanism a stage, by name; ``"spatial_reduction"`` in the last.
        **kwargs: of :class:`~foveate.models.pvt.PyramidVisionTransformer`.
    """

    def __init__(
        self,
        attention: Sequence[str] = (*("acmix_reduced",) * 3, "spatial_reduction"),
        **kwargs: Any,
    ) -> None:
        super().__init__(attention=attention, **kwargs)
        for module in self.modules():
            if isinstance(module, ShiftedConvolution):  # a convolution in ACmix's published code
                module.fc.reset_parameters()


_SOURCE = "README of LeapLabTHU/ACmix"
_CUT = "The README cuts its figures off, as it does ACmix-Swin's."
PUBLISHED = {
    "acmix_pvt_tiny": Published("13M", "2.0G", 78.0, source=_SOURCE),
    "acmix_pvt_small": Published("25M", "3.9G", 81.7, source=_SOURCE, note=_CUT),
}

default_cfgs = generate_default_cfgs(
    {f"{name}.untrained": cfg(first_conv="stem.proj") for name in PUBLISHED}
)


@register_model
def acmix_pvt_tiny(pretrained: bool = False, **kwargs: Any) -> ACmixPVT:
    """ACmix-PVT-T."""
    sizes = {"depths": (2, 2, 2, 2)}
    return create(ACmixPVT, "acmix_pvt_tiny", pretrained, **{**sizes, **kwargs})


@register_model
def acmix_pvt_small(pretrained: bool = False, **kwargs: Any) -> ACmixPVT:
    """ACmix-PVT-S."""
    return create(ACmixPVT, "acmix_pvt_small", pretrained, **kwargs)

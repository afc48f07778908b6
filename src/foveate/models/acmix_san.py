"""ACmix-SAN: SAN whose patchwise attention shares its projections with a convolution.

    a block:   x = x + conv1x1(relu(norm(acmix(relu(norm(x))))))

The network is SAN's (see ``san``), its attention ``acmix_patchwise``. Maps at 1/2, 1/4, 1/8, 1/16
and 1/32.

Paper: Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022,
arXiv:2111.14556. Its authors did not publish the code of this host; their parameter counts agree
with the patchwise SAN, and are somewhat above this form's, as for ACmix-ResNet.
"""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs, register_model

from foveate.models._backbone import Published, cfg
from foveate.models.san import SAN, create_san

_SOURCE = "README of the published code"
_NOTE = (
    "Another grouped kernel in every block, such as fixed shifts beside the learned ones, would "
    "make up the difference to within 0.1M, as in ACmix-ResNet."
)
PUBLISHED = {
    "acmix_san10": Published("12.1M", "1.9G", 77.6, source=_SOURCE, note=_NOTE),
    "acmix_san15": Published("16.6M", "2.7G", 78.4, source=_SOURCE, note=_NOTE),
    "acmix_san19": Published("21.2M", "3.4G", 78.7, source=_SOURCE, note=_NOTE),
}

_CFG = cfg(interpolation="bilinear", first_conv="stem.0")

default_cfgs = generate_default_cfgs({f"{name}.untrained": _CFG for name in PUBLISHED})


def _create(variant: str, number: int, pretrained: bool, **kwargs: Any) -> SAN:
    return create_san(variant, number, pretrained, **{"attention": "acmix_patchwise", **kwargs})


@register_model
def acmix_san10(pretrained: bool = False, **kwargs: Any) -> SAN:
    """ACmix-SAN10."""
    return _create("acmix_san10", 10, pretrained, **kwargs)


@register_model
def acmix_san15(pretrained: bool = False, **kwargs: Any) -> SAN:
    """ACmix-SAN15."""
    return _create("acmix_san15", 15, pretrained, **kwargs)


@register_model
def acmix_san19(pretrained: bool = False, **kwargs: Any) -> SAN:
    """ACmix-SAN19."""
    return _create("acmix_san19", 19, pretrained, **kwargs)

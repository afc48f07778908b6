"""ACmix-ResNet: ResNet whose 3x3 convolutions share their place with self-attention.

    block = relu(shortcut(x) + conv1x1(relu(norm(acmix(relu(norm(conv1x1(x))))))))

ACmix attends to windows of 7 x 7 with four heads and convolves 3 x 3 from the same projections (see
``acmix``); the stem is ResNet's. Maps at 1/2 (the stem), 1/4, 1/8, 1/16 and 1/32.

Paper: Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022,
arXiv:2111.14556.
Published code: LeapLabTHU/ACmix@81dddb6 ``ACmix_ResNet`` (no license; written here from the paper).
It has the depths of ResNet-50 alone; those of 26 and 38 are Stand-Alone Self-Attention's, which the
paper compares with. Its weights have no stable address. It draws every convolution anew by its
fan-out, even the kernels of the shifts; here ACmix starts as it does everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from foveate.attention.local.acmix import ACmix
from foveate.models._backbone import Published, cfg, create
from foveate.models._resnet import MixerResNet


class ACmixResNet(MixerResNet):
    """ResNet with ACmix in every block.

    Args:
        layers: blocks a stage.
        kernel_size: side of the attention's window.
        num_heads: heads.
        conv_kernel_size: side of the convolution.
        zero_init_last: whether residual branches start silent; published ones do not.
        **kwargs: those of timm's ``ResNet``.
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        kernel_size: int = 7,
        num_heads: int = 4,
        conv_kernel_size: int = 3,
        zero_init_last: bool = False,
        **kwargs: Any,
    ) -> None:
        def mixer(dim: int, stride: int) -> nn.Module:
            return ACmix(dim, num_heads, kernel_size, conv_kernel_size, stride=stride)

        super().__init__(mixer, layers, zero_init_last=zero_init_last, **kwargs)


_SOURCE = "README of the published code"
_NOTE = (
    "The published code with these depths has as many parameters; why it prints more is unknown."
)
PUBLISHED = {
    "acmix_resnet26": Published("10.6M", "2.3G", 76.1, source=_SOURCE, note=_NOTE),
    "acmix_resnet38": Published("14.6M", "2.9G", 77.4, source=_SOURCE, note=_NOTE),
    "acmix_resnet50": Published("18.6M", "3.6G", 77.8, source=_SOURCE, note=_NOTE),
}

_CFG = cfg(interpolation="bilinear", first_conv="conv1", classifier="fc")

default_cfgs = generate_default_cfgs({f"{name}.untrained": _CFG for name in PUBLISHED})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> ACmixResNet:
    return create(ACmixResNet, variant, pretrained, **{"out_indices": (0, 1, 2, 3, 4), **kwargs})


@register_model
def acmix_resnet26(pretrained: bool = False, **kwargs: Any) -> ACmixResNet:
    """ACmix-ResNet-26."""
    return _create("acmix_resnet26", pretrained, **{"layers": (1, 2, 4, 1), **kwargs})


@register_model
def acmix_resnet38(pretrained: bool = False, **kwargs: Any) -> ACmixResNet:
    """ACmix-ResNet-38."""
    return _create("acmix_resnet38", pretrained, **{"layers": (2, 3, 5, 2), **kwargs})


@register_model
def acmix_resnet50(pretrained: bool = False, **kwargs: Any) -> ACmixResNet:
    """ACmix-ResNet-50."""
    return _create("acmix_resnet50", pretrained, **kwargs)

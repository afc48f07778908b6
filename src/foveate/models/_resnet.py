"""Timm's ResNet as a backbone here.

    images (B, in_chans, H, W) -> conv1, max-pool -> layer1 .. layer4 -> pool -> fc

Maps stand at 1/2 (the stem), 1/4, 1/8, 1/16 and 1/32 of the image, rounded up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from foveate.layout import in_format
from foveate.models._timm import TimmBackbone


class TimmResNet(TimmBackbone, ResNet):
    """Timm's ``ResNet``, whose arguments it takes."""


class MixerBottleneck(Bottleneck):
    """Timm's bottleneck with an attention in the place of its 3x3 convolution.

    Args:
        *args: those of timm's ``Bottleneck``.
        mixer: makes the attention from its channels and its stride.
        **kwargs: those of timm's ``Bottleneck``.
    """

    def __init__(self, *args: Any, mixer: Callable[[int, int], nn.Module], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv2 = mixer(self.bn2.num_features, self.stride)


class MixerResNet(TimmResNet):
    """A ResNet of mixer bottlenecks, on maps whose channels lie side by side for the attention.

    Args:
        mixer: makes the attention of a block from its channels and its stride.
        layers: blocks a stage.
        **kwargs: those of timm's ``ResNet``.
    """

    def __init__(
        self, mixer: Callable[[int, int], nn.Module], layers: Sequence[int], **kwargs: Any
    ) -> None:
        super().__init__(MixerBottleneck, layers, block_args={"mixer": mixer}, **kwargs)

    def laid_out(self, x: Tensor) -> Tensor:
        return in_format(x, torch.channels_last)


def stages(model: ResNet) -> list[nn.Sequential]:
    """The four stages, ``layer1`` to ``layer4``."""
    return [model.layer1, model.layer2, model.layer3, model.layer4]


def for_small_images(model: ResNet) -> None:
    """Give ``model`` the stem for 32x32 images: a 3x3 convolution at full size, no pooling."""
    old = model.conv1
    model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    for info, reduction in zip(model.feature_info, (1, 1, 2, 4, 8), strict=True):
        info["reduction"] = reduction

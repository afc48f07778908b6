"""Timm's ResNet as a backbone here.

    images (B, in_chans, H, W) -> conv1, max-pool -> layer1 .. layer4 -> pool -> fc

Maps stand at 1/2 (the stem), 1/4, 1/8, 1/16 and 1/32 of the image, rounded up.
"""

from __future__ import annotations

from timm.models.resnet import ResNet
from torch import nn

from foveate.models._timm import Checked


class CheckedResNet(Checked, ResNet):
    """Timm's ``ResNet``, whose arguments it takes."""


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

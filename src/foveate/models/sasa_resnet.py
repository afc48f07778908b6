"""SASA-ResNet: ResNet whose 3x3 convolutions are stand-alone self-attention.

    block = relu(shortcut(x) + conv1x1(relu(norm(pool(attention(relu(norm(conv1x1(x)))))))))

Attention sees windows of 7 x 7 with eight heads (see ``stand_alone``); where a block halves the
map, an average over 2 x 2 follows it. The stem is ResNet's convolution, the paper's "conv-stem";
its stem of attention is left out. Maps at 1/2 (the stem), 1/4, 1/8, 1/16 and 1/32.

Paper: Ramachandran et al., "Stand-Alone Self-Attention in Vision Models", NeurIPS 2019,
arXiv:1906.05909. Its authors published neither code nor weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from foveate.attention.local.stand_alone import StandAloneAttention
from foveate.models._backbone import Published, cfg, create
from foveate.models._resnet import MixerResNet


class SASAResNet(MixerResNet):
    """ResNet with stand-alone self-attention in every block.

    Args:
        layers: blocks a stage.
        kernel_size: height and width of the window.
        num_heads: heads.
        **kwargs: those of timm's ``ResNet``.
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        kernel_size: int = 7,
        num_heads: int = 8,
        **kwargs: Any,
    ) -> None:
        def mixer(dim: int, stride: int) -> nn.Module:
            attention = StandAloneAttention(dim, num_heads, kernel_size)
            if stride == 1:
                return attention
            pool = nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
            return nn.Sequential(attention, pool)

        super().__init__(mixer, layers, **kwargs)


_SOURCE = "table 1 of the paper, with a convolutional stem; half of its operations"
_NOTE = "The paper does not say what it counts; norms, pooling and additions do not count here."
PUBLISHED = {
    "sasa_resnet26": Published("10.3M", "2.25G", 75.8, source=_SOURCE, note=_NOTE),
    "sasa_resnet38": Published("14.1M", "2.85G", 77.1, source=_SOURCE, note=_NOTE),
    "sasa_resnet50": Published("18.0M", "3.5G", 77.4, source=_SOURCE, note=_NOTE),
}

_CFG = cfg(interpolation="bilinear", first_conv="conv1", classifier="fc")

default_cfgs = generate_default_cfgs({f"{name}.untrained": _CFG for name in PUBLISHED})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> SASAResNet:
    return create(SASAResNet, variant, pretrained, **{"out_indices": (0, 1, 2, 3, 4), **kwargs})


@register_model
def sasa_resnet26(pretrained: bool = False, **kwargs: Any) -> SASAResNet:
    """SASA-ResNet-26."""
    return _create("sasa_resnet26", pretrained, **{"layers": (1, 2, 4, 1), **kwargs})


@register_model
def sasa_resnet38(pretrained: bool = False, **kwargs: Any) -> SASAResNet:
    """SASA-ResNet-38."""
    return _create("sasa_resnet38", pretrained, **{"layers": (2, 3, 5, 2), **kwargs})


@register_model
def sasa_resnet50(pretrained: bool = False, **kwargs: Any) -> SASAResNet:
    """SASA-ResNet-50."""
    return _create("sasa_resnet50", pretrained, **kwargs)

"""Feature pyramid network: every map also hears of what the coarser ones have found.

    l_i = V_i x_i,   t_i = l_i + nearest(t_{i+1}),   p_i = W_i * t_i       W_i 3x3, with biases

Shapes: x_i (B, C_i, h_i, w_i), the finest first, to p_i (B, dim, h_i, w_i). No norm, no activation.

Paper: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, arXiv:1612.03144.
Published code: open-mmlab/mmsegmentation v1.2.2 ``FPN`` (Apache-2.0), whose numbers are those of
torchvision's, on which this stands.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from foveate.published import rename


class FPN(FeaturePyramidNetwork):
    """Torchvision's: maps by name, the finest first, to as many with ``dim`` channels.

    Args:
        in_channels: channels of the maps.
        dim: channels that each becomes.
    """

    def __init__(self, in_channels: Sequence[int], dim: int = 256) -> None:
        super().__init__(list(in_channels), dim)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of mmsegmentation's and mmdetection's FPN under torchvision's names."""
        rules = [
            (r"^neck\.", ""),
            (r"^lateral_convs\.(\d+)\.conv\.", r"inner_blocks.\1.0."),
            (r"^fpn_convs\.(\d+)\.conv\.", r"layer_blocks.\1.0."),
        ]
        return rename(state, rules)

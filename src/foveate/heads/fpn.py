"""Feature pyramid network: every map also hears of what the coarser ones have found.

    l_i = V_i x_i,   t_i = l_i + nearest(t_{i+1}),   p_i = W_i * t_i       W_i 3x3, with biases
    p_{n+1} = p_n at every second cell                             coarser="pool", Mask R-CNN
    p_{n+1} = W * s,   p_{n+2} = W' * p_{n+1}                      RetinaNet, 3x3 with stride 2

where s is x_n (``"input"``: mmdetection's RetinaNet and PVT's), l_n (``"lateral"``) or p_n
(``"output"``: Swin's). With ``relu`` W' reads max(p_{n+1}, 0), as in the paper and torchvision;
mmdetection's configurations have none there.

Shapes: x_i (B, C_i, h_i, w_i), the finest first, to p_i (B, dim, h_i, w_i). No norm, no activation.

Paper: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, arXiv:1612.03144;
coarser levels: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, arXiv:1708.02002.
Published code: open-mmlab/mmsegmentation v1.2.2 and mmdetection v3.3.0 ``FPN`` (Apache-2.0), whose
numbers are those of torchvision's, on which this stands.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

from foveate.arguments import one_of, positive
from foveate.published import rename

_SOURCES = ("pool", "input", "lateral", "output")


class FPN(FeaturePyramidNetwork):
    """Torchvision's: maps by name, the finest first, to as many with ``dim`` channels, or more.

    Args:
        in_channels: channels of the maps.
        dim: channels that each becomes.
        coarser: what further maps are made of: ``"pool"`` for one, ``"input"``, ``"lateral"`` or
            ``"output"`` for two; None for none. They are called ``"pool"``, or ``"p6"``, ``"p7"``.
        relu: whether the second of the two reads the positive part of the first.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        dim: int = 256,
        *,
        coarser: str | None = None,
        relu: bool = False,
    ) -> None:
        super().__init__(list(in_channels), positive(dim, "dim"))
        self.coarser = coarser if coarser is None else one_of(coarser, _SOURCES, "coarser")
        self.relu = relu
        if coarser in ("input", "lateral", "output"):
            source = in_channels[-1] if coarser == "input" else dim
            self.p6 = nn.Conv2d(source, dim, 3, 2, 1)
            self.p7 = nn.Conv2d(dim, dim, 3, 2, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: dict[str, Tensor]) -> dict[str, Tensor]:
        pyramid = super().forward(x)
        if self.coarser is None:
            return pyramid
        top = list(pyramid.values())[-1]
        if self.coarser == "pool":
            return {**pyramid, "pool": top[:, :, ::2, ::2]}
        if self.coarser != "output":
            top = list(x.values())[-1]
        if self.coarser == "lateral":
            top = self.get_result_from_inner_blocks(top, -1)
        p6 = self.p6(top)
        return {**pyramid, "p6": p6, "p7": self.p7(F.relu(p6) if self.relu else p6)}

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of mmsegmentation's and mmdetection's FPN under torchvision's names."""
        levels = len(self.inner_blocks)
        rules = [
            (r"^neck\.", ""),
            (r"^lateral_convs\.(\d+)\.conv\.", r"inner_blocks.\1.0."),
            (rf"^fpn_convs\.{levels}\.conv\.", "p6."),
            (rf"^fpn_convs\.{levels + 1}\.conv\.", "p7."),
            (r"^fpn_convs\.(\d+)\.conv\.", r"layer_blocks.\1.0."),
        ]
        return rename(state, rules)

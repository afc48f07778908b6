"""DANet's head: position and channel attention, each between convolutions, and both added.

    p = conv(position(conv(x))),   c = conv(channel(conv(x)))        conv = relu(norm(3x3))
    logits = W dropout(p + c) + b,   W_p dropout(p) + b_p,   W_c dropout(c) + b_c

The three are learnt by alike; the first one predicts. Position and channel attention:
:mod:`foveate.attention.gates.dual`. Their cost grows with the square of the map's cells.

Shapes: x (B, C, h, w) to logits (B, num_classes, h, w).

Paper: Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019, arXiv:1809.02983.
Published code: junfu1115/DANet@b0a0fa0 ``DANetHead`` (MIT) and open-mmlab/mmsegmentation v1.2.2
``DAHead`` (Apache-2.0): the same numbers under other names, both of which are read. Both read the
last map of a ResNet whose last stages are dilated (timm's ``output_stride=8``).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from foveate.arguments import positive
from foveate.attention.gates.dual import ChannelAttention, PositionAttention
from foveate.heads._layers import ConvNormAct, check_maps
from foveate.heads.pixel import PixelHead
from foveate.published import rename


class DualHead(PixelHead):
    """Both attentions between convolutions, and three classifiers.

    Args:
        in_channels: channels of the map.
        num_classes: classes.
        dim: channels that the attentions see; a quarter of ``in_channels`` if None.
        hidden: channels of queries and keys; an eighth of ``dim`` if None.
        dropout: of whole channels before each classifier.
    """

    loss_weights: ClassVar[dict[str, float]] = {"out": 1.0, "position": 1.0, "channel": 1.0}

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        dim: int | None = None,
        hidden: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        dim = max(in_channels // 4, 1) if dim is None else dim
        hidden = max(dim // 8, 1) if hidden is None else hidden
        super().__init__(dim, num_classes, dropout)
        positive(hidden, "hidden")
        self.in_channels = in_channels
        self.position_in = ConvNormAct(in_channels, dim, 3)
        self.position = PositionAttention(dim, hidden)
        self.position_out = ConvNormAct(dim, dim, 3)
        self.channel_in = ConvNormAct(in_channels, dim, 3)
        self.channel = ChannelAttention()
        self.channel_out = ConvNormAct(dim, dim, 3)
        self.position_seg = nn.Conv2d(dim, num_classes, 1)
        self.channel_seg = nn.Conv2d(dim, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        position, channel = self.attend(x)
        return self.classify(position + channel)

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        position, channel = self.attend(x)
        return {
            "out": self.classify(position + channel),
            "position": self.position_seg(self.dropout(position)),
            "channel": self.channel_seg(self.dropout(channel)),
        }

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What position and what channel attention make of the map: ``(B, dim, h, w)`` each."""
        check_maps([x], [self.in_channels])
        return (
            self.position_out(self.position(self.position_in(x))),
            self.channel_out(self.channel(self.channel_in(x))),
        )

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read ``DAHead`` and ``DANetHead``: 1x1 convolutions are linear, gammas have an axis."""
        state = rename(super().convert_published(state), [*DAHEAD, *DANET])
        projections = tuple(f"position.{name}.weight" for name in ("query", "key", "value"))
        converted = {}
        for key, value in state.items():
            if key in projections and value.dim() == 4:
                value = value.flatten(1)
            converted[key] = value.reshape(1) if key.endswith(".gamma") else value
        return converted


DAHEAD = [
    (r"^pam_(in|out)_conv\.", r"position_\1."),
    (r"^cam_(in|out)_conv\.", r"channel_\1."),
    (r"^pam\.(query|key|value)_project\.", r"position.\1."),
    (r"^pam\.gamma\.scale$", "position.gamma"),
    (r"^cam\.gamma\.scale$", "channel.gamma"),
    (r"^pam_conv_seg\.", "position_seg."),
    (r"^cam_conv_seg\.", "channel_seg."),
]
"""Mmsegmentation's names, and ours."""

_CONVOLUTIONS = {
    "conv5a": "position_in",
    "conv5c": "channel_in",
    "conv51": "position_out",
    "conv52": "channel_out",
}
DANET = [
    (r"^head\.", ""),
    *(
        (rf"^{theirs}\.{index}\.", f"{ours}.{part}.")
        for theirs, ours in _CONVOLUTIONS.items()
        for index, part in enumerate(("conv", "bn"))
    ),
    (r"^sa\.(query|key|value)_conv\.", r"position.\1."),
    (r"^sa\.gamma$", "position.gamma"),
    (r"^sc\.gamma$", "channel.gamma"),
    (r"^conv6\.1\.", "position_seg."),
    (r"^conv7\.1\.", "channel_seg."),
    (r"^conv8\.1\.", "conv_seg."),
]
"""The authors' names, and ours."""

"""MobileNetV2 with a gate in its inverted residual blocks: coordinate and triplet attention.

    block = shortcut + project(gate(depthwise(expand(x))))      place="expanded"
    block = shortcut + gate(project(depthwise(expand(x))))      place="projected"

The first block does not expand: in the former it has no gate. Any gate stands by name. The
convolutions are those of timm's MobileNetV2; maps at 1/2, 1/4, 1/8, 1/16 and 1/32.

Papers: Hou et al., "Coordinate Attention for Efficient Mobile Network Design", CVPR 2021,
arXiv:2103.02907; Misra et al., "Rotate to Attend: Convolutional Triplet Attention Module", WACV
2021, arXiv:2010.03045.
Published code: houqb/CoordAttention@7619bea9acbe260b3793833cc78cef3f124c8112 (MIT) and
landskape-ai/triplet-attention@2cf02fb91196408ac6352f7984a0336aa4f7677a (MIT).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from torch import nn

from foveate.arguments import one_of
from foveate.attention.adapt import create_attention
from foveate.models._backbone import Published, State, cfg, create, rename
from foveate.models._timm import TimmBackbone

__all__ = ["GatedMobileNetV2", "mobilenetv2_coordinate", "mobilenetv2_triplet"]

STAGES = (
    "ds_r1_k3_s1_c16",
    "ir_r2_k3_s2_e6_c24",
    "ir_r3_k3_s2_e6_c32",
    "ir_r4_k3_s2_e6_c64",
    "ir_r3_k3_s1_e6_c96",
    "ir_r3_k3_s2_e6_c160",
    "ir_r1_k3_s1_e6_c320",
)
"""MobileNetV2 in timm's words: repeats, kernel, stride, expansion, channels."""


class GatedMobileNetV2(TimmBackbone, EfficientNet):
    """MobileNetV2 with one kind of gate; a timm model in full.

    Args:
        gate: name of the gate.
        gate_kwargs: its options.
        place: "expanded", behind the depthwise convolution of blocks that expand, or "projected",
            at the end of every block's residual branch.
        width_mult: factor of all channels, which are then rounded to multiples of 8.
        drop_rate: dropout before the classifier.
        **kwargs: those of timm's ``EfficientNet``.
    """

    def __init__(
        self,
        gate: str,
        gate_kwargs: dict[str, Any] | None = None,
        place: str = "expanded",
        width_mult: float = 1.0,
        drop_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        def make(dim: int) -> nn.Module:
            return create_attention(gate, dim, role="gate", **(gate_kwargs or {}))

        one_of(place, ("expanded", "projected"), "place")
        widths = partial(round_channels, multiplier=width_mult)
        super().__init__(
            decode_arch_def([[stage] for stage in STAGES]),
            num_features=max(1280, widths(1280)),
            round_chs_fn=widths,
            act_layer=nn.ReLU6,
            drop_rate=drop_rate,
            **kwargs,
        )
        self.place = place
        for block in self._blocks():
            if place == "projected":
                name, out = ("bn3", block.conv_pwl) if _expands(block) else ("bn2", block.conv_pw)
                norm = getattr(block, name)
                setattr(block, name, nn.Sequential(norm, make(out.out_channels)))
            elif _expands(block):
                block.se = make(block.conv_dw.out_channels)
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if isinstance(self.classifier, nn.Linear):
            nn.init.normal_(self.classifier.weight, std=0.01)
            nn.init.zeros_(self.classifier.bias)

    def _blocks(self) -> list[DepthwiseSeparableConv | InvertedResidual]:
        return [block for stage in self.blocks for block in stage]

    def convert_published(self, state: State) -> State:
        """Read the names of both repositories, which number the blocks from 1."""
        expanded = self.place == "expanded"
        rules = [
            (r"^features\.0\.0\.", "conv_stem."),
            (r"^features\.0\.1\.", "bn1."),
            (r"^(conv|features\.18)\.0\.", "conv_head."),
            (r"^(conv|features\.18)\.1\.", "bn2."),
            (r"^classifier\.1\.", "classifier."),
        ]
        places = [
            f"blocks.{stage}.{index}"
            for stage, blocks in enumerate(self.blocks)
            for index, _ in enumerate(blocks)
        ]
        for number, (place, block) in enumerate(zip(places, self._blocks(), strict=True), 1):
            for old, new in (_EXPANDED if expanded else _PROJECTED)[_expands(block)].items():
                rules.append((rf"^features\.{number}\.conv\.{old}\.", f"{place}.{new}."))
        rules += [(r"\.se\.conv2\.", ".se.conv_h."), (r"\.se\.conv3\.", ".se.conv_w.")]
        return super().convert_published(rename(state, rules))


def _expands(block: nn.Module) -> bool:
    return isinstance(block, InvertedResidual)


# Published names inside a block, of the first block and of those that expand.
_EXPANDED = {
    False: {"0": "conv_dw", "1": "bn1", "3": "conv_pw", "4": "bn2"},
    True: {
        "0": "conv_pw",
        "1": "bn1",
        "3": "conv_dw",
        "4": "bn2",
        "6": "se",
        "7": "conv_pwl",
        "8": "bn3",
    },
}
_PROJECTED = {
    False: {r"0\.0": "conv_dw", r"0\.1": "bn1", "1": "conv_pw", "2": "bn2.0", "3": "bn2.1"},
    True: {
        r"0\.0": "conv_pw",
        r"0\.1": "bn1",
        r"1\.0": "conv_dw",
        r"1\.1": "bn2",
        "2": "conv_pwl",
        "3": "bn3.0",
        "4": "bn3.1",
    },
}

PUBLISHED = {
    "mobilenetv2_coordinate": Published(
        params="3.95M",
        multiply_adds="310M",
        top1=74.3,
        source="README of houqb/CoordAttention",
        note="306.7M; what their count adds is not said",
    ),
    "mobilenetv2_triplet": Published(
        params="3.51M",
        top1=71.99,
        source="README of landskape-ai/triplet-attention (k = 7)",
    ),
}

_CFG = cfg(first_conv="conv_stem", classifier="classifier", license="mit")

_COORDINATE = "https://github.com/houqb/CoordAttention"

default_cfgs = generate_default_cfgs(
    {
        "mobilenetv2_coordinate.in1k": {
            **_CFG,
            "url": f"{_COORDINATE}/raw/7619bea9acbe260b3793833cc78cef3f124c8112/mbv2_ca.pth",
            "origin_url": _COORDINATE,
            "paper_ids": "arXiv:2103.02907",
        },
        "mobilenetv2_triplet.untrained": {
            **_CFG,
            "interpolation": "bilinear",
            "origin_url": "https://github.com/landskape-ai/triplet-attention",
            "paper_ids": "arXiv:2010.03045",
        },
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> GatedMobileNetV2:
    kwargs = {"out_indices": (0, 1, 2, 3, 4), **kwargs}
    return create(GatedMobileNetV2, variant, pretrained, **kwargs)


@register_model
def mobilenetv2_coordinate(pretrained: bool = False, **kwargs: Any) -> GatedMobileNetV2:
    """MobileNetV2 with coordinate attention on the expanded features."""
    published = {"gate": "coordinate", "drop_rate": 0.1}
    return _create("mobilenetv2_coordinate", pretrained, **{**published, **kwargs})


@register_model
def mobilenetv2_triplet(pretrained: bool = False, **kwargs: Any) -> GatedMobileNetV2:
    """MobileNetV2 with triplet attention at the end of every block."""
    published = {"gate": "triplet", "place": "projected", "drop_rate": 0.25}
    return _create("mobilenetv2_triplet", pretrained, **{**published, **kwargs})

"""ResNets with gates, and timm's own networks taking our gates with the published weights."""

from __future__ import annotations

from typing import Any

import timm
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from foveate.attention.gates.efficient_channel import EfficientChannelAttention
from foveate.attention.gates.selective_kernel import SelectiveKernel
from foveate.attention.gates.squeeze_excitation import SqueezeExcitation
from foveate.models._backbone import convert_parts, rename
from foveate.models.gated_resnet import GatedResNet
from tests.published.golden import Golden, Row

DEPTHS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}
GATES: dict[str, dict[str, Any]] = {
    "CBAM": {"gate": "cbam"},
    "BAM": {"gate": "bam", "place": "stage"},
    "TripletAttention": {"gate": "triplet"},
}


def _residual_net(network_type: str, depth: int, num_classes: int, att_type: str) -> GatedResNet:
    block, layers = DEPTHS[depth]
    return GatedResNet(
        **GATES[att_type],
        block=block,
        layers=layers,
        small_images=network_type != "ImageNet",
        num_classes=num_classes,
    )


def _blocks(model: nn.Module) -> list[tuple[int, Bottleneck]]:
    """The bottlenecks of timm's ResNet, each with the number of its stage."""
    stages = (model.layer1, model.layer2, model.layer3, model.layer4)
    return [(number, block) for number, stage in enumerate(stages) for block in stage]


def _senet(num_classes: int = 1000) -> nn.Module:
    """Timm's network; its gates replaced by ours, which read its weights."""
    model = timm.create_model("seresnet50", num_classes=num_classes)
    for _, block in _blocks(model):
        block.se = SqueezeExcitation(block.conv3.out_channels, divisor=8)
    return model


def _senet_without_biases(num_classes: int = 1000) -> GatedResNet:
    return GatedResNet("squeeze_excitation", {"bias": False}, num_classes=num_classes)


def _ecanet(k_size: list[int], num_classes: int = 1000) -> nn.Module:
    """Timm's network with our gates; the kernel widens from stage to stage."""
    model = timm.create_model("resnet50", num_classes=num_classes)
    for number, block in _blocks(model):
        block.se = EfficientChannelAttention(block.conv3.out_channels, k_size[number])
    return model


def _sknet(num_classes: int = 1000) -> nn.Module:
    """Timm's ResNet-50; the 3x3 convolution of a block is our unit, with the block's stride."""
    model = timm.create_model("resnet50", num_classes=num_classes)
    for _, block in _blocks(model):
        unit = SelectiveKernel(
            block.conv2.in_channels, dilations=(1, 1), groups=(1, 32), min_width=1
        )
        for branch in unit.branches:
            branch[0].stride = block.conv2.stride
        block.conv2, block.bn2, block.act2 = unit, nn.Identity(), nn.Identity()
    return model


def _insight(golden: Golden) -> dict[str, Tensor]:
    names = {
        "conv2": "conv2.branches.0.0",
        "bn2": "conv2.branches.0.1",
        "conv2g": "conv2.branches.1.0",
        "bn2g": "conv2.branches.1.1",
        "conv_fc1": "conv2.reduce",
        "bn_fc1": "conv2.bn",
        "conv_fc2": "conv2.select",
    }
    pattern = r"^(layer\d\.\d\.)(conv2g?|bn2g?|conv_fc1|bn_fc1|conv_fc2)\."
    state = rename(golden.state, [(pattern, lambda found: f"{found[1]}{names[found[2]]}.")])
    return convert_parts(_sknet(), state)


ROWS = [
    Row("resnet50_cbam", _residual_net),
    Row("resnet50_bam", _residual_net),
    Row("resnet50_triplet", _residual_net),
    Row("se_resnet50", _senet_without_biases, mechanism="squeeze_excitation"),
    Row(
        "seresnet50_timm",
        _senet,
        weights=lambda golden: convert_parts(_senet(), golden.state),
        mechanism="squeeze_excitation",
    ),
    Row(
        "eca_resnet50",
        _ecanet,
        weights=lambda golden: rename(golden.state, [(r"\.eca\.", ".se.")]),
        mechanism="efficient_channel",
    ),
    Row("skresnet50_insight", _sknet, weights=_insight, mechanism="selective_kernel"),
]

"""MobileNetV2 with coordinate attention: logits, and the maps behind some of its blocks."""

from __future__ import annotations

from torch import Tensor

from foveate.models.gated_mobilenet import GatedMobileNetV2
from tests.published.golden import Golden, Row


def _mobilenet(num_classes: int = 1000, width_mult: float = 1.0) -> GatedMobileNetV2:
    return GatedMobileNetV2("coordinate", num_classes=num_classes, width_mult=width_mult)


def _blocks_and_logits(model: GatedMobileNetV2, golden: Golden) -> dict[str, Tensor]:
    """The published network numbers its blocks from 1, behind the stem."""
    x, outputs = golden.inputs["x"], {}
    y = model.bn1(model.conv_stem(x))
    for number, block in enumerate((block for stage in model.blocks for block in stage), 1):
        y = outputs[f"features{number}"] = block(y)
    outputs["logits"] = model(x)
    return {name: outputs[name] for name in golden.outputs}


ROWS = [Row("mbv2_ca", _mobilenet, _blocks_and_logits)]

"""Relation-aware global attention in ResNet-50: features on both sides of the neck, and scores."""

from __future__ import annotations

from torch import Tensor

from foveate.models.rga_resnet import RgaResNet
from tests.published.golden import Golden, Row


def _network(height: int, width: int, branch_name: str, **options) -> RgaResNet:
    return RgaResNet(
        (height, width),
        spatial="s" in branch_name.removeprefix("rga"),
        channel="c" in branch_name.removeprefix("rga"),
        ratio=options["scale"],
        down_ratio=options["d_scale"],
        last_stride=options["last_stride"],
        num_classes=options["num_classes"],
    )


def _features_and_scores(model: RgaResNet, golden: Golden) -> dict[str, Tensor]:
    x = model.forward_features(golden.inputs["x"])
    behind = model.forward_head(x, pre_logits=True)
    return {"y0": model.global_pool(x), "y1": behind, "y2": model.fc(behind)}


ROWS = [Row("resnet50_rgasc", _network, _features_and_scores)]

"""SeaFormer, for classification and with its light head."""

from __future__ import annotations

import timm
from torch import Tensor

from foveate.models.seaformer import SeaFormer, SeaFormerSegmentation
from tests.published.golden import Golden, Row


def _tiny(num_classes: int) -> SeaFormer:
    return timm.create_model("seaformer_tiny", num_classes=num_classes)


def _segmentation(config: str, num_classes: int) -> SeaFormerSegmentation:
    return SeaFormerSegmentation(config.removesuffix(".py"), num_classes)


def _features_and_logits(model: SeaFormerSegmentation, golden: Golden) -> dict[str, Tensor]:
    """The case's logits are not resized to the image."""
    features = model.features(golden.inputs["x"])
    named = {f"feat{number}": feature for number, feature in enumerate(features)}
    return {**named, "logits": model.head(features)}


ROWS = [
    Row("seaformer_seg_tiny", _segmentation, _features_and_logits),
    Row("seaformer_t", _tiny),
]

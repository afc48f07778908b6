"""Pyramid Vision Transformer as published."""

from __future__ import annotations

import timm
from torch import Tensor

from foveate.models.pvt import PyramidVisionTransformer
from tests.published.golden import Golden, Row
from tests.published.pyramids import means_and_corners


def _outputs(model: PyramidVisionTransformer, golden: Golden) -> dict[str, Tensor]:
    """What a case calls a stage's tokens has the class token first in the last."""
    outputs = means_and_corners(model, golden, corner="token0")
    last, token = model.stages(model.stem(golden.inputs["x"]))
    tokens = last.shape[2] * last.shape[3]
    outputs["stage4_token0"] = token
    outputs["stage4_mean"] = (outputs["stage4_mean"] * tokens + token) / (tokens + 1)
    return outputs


ROWS = [
    Row("pvt_tiny", lambda: timm.create_model("pvt_tiny"), _outputs),
    Row("pvt_small", lambda: timm.create_model("pvt_small"), _outputs, slow=True),
]

"""CvT, whose stages the case counts from nought."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from foveate.models.cvt import CvT
from tests.published.golden import Golden, Row


def _cvt(spec: dict[str, Any], **options: Any) -> CvT:
    return CvT(
        dims=spec["DIM_EMBED"],
        depths=spec["DEPTH"],
        num_heads=spec["NUM_HEADS"],
        mlp_ratio=spec["MLP_RATIO"][0],
        qkv_bias=spec["QKV_BIAS"][0],
        **options,
    )


def _outputs(model: CvT, golden: Golden) -> dict[str, Tensor]:
    last, maps = model.forward_intermediates(golden.inputs["x"])
    outputs = {"logits": model.forward_head(last)}
    for stage, x in enumerate(maps):
        outputs[f"stage{stage}_mean"] = x.mean((2, 3))
        outputs[f"stage{stage}_corner"] = x[:, :, 0, 0]
    return outputs


ROWS = [Row("cvt_13", _cvt, _outputs)]

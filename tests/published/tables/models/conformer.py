"""Conformer, whose published network gives the logits of its two branches."""

from __future__ import annotations

from torch import Tensor

from foveate.models.conformer import Conformer
from tests.published.golden import Golden, Row


def _both(model: Conformer, golden: Golden) -> dict[str, Tensor]:
    logits = model.branch_logits(model.forward_features(golden.inputs["x"]))
    return dict(zip(("conv_logits", "trans_logits"), logits, strict=True))


ROWS = [Row("conformer_ti", Conformer, _both)]

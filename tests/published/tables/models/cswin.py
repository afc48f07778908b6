"""CSWin as published."""

from __future__ import annotations

from torch import Tensor

from foveate.models.cswin import CSWinTransformer
from tests.published.golden import Golden, Row
from tests.published.pyramids import means_and_corners


def _outputs(model: CSWinTransformer, golden: Golden) -> dict[str, Tensor]:
    return means_and_corners(model, golden, corner="corner")


ROWS = [Row("cswin_t", CSWinTransformer, _outputs)]

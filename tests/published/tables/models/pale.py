"""Pale Transformer as an unofficial port has it."""

from __future__ import annotations

from torch import Tensor

from foveate.models.pale import PaleTransformer
from tests.published.golden import Golden, Row
from tests.published.pyramids import means_and_corners


def _pale(heads: list[int], **options) -> PaleTransformer:
    return PaleTransformer(num_heads=heads, **options)


def _outputs(model: PaleTransformer, golden: Golden) -> dict[str, Tensor]:
    return means_and_corners(model, golden, corner="corner")


ROWS = [Row("pale_shallow_port", _pale, _outputs), Row("pale_t_port", _pale, _outputs, slow=True)]

"""Gates: channel and spatial attention for convolutional networks."""

from __future__ import annotations

from tests.published.golden import Row

ROWS: list[Row] = []

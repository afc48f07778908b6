"""Pictures of the report: images made small enough for a page."""

from __future__ import annotations

import numpy as np
from PIL import Image


def reduced(
    image: np.ndarray, most: int, how: Image.Resampling = Image.Resampling.NEAREST
) -> np.ndarray:
    """At most ``most`` pixels along a side."""
    height, width = image.shape[:2]
    scale = min(1.0, most / max(height, width))
    size = max(1, round(scale * width)), max(1, round(scale * height))
    return np.asarray(Image.fromarray(image).resize(size, how))

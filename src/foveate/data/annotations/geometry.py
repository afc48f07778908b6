"""Boxes against their image: turned with it, told from other kinds of boxes, clipped.

``x1, y1, x2, y2`` in pixels throughout.
"""

from __future__ import annotations

import numpy as np

_SWAPPED = (5, 6, 7, 8)
_TURNS = {2: "x", 3: "xy", 4: "y", 5: "t", 6: "tx", 7: "txy", 8: "ty"}
"""What brings an image of an EXIF orientation upright: transpose, then mirror x, then y."""

_SLACK = 1.0
"""Pixels by which boxes of all tools may stick out, from rounding or counting from one."""


def swaps_sides(orientation: int) -> bool:
    """Whether an image of this EXIF orientation is as high upright as it is stored wide."""
    return orientation in _SWAPPED


def turn_boxes(boxes: np.ndarray, orientation: int, size: tuple[int, int]) -> np.ndarray:
    """Boxes (N, 4) of a stored image in the upright one, which has ``size`` (height, width)."""
    height, width = size
    turns = _TURNS.get(orientation, "")
    if "t" in turns:
        boxes = boxes[:, [1, 0, 3, 2]]
    if "x" in turns:
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1)
    if "y" in turns:
        boxes = np.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], 1)
    return boxes


def turn_pixels(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W, ...) of a stored image in the upright one."""
    turns = _TURNS.get(orientation, "")
    if "t" in turns:
        pixels = pixels.swapaxes(0, 1)
    if "x" in turns:
        pixels = pixels[:, ::-1]
    if "y" in turns:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def leaves(boxes: np.ndarray, sizes: np.ndarray, slack: float = _SLACK) -> np.ndarray:
    """(N,) whether a box sticks out of its image; ``sizes`` (N, 2) are heights and widths."""
    height, width = sizes[:, 0], sizes[:, 1]
    x1, y1, x2, y2 = boxes.T
    return (x1 < -slack) | (y1 < -slack) | (x2 > width + slack) | (y2 > height + slack)


def look_like_corners(
    meant: np.ndarray, corners: np.ndarray, sizes: np.ndarray, slack: float = _SLACK
) -> bool:
    """Whether numbers that should be a position and a size are two corners all the same.

    Most boxes leave the image in the form that is meant, and read as corners none does, nor is one
    inverted.

    Args:
        meant: (N, 4) boxes, from the form that is meant.
        corners: (N, 4) the numbers of the file.
        sizes: (N, 2) heights and widths.
        slack: by how much a box may stick out.
    """
    inverted = (corners[:, 2] <= corners[:, 0]) | (corners[:, 3] <= corners[:, 1])
    if inverted.any() or leaves(corners, sizes, slack).any():
        return False
    return bool(leaves(meant, sizes, slack).mean() > 0.5)


def clip(boxes: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Boxes cut to the image, and for each why it must be dropped, ``""`` where it need not be.

    Args:
        boxes: (N, 4).
        size: height and width.
    """
    height, width = size
    reasons = np.full(len(boxes), "", dtype=object)
    x1, y1, x2, y2 = boxes.T
    clipped = np.stack(
        [x1.clip(0, width), y1.clip(0, height), x2.clip(0, width), y2.clip(0, height)], 1
    )
    empty = (clipped[:, 2] <= clipped[:, 0]) | (clipped[:, 3] <= clipped[:, 1])
    reasons[empty] = OUTSIDE
    reasons[(x1 == x2) | (y1 == y2)] = NO_AREA
    reasons[(x1 > x2) | (y1 > y2)] = INVERTED
    reasons[~np.isfinite(boxes).all(1)] = NO_NUMBER
    return clipped, reasons


NO_AREA = "boxes without area"
INVERTED = "boxes whose second corner lies before the first, or of negative size"
OUTSIDE = "boxes outside their image"
NO_NUMBER = "boxes with a coordinate that is no number"

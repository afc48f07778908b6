"""Where the labels of a chart's points go: near their point, over nothing that has to be read.

A label takes the nearest free place around its point, and stands on a thin line where that is
further out. One for which there is no free place gets None: the chart then numbers its point and
names it below.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, hypot, pi, sin
from typing import NamedTuple

_REACHES = (11, 18, 28, 40, 54, 70, 88, 108, 130)
_TURNS = 24
_NEAR = 11  # a label this close to its point needs no line
_RADIUS = 6.5  # of a point with its edge


class Box(NamedTuple):
    """A rectangle in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, wide) * max(0.0, high)


class Label(NamedTuple):
    """A label in its place.

    Attributes:
        box: that the text fills.
        line: from the point to the text, as x1, y1, x2, y2; None where it stands beside its point.
    """

    box: Box
    line: tuple[float, float, float, float] | None


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    area: Box,
    obstacles: Sequence[Box] = (),
) -> list[Label | None]:
    """A place for the label of each point.

    Args:
        points: x and y of each.
        sizes: width and height of each label.
        area: that labels may not leave.
        obstacles: what labels should cover as little of as they can, such as error bars.
    """
    dots = [Box(x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS) for x, y in points]
    placed: list[Label | None] = [None] * len(points)
    for index in sorted(range(len(points)), key=lambda i: _neighbours(points, i), reverse=True):
        taken = [label for label in placed if label is not None]
        others = [dot for i, dot in enumerate(dots) if i != index]
        best = None
        for label, effort in _candidates(points[index], sizes[index]):
            if best is not None and effort >= best[0]:
                continue
            if not _fits(label, area, dots, others, taken):
                continue
            cost = effort + sum(0.05 * label.box.overlap(box) for box in obstacles)
            if best is None or cost < best[0]:
                best = (cost, label)
        placed[index] = best and best[1]
    return placed


def _neighbours(points: Sequence[tuple[float, float]], index: int) -> float:
    """How crowded it is around a point."""
    x, y = points[index]
    return sum(1 / (20 + hypot(x - other, y - high)) for other, high in points)


def _candidates(point: tuple[float, float], size: tuple[float, float]) -> list[tuple[Label, float]]:
    """Labels around a point with what each costs the reader's eye."""
    (x, y), (width, height) = point, size
    found = []
    for reach in _REACHES:
        for turn in range(_TURNS):
            angle = 2 * pi * turn / _TURNS
            right, up = cos(angle), sin(angle)
            # The text's nearest edge, not its middle, lies at the reach.
            cx, cy = x + right * (reach + width / 2 - 2), y - up * (reach + height / 2 - 5)
            box = Box(cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
            line = None
            if reach > _NEAR:
                end = min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)
                start = _towards((x, y), end, _RADIUS)
                line = (*start, *end)
            found.append((Label(box, line), reach + 3 * abs(sin(2 * angle))))
    return found


def _towards(
    start: tuple[float, float], end: tuple[float, float], length: float
) -> tuple[float, float]:
    distance = hypot(end[0] - start[0], end[1] - start[1]) or 1.0
    share = min(1.0, length / distance)
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def _fits(
    label: Label, area: Box, dots: Sequence[Box], others: Sequence[Box], taken: Sequence[Label]
) -> bool:
    box = label.box
    if box.left < area.left or box.right > area.right:
        return False
    if box.top < area.top or box.bottom > area.bottom:
        return False
    if any(box.overlap(dot) for dot in dots):
        return False
    if any(box.overlap(other.box) for other in taken):
        return False
    if any(other.line and _crosses(other.line, box) for other in taken):
        return False
    if label.line is None:
        return True
    return not any(_crosses(label.line, dot) for dot in others) and not any(
        _crosses(label.line, other.box) for other in taken
    )


def _crosses(line: tuple[float, float, float, float], box: Box) -> bool:
    """Whether a segment enters a box (Liang and Barsky)."""
    x1, y1, x2, y2 = line
    first, last = 0.0, 1.0
    for start, step, low, high in (
        (x1, x2 - x1, box.left, box.right),
        (y1, y2 - y1, box.top, box.bottom),
    ):
        if step == 0:
            if not low < start < high:
                return False
            continue
        near, far = sorted(((low - start) / step, (high - start) / step))
        first, last = max(first, near), min(last, far)
    return first < last


_WIDTHS = {
    **dict.fromkeys("ijl.,:;'|!", 0.29),
    **dict.fromkeys("ftrI()[]-/ ", 0.36),
    **dict.fromkeys("mwMW%", 0.9),
    **dict.fromkeys("ABCDEFGHJKLNOPQRSTUVXYZ&=+", 0.7),
}


def text_width(text: str, size: float) -> float:
    """Width of a text in a sans-serif face, in pixels; the page sets it to exactly that."""
    return size * sum(_WIDTHS.get(letter, 0.58 if letter.isascii() else 1.0) for letter in text)

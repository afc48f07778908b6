"""Masks of objects as COCO's files have them, brought to compressed run lengths.

An object is one polygon or several, which are merged, or run lengths of three kinds: a list of
counts, a string, or bytes. Pycocotools does the work; it comes with ``foveate[detection]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from types import ModuleType
from typing import Any

import numpy as np

from foveate.data.annotations.geometry import turn_pixels
from foveate.data.annotations.record import Mask
from foveate.data.sources.base import DataError

_REACH = 10
"""Sides of its image by which a polygon may lie outside."""


def coco_masks() -> ModuleType:
    """Pycocotools' functions of masks.

    Raises:
        DataError: if it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError:
        raise DataError(
            "masks need the package pycocotools: pip install 'foveate[detection]'"
        ) from None
    return mask


def read_mask(given: Any, size: tuple[int, int] | None, entry: str) -> Mask:
    """The mask that a file means by ``given``.

    Args:
        given: polygons ``[[x, y, ...], ...]`` or run lengths ``{"size": ..., "counts": ...}``.
        size: height and width of the image; of run lengths None for those that they state.
        entry: what it is of, for messages.

    Raises:
        DataError: if it is neither, or run lengths are of another size or do not fill it, or a
            polygon lies far outside.
    """
    tools = coco_masks()
    if size is None or (isinstance(given, Mapping) and "counts" in given):
        return _runs(tools, given, size, entry)
    polygons = polygons_of(given, entry)
    reach = _REACH * max(size)
    for value in (value for part in polygons for value in part):
        if abs(value) > reach:  # beyond some, pycocotools writes past the end of its memory
            raise DataError(
                f"{entry} has a polygon with the coordinate {value:g}, far outside its image of "
                f"{size[1]}x{size[0]} (width x height)"
            )
    parts = tools.frPyObjects(polygons, *size)
    return _plain(tools.merge(parts))


def polygons_of(given: Any, entry: str) -> list[list[float]]:
    """The polygons of an object, ``x, y, x, y, ...`` each; one alone may stand without its list.

    Raises:
        DataError: if these are none.
    """
    alone = numbers_of(given)
    if alone:
        parts = [alone]
    else:
        parts = [numbers_of(part) for part in given] if isinstance(given, (list, tuple)) else []
    good = [part for part in parts if part is not None and _is_polygon(part)]
    if not good or len(good) < len(parts):
        raise DataError(
            f"{entry} has a segmentation that is none: expected polygons [[x, y, x, y, x, y, ...], "
            f"...] of at least three points or run lengths {{'size', 'counts'}}, "
            f"got {short(given)}"
        )
    return good


def _is_polygon(part: list[float]) -> bool:
    return len(part) >= 6 and len(part) % 2 == 0 and all(map(isfinite, part))


def numbers_of(given: Any) -> list[float] | None:
    """A list of numbers as floating point; None if it is none."""
    plain = isinstance(given, (list, tuple)) and all(type(v) in (int, float) for v in given)
    try:
        return [float(v) for v in given] if plain else None
    except OverflowError:
        return None


def _runs(tools: ModuleType, given: Mapping, size: tuple[int, int] | None, entry: str) -> Mask:
    counts, stated = given.get("counts"), given.get("size", size and list(size))
    numbers = numbers_of(stated)
    if numbers is None or len(numbers) != 2 or not all(v >= 1 and v % 1 == 0 for v in numbers):
        raise DataError(
            f"{entry} has run lengths of the size {short(stated)}: expected height and width"
        )
    stated = int(numbers[0]), int(numbers[1])
    size = size or stated
    if stated != size:
        raise DataError(
            f"{entry} has run lengths of an image of {stated[1]}x{stated[0]} in one of "
            f"{size[1]}x{size[0]} (width x height)"
        )
    if not isinstance(counts, (str, bytes)) and not _are_counts(counts):
        raise DataError(
            f"{entry} has run lengths that are none: expected whole numbers from 0, or a string, "
            f"got {short(counts)}"
        )
    if isinstance(counts, (str, bytes)):
        mask = {
            "size": list(size),
            "counts": counts.encode() if isinstance(counts, str) else counts,
        }
        runs = _decoded_runs(mask["counts"])
        filled = sum(runs) if min(runs, default=0) >= 0 else -1
    else:
        filled = sum(counts)
        mask = {"size": list(size), "counts": counts}
    if filled < 0:
        raise DataError(f"{entry} has a run of negative length: its string is damaged")
    if filled != size[0] * size[1]:
        raise DataError(
            f"{entry} has run lengths of {filled:,} pixels in an image of {size[0] * size[1]:,}"
        )
    return _plain(mask if isinstance(mask["counts"], bytes) else tools.frPyObjects(mask, *size))


def _are_counts(given: Any) -> bool:
    return isinstance(given, (list, tuple)) and all(
        type(v) is int and 0 <= v < 2**32 for v in given
    )


def _decoded_runs(counts: bytes) -> list[int]:
    """The run lengths of a compressed string, five bits a character.

    From the fourth on they are differences to the last but one. Pycocotools reads past the end of
    its memory where they do not fill the image.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in counts:
        five = character - 48
        value |= (five & 0x1F) << shift
        shift += 5
        if five & 0x20:
            continue
        if five & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    return runs


def turned(mask: Mask, orientation: int) -> Mask:
    """The mask of the image once it is turned upright, as its EXIF orientation says."""
    tools = coco_masks()
    pixels = turn_pixels(tools.decode(mask), orientation)
    return _plain(tools.encode(np.asfortranarray(pixels)))


def _plain(mask: Mapping[str, Any]) -> Mask:
    return {"size": [int(side) for side in mask["size"]], "counts": mask["counts"]}


def short(value: Any) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

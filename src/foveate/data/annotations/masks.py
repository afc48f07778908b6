"""Masks of objects as COCO's files have them, brought to compressed run lengths.

An object is one polygon or several, which are merged, or run lengths of three kinds: a list of
counts, a string, or bytes. Pycocotools does the work; it comes with ``foveate[detection]``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from foveate.data.annotations.geometry import turn_pixels
from foveate.data.annotations.record import Mask
from foveate.data.sources.base import DataError


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


def read_mask(given: Any, size: tuple[int, int], entry: str) -> Mask:
    """The mask that a file means by ``given``.

    Args:
        given: polygons ``[[x, y, ...], ...]`` or run lengths ``{"size": ..., "counts": ...}``.
        size: height and width of the image.
        entry: what it is of, for messages.

    Raises:
        DataError: if it is neither, or run lengths are of another size or do not fill it.
    """
    tools = coco_masks()
    if isinstance(given, Mapping) and "counts" in given:
        return _runs(tools, given, size, entry)
    polygons = polygons_of(given, entry)
    parts = tools.frPyObjects(polygons, *size)
    return _plain(tools.merge(parts))


def polygons_of(given: Any, entry: str) -> list[list[float]]:
    """The polygons of an object, ``x, y, x, y, ...`` each; one alone may stand without its list.

    Raises:
        DataError: if these are none.
    """
    if isinstance(given, Sequence) and given and all(isinstance(v, (int, float)) for v in given):
        given = [given]
    good = (
        isinstance(given, Sequence)
        and not isinstance(given, (str, bytes))
        and len(given) > 0
        and all(
            isinstance(part, Sequence)
            and len(part) >= 6
            and len(part) % 2 == 0
            and all(isinstance(v, (int, float)) and np.isfinite(v) for v in part)
            for part in given
        )
    )
    if not good:
        raise DataError(
            f"{entry} has a segmentation that is none: expected polygons [[x, y, x, y, x, y, ...], "
            f"...] of at least three points or run lengths {{'size', 'counts'}}, "
            f"got {_short(given)}"
        )
    return [[float(v) for v in part] for part in given]


def _runs(tools: ModuleType, given: Mapping, size: tuple[int, int], entry: str) -> Mask:
    counts, stated = given["counts"], tuple(given.get("size", size))
    if stated != size:
        raise DataError(
            f"{entry} has run lengths of an image of {stated[1]}x{stated[0]} in one of "
            f"{size[1]}x{size[0]} (width x height)"
        )
    if isinstance(counts, (str, bytes)):
        mask = {
            "size": list(size),
            "counts": counts.encode() if isinstance(counts, str) else counts,
        }
        filled = sum(_decoded_runs(mask["counts"]))
    else:
        filled = sum(counts)
        mask = {"size": list(size), "counts": counts}
    if filled != size[0] * size[1]:
        raise DataError(
            f"{entry} has run lengths of {filled:,} pixels in an image of {size[0] * size[1]:,}"
        )
    return _plain(mask if isinstance(mask["counts"], bytes) else tools.frPyObjects(mask, *size))


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


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

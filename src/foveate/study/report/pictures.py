"""Small pictures as data URIs: heat maps of attention, images as the model gets them."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from typing import Any

Pixel = tuple[int, int, int]

# Viridis, at eleven points.
_COLOURS: tuple[Pixel, ...] = (
    (68, 1, 84), (72, 36, 117), (65, 68, 135), (53, 95, 141), (42, 120, 142), (33, 145, 140),
    (34, 168, 132), (68, 191, 112), (122, 209, 81), (189, 223, 38), (253, 231, 37),
)  # fmt: skip


def heat_map(values: Sequence[Sequence[float]]) -> str:
    """The map, one pixel a position, coloured by the root of each value's share of the largest."""
    top = max(max(row) for row in values) or 1.0
    return _png([[_colour((max(value, 0.0) / top) ** 0.5) for value in row] for row in values])


def picture(rows: Sequence[Sequence[Any]]) -> str:
    """An image given row by row as bytes: one number a pixel, or three."""
    return _png([[_pixel(value) for value in row] for row in rows])


def scale() -> str:
    """The colours of a heat map from nothing to the most."""
    return _png([[_colour(step / 63) for step in range(64)]])


def _pixel(value: Any) -> Pixel:
    red, green, blue = value if isinstance(value, (list, tuple)) else [value] * 3
    return red, green, blue


def _colour(share: float) -> Pixel:
    place = min(share, 1.0) * (len(_COLOURS) - 1)
    index = min(int(place), len(_COLOURS) - 2)
    low, high = _COLOURS[index], _COLOURS[index + 1]
    red, green, blue = (
        round(a + (b - a) * (place - index)) for a, b in zip(low, high, strict=True)
    )
    return red, green, blue


def _png(rows: Sequence[Sequence[Pixel]]) -> str:
    """Eight bits a channel, unfiltered."""
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 2, 0, 0, 0)
    body = b"".join(b"\0" + bytes(value for pixel in row for value in pixel) for row in rows)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(body, 9)), (b"IEND", b"")
    data = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

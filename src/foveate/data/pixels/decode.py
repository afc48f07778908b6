"""One image file, as people have them, to 8-bit pixels: upright, on white, in gray or RGB.

Deep images (16-bit, integer, floating point) are mapped to 8 bits with one range for the whole
set, found from the images by :func:`value_range`, so that brightness means the same in each.
"""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from foveate.data.sources.base import Raw

VERSION = 1
"""Of what this file makes of an image; part of the name of every cached one."""

_DRAFT_GAP = 2
_ORIENTATION = 0x0112
_PACKAGES = {
    ".heic": "HEIC: install pillow-heif to read it",
    ".heif": "HEIF: install pillow-heif to read it",
    ".avif": "AVIF: install Pillow 11.3 or newer, or pillow-avif-plugin, to read it",
    ".jxl": "JPEG XL: install pillow-jxl-plugin to read it",
    ".svg": "SVG is a drawing and no pixels: convert it to PNG",
    ".dcm": "DICOM: convert it to PNG or TIFF, with pydicom for example",
    ".nef": "camera raw: convert it to JPEG, with rawpy for example",
    ".cr2": "camera raw: convert it to JPEG, with rawpy for example",
    ".cr3": "camera raw: convert it to JPEG, with rawpy for example",
    ".arw": "camera raw: convert it to JPEG, with rawpy for example",
}
NEEDS_PACKAGE = frozenset(_PACKAGES)


class ValueRange(NamedTuple):
    """The values that become 0 and 255 in 8 bits."""

    low: float
    high: float


class NeedsRangeError(Exception):
    """A deep image was met and the range of its kind is not known yet."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


def open_file(file: Path | bytes, side: tuple[int, int] | None = None) -> Raw:
    """The first frame of an image file, loaded and turned upright.

    Args:
        file: its path or its bytes.
        side: height and width; a JPEG is decoded at a fraction of its size as long as both stay
            at least twice this.
    """
    suffix = file.suffix.lower() if isinstance(file, Path) else ""
    if suffix in (".heic", ".heif", ".avif"):
        _register_heif()
    with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as image:
        return _load(image, side)


class Header(NamedTuple):
    """What a file says of its image before any pixel is decoded.

    Attributes:
        size: height and width as stored.
        orientation: EXIF's, 1 to 8.
    """

    size: tuple[int, int]
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        """Height and width once it is turned upright."""
        return self.size[::-1] if self.orientation in (5, 6, 7, 8) else self.size


def read_header(file: Path) -> Header:
    """The header of an image file; any exception means that it is unreadable."""
    if file.suffix.lower() in (".heic", ".heif", ".avif"):
        _register_heif()
    with Image.open(file) as image:
        orientation = image.getexif().get(_ORIENTATION, 1)
        return Header((image.height, image.width), orientation if orientation in range(2, 9) else 1)


def _load(image: Image.Image, side: tuple[int, int] | None) -> Raw:
    kinds = []
    pixels = image.width * image.height
    if getattr(image, "n_frames", 1) > 1:
        kinds.append("frames")
    if image.mode in ("RGB", "RGBA", "LA") and _is_16_bit(image):
        kinds.append("16 bits a channel")
    orientation = image.getexif().get(_ORIENTATION, 1)
    if side is not None and image.format == "JPEG":
        height, width = (_DRAFT_GAP * extent for extent in side)
        image.draft(None, (height, width) if orientation in (5, 6, 7, 8) else (width, height))
    image.load()
    if orientation not in range(2, 9):
        return Raw(image, tuple(kinds), pixels)
    return Raw(ImageOps.exif_transpose(image), (*kinds, "turned"), pixels)


def _is_16_bit(image: Image.Image) -> bool:
    return any(";16" in str(part) for tile in image.tile for part in _flat(tile[3]))


def _flat(arguments: object) -> tuple:
    return arguments if isinstance(arguments, tuple) else (arguments,)


def _register_heif() -> None:
    try:
        import pillow_heif  # pyrefly: ignore
    except ImportError:
        return
    pillow_heif.register_heif_opener()


def to_8_bits(
    raw: Raw, channels: int, ranges: dict[str, ValueRange]
) -> tuple[Image.Image, tuple[str, ...]]:
    """The image in mode L or RGB, and what that took, of :data:`foveate.data.findings.KINDS`.

    Raises:
        NeedsRangeError: if it is deep and ``ranges`` lacks its kind.
    """
    image, kinds = raw.image, raw.kinds
    kind = depth(image)
    if kind is not None:
        if kind not in ranges:
            raise NeedsRangeError(kind)
        image, beyond = _from_deep(image, ranges[kind])
        kinds = (*kinds, kind, *(("clipped",) if beyond else ()))
    elif image.has_transparency_data:
        image, seen = _on_white(image)
        kinds = (*kinds, "transparent") if seen else kinds
    elif image.mode == "CMYK":
        kinds = (*kinds, "cmyk")
    mode = "L" if channels == 1 else "RGB"
    return (image if image.mode == mode else image.convert(mode)), kinds


def depth(image: Image.Image) -> str | None:
    """``"16-bit"``, ``"integer"`` or ``"floating-point"`` of a deep image, else None."""
    if image.mode.startswith("I;16"):
        return "16-bit"
    return {"I": "integer", "F": "floating-point"}.get(image.mode)


def extremes(image: Image.Image) -> tuple[float, float] | None:
    """The least and largest finite value; None if there is none."""
    values = np.asarray(image)
    values = values[np.isfinite(values)]
    return (float(values.min()), float(values.max())) if values.size else None


def value_range(kind: str, low: float, high: float) -> ValueRange:
    """The range that stands for 8 bits, from the extremes that were met in a set.

    Whole numbers take the smallest of 8, 10, 12, 14 and 16 bits that holds them, so that what a
    12-bit camera wrote into a 16-bit file does not come out black; floating-point values 0 to 1
    or 0 to 255. All else is mapped from its least to its largest value.
    """
    if kind == "floating-point":
        tops = (1.0, 255.0)
    else:
        tops = tuple(float(2**bits - 1) for bits in (8, 10, 12, 14, 16))
    if low >= 0:
        for top in tops:
            if high <= top:
                return ValueRange(0.0, top)
    return ValueRange(low, high if high > low else low + 1.0)


def _from_deep(image: Image.Image, range_: ValueRange) -> tuple[Image.Image, bool]:
    """The image in 8 bits, and whether it has values outside the range or that are no numbers."""
    values = np.asarray(image, dtype=np.float64)
    beyond = not bool(((values >= range_.low) & (values <= range_.high)).all())
    scaled = (np.nan_to_num(values, nan=range_.low) - range_.low) * (
        255 / (range_.high - range_.low)
    )
    return Image.fromarray(np.rint(scaled.clip(0, 255)).astype(np.uint8)), beyond


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image over white paper, and whether any of it is transparent."""
    layers = image.convert("RGBA")
    least, _ = layers.getchannel("A").getextrema()
    if least == 255:
        return layers.convert("RGB"), False
    paper = Image.new("RGBA", layers.size, (255, 255, 255, 255))
    return Image.alpha_composite(paper, layers).convert("RGB"), True


def reason(error: Exception, name: str) -> str:
    """Why a file could not be read, in the user's terms; equal causes give equal words."""
    suffix = os.path.splitext(name)[1].lower()
    if isinstance(error, UnidentifiedImageError):
        if suffix == ".avif" and features.check("avif"):
            return "not an image"
        return _PACKAGES.get(suffix, "not an image")
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.DecompressionBombError):
        return "larger than Pillow decodes (179 million pixels)"
    return " ".join(str(error).split()) or repr(error)

"""One mask file to labels: the numbers that are in it, never turned into colors or resampled.

Read are palette images (the index is the label, whatever color it shows), gray ones, and colored
ones through a table of colors. Labels become 0 to K - 1, and :data:`IGNORED` where they count
nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from foveate.data.sources.base import DataError
from foveate.data.sources.class_list import ClassList, Color

IGNORED = 255
"""The label of pixels that count nowhere, in every mask that was read."""

MOST_CLASSES = IGNORED

_ORIENTATION = 0x0112
_VALUES = ("P", "L", "1", "I", "I;16", "I;16B")
_LOSSY = (".jpg", ".jpeg")
_UNKNOWN = -1


class AmbiguousTurnError(ValueError):
    """An image is turned by EXIF, and its mask may have been drawn before or after that."""

    def __init__(self) -> None:
        super().__init__(
            "turned by EXIF, and its mask fits both ways: save the image upright, or the mask "
            "with the same EXIF orientation"
        )


def open_mask(path: Path) -> Image.Image:
    """The mask as it is stored, in a mode that holds labels, or RGB.

    Raises:
        DataError: if it has another mode, or lost values by compression.
    """
    if path.suffix.lower() in _LOSSY:
        raise DataError(f"mask {path} is a JPEG, which changes values: save masks as PNG")
    with Image.open(path) as image:
        image.load()
        if image.mode in ("LA", "RGBA"):
            if image.getchannel("A").getextrema() != (255, 255):
                raise DataError(f"mask {path} is transparent in parts: save it without alpha")
            turned = image.getexif().get(_ORIENTATION, 1)
            image = image.convert(image.mode[:-1])
            image.getexif()[_ORIENTATION] = turned
        if image.mode not in (*_VALUES, "RGB"):
            raise DataError(
                f"mask {path} has mode {image.mode}: labels are read from palette (P) or gray (L) "
                "images, and from RGB by a table of colors"
            )
        return image


def upright(
    mask: Image.Image, image: Path, size: tuple[int, int], path: Path
) -> tuple[Image.Image, bool]:
    """The mask as the image lies, and whether it had to be turned as the image's EXIF says.

    Args:
        mask: as stored.
        image: file of the image, whose EXIF may turn it.
        size: height and width of the image, upright.
        path: of the mask, for messages.

    Raises:
        DataError: if the sizes do not fit.
        AmbiguousTurnError: if both ways fit.
    """
    turned = mask.getexif().get(_ORIENTATION, 1) in range(2, 9)
    if not turned:
        with Image.open(image) as header:
            turn = header.getexif().get(_ORIENTATION, 1)
        stored = size[::-1] if turn in range(5, 9) else size
        here = mask.height, mask.width
        if turn in range(2, 9) and here == size == stored:
            raise AmbiguousTurnError
        if turn in range(5, 9) and here == stored:
            mask.getexif()[_ORIENTATION], turned = turn, True
    if turned:
        mask = ImageOps.exif_transpose(mask)
    if (mask.height, mask.width) != size:
        raise DataError(
            f"mask {path} is {mask.height}x{mask.width} (height x width), and its image {image} is "
            f"{size[0]}x{size[1]}: a mask has a label for every pixel of its image"
        )
    return mask, turned


class Labels:
    """What stands in masks, and what it means.

    Args:
        values: the class of each value in the files; :data:`IGNORED` for those that do not count.
        colors: the value of each color, for masks in color.
        said: what the list of classes says, for messages.
    """

    def __init__(self, values: Mapping[int, int], colors: Mapping[Color, int], said: str) -> None:
        self.values, self.colors, self.said = dict(values), dict(colors), said
        self._table = np.full(max([*values, 255]) + 1, _UNKNOWN, dtype=np.int16)
        for value, label in values.items():
            self._table[value] = label

    def read(self, mask: Image.Image, path: Path) -> np.ndarray:
        """Labels (H, W), uint8.

        Raises:
            DataError: if a value or a color has no class; it names both, and the file.
        """
        values = self._of_colors(mask, path) if mask.mode == "RGB" else values_of(mask)
        within = (values >= 0) & (values < len(self._table))
        labels = self._table[np.where(within, values, 0)]
        labels[~within] = _UNKNOWN
        if (labels == _UNKNOWN).any():
            wrong = values[labels == _UNKNOWN]
            raise DataError(
                f"mask {path} holds the label {int(wrong[0])} ({len(wrong):,} pixels), and "
                f"{self.said}: correct the mask or the list, or give --ignore-label {int(wrong[0])}"
            )
        return labels.astype(np.uint8)

    def _of_colors(self, mask: Image.Image, path: Path) -> np.ndarray:
        if not self.colors:
            raise needs_table(path)
        codes = color_codes(mask)
        known = np.array([_code(color) for color in self.colors])
        order = np.argsort(known)
        places = np.searchsorted(known[order], codes).clip(0, len(known) - 1)
        found = order[places]
        unknown = known[found] != codes
        if unknown.any():
            code = int(codes[unknown][0])
            color = (code >> 16, code >> 8 & 255, code & 255)
            raise DataError(
                f"mask {path} holds the color {color} ({int(unknown.sum()):,} pixels), which is "
                f"not among the {len(known)} colors of the list of classes"
            )
        return np.array(list(self.colors.values()))[found]


def needs_table(path: Path) -> DataError:
    """What to say of a mask in color where no table says what colors mean."""
    return DataError(
        f"mask {path} is in color (RGB), and no table says which color is which class: put a "
        "class_dict.csv (name,r,g,b), or a classes.json with classes and colors, into the folder "
        "of the set"
    )


def values_of(mask: Image.Image) -> np.ndarray:
    """The numbers in a mask of one channel, (H, W)."""
    return np.asarray(mask).astype(np.int64)


def color_codes(mask: Image.Image) -> np.ndarray:
    """Each color as one number, (H, W)."""
    red, green, blue = np.moveaxis(np.asarray(mask).astype(np.int64), 2, 0)
    return red << 16 | green << 8 | blue


def _code(color: Sequence[int]) -> int:
    red, green, blue = color
    return red << 16 | green << 8 | blue


def labels_of(
    listed: ClassList | None, found: Sequence[int], ignored: int | None, where: str
) -> tuple[Labels, list[str], list[str]]:
    """What values mean, the names of the classes, and what to say of it.

    Args:
        listed: what a file says, if there is one.
        found: values in the masks; needed where no list has more than two names.
        ignored: the user's own label of pixels that do not count, beside 255.
        where: the set, for messages.

    Raises:
        DataError: if fewer than two classes are left, or too many.
    """
    notes = []
    if (
        ignored is None
        and set(found) == {0, IGNORED}
        and (listed is None or len(listed.names) == 2)
    ):
        names = ["background", "foreground"] if listed is None else list(listed.names)
        notes.append(
            f"masks hold 0 and 255 alone: read as {names[0]} and {names[1]}; if 255 is to be "
            "ignored, say so by --ignore-label 255"
        )
        said = f"masks hold 0 ({names[0]}) and 255 ({names[1]})"
        colors = {} if listed is None else _colors(listed)
        return Labels({0: 0, IGNORED: 1, **({1: 1} if colors else {})}, colors, said), names, notes
    out = {IGNORED} if ignored is None else {IGNORED, ignored}
    if listed is not None:
        out |= listed.ignored
        if len(listed.names) > IGNORED:
            out.discard(IGNORED)
        names = [name for value, name in enumerate(listed.names) if value not in out]
        kept = [value for value in range(len(listed.names)) if value not in out]
        said = f"{listed.file} has {len(listed.names)} classes, 0 to {len(listed.names) - 1}"
        colors = _colors(listed)
    else:
        kept = list(range(max([v for v in found if v not in out], default=-1) + 1))
        kept = [value for value in kept if value not in out]
        names = [f"class {value}" for value in kept]
        said, colors = f"the masks of {where} hold {len(kept)} classes", {}
        used = [value for value in kept if value in found]
        few = f", of which {', '.join(map(str, used))} are in use" if len(used) < len(kept) else ""
        notes.append(
            f"no list of classes in {where}: {len(kept)} classes by the largest label, "
            f"{max(kept, default=0)}{few}; a classes.txt with a name a line would name them"
        )
    if len(kept) < 2:
        raise DataError(
            f"the masks of {where} have {len(kept)} class beside pixels that are ignored "
            f"({', '.join(map(str, sorted(out)))}); expected at least two"
        )
    if len(kept) > MOST_CLASSES:
        raise DataError(f"{where} has {len(kept)} classes; up to {MOST_CLASSES} are read")
    notes.append(f"labels that are ignored: {', '.join(map(str, sorted(out)))}")
    values = {**dict.fromkeys(out, IGNORED), **{value: row for row, value in enumerate(kept)}}
    return Labels(values, colors, said), names, notes


def _colors(listed: ClassList) -> dict[Color, int]:
    return {color: value for value, color in enumerate(listed.colors)}

"""One mask file to labels: the numbers that are in it, never turned into colors or resampled.

Read are palette images (the index is the label, whatever color it shows), gray ones, and colored
ones through a table of colors. Labels become 0 to K - 1, and :data:`IGNORED` where they count
nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

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
_MANY = 20
"""From how many masks on a label that stands in one of them alone is remarkable."""


def class_pixels(labels: np.ndarray, classes: int) -> np.ndarray:
    """How many pixels of a mask are of each class (K,); those that are ignored count nowhere."""
    return np.bincount(labels[labels < classes], minlength=classes)


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
        self._table = np.full(max([*values, 255]) + 2, _UNKNOWN, dtype=np.int16)  # from -1
        for value, label in values.items():
            self._table[value + 1] = label

    def read(self, mask: Image.Image, path: Path) -> np.ndarray:
        """Labels (H, W), uint8.

        Raises:
            DataError: if a value or a color has no class; it names both, and the file.
        """
        values = self._of_colors(mask, path) if mask.mode == "RGB" else values_of(mask)
        within = (values >= -1) & (values < len(self._table) - 1)
        labels = self._table[np.where(within, values, 0) + 1]
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


class Seen(NamedTuple):
    """Masks that hold the same values.

    Attributes:
        count: of them.
        first: of them.
    """

    count: int
    first: Path


class Values:
    """Which values masks hold together.

    Args:
        masks: of each, its file and its values.
    """

    def __init__(self, masks: Iterable[tuple[Path, Iterable[int]]] = ()) -> None:
        self._kinds: dict[frozenset[int], Seen] = {}
        for path, values in masks:
            kind = frozenset(values)
            before = self._kinds.get(kind, Seen(0, path))
            self._kinds[kind] = before._replace(count=before.count + 1)

    @property
    def all(self) -> set[int]:
        """Every value that stands in a mask."""
        return set().union(*self._kinds)

    @property
    def masks(self) -> int:
        """How many masks were looked at."""
        return sum(seen.count for seen in self._kinds.values())

    def of(self, value: int) -> Seen:
        """Masks that hold a value."""
        holding = [seen for kind, seen in self._kinds.items() if value in kind]
        return Seen(sum(seen.count for seen in holding), holding[0].first)

    def apart(self, one: int, other: int) -> tuple[Path, Path] | None:
        """A mask with ``one`` and a mask with ``other``, where no mask holds both."""
        if not {one, other} <= self.all or any({one, other} <= kind for kind in self._kinds):
            return None
        return self.of(one).first, self.of(other).first


class Meaning(NamedTuple):
    """What the values in masks mean.

    Attributes:
        labels: how they are read.
        classes: names.
        notes: what to say of it.
        warnings: what the user should look at.
    """

    labels: Labels
    classes: list[str]
    notes: list[str]
    warnings: list[str]


def meaning_of(listed: ClassList | None, found: Values, ignored: int | None, where: str) -> Meaning:
    """What values mean: as a list of classes says, else a class for each label in use.

    Args:
        listed: what a file says, if there is one.
        found: values in the masks; needed where no list has more than two names.
        ignored: the user's own label of pixels that do not count, beside 255.
        where: the set, for messages.

    Raises:
        DataError: if fewer than two classes are left, or too many; or if some masks write
            foreground as 1 and others as 255.
    """
    if ignored is None and (listed is None or len(listed.names) == 2):
        if found.all == {0, IGNORED}:
            return _black_and_white(listed)
        if found.all == {0, 1, IGNORED} and (both := found.apart(1, IGNORED)):
            raise DataError(
                f"mask {both[0]} holds 1 and mask {both[1]} 255, and no mask holds both: if 255 "
                "is the same class as 1, write it as 1; if it is to be ignored, say so by "
                "--ignore-label 255"
            )
    out = {IGNORED} if ignored is None else {IGNORED, ignored}
    if listed is not None:
        out |= listed.ignored
        if len(listed.names) > IGNORED:
            out.discard(IGNORED)
        kept = [value for value in range(len(listed.names)) if value not in out]
        names = [listed.names[value] for value in kept]
        said = f"{listed.file} has {len(listed.names)} classes, 0 to {len(listed.names) - 1}"
        notes, warnings, colors = [], [], _colors(listed)
    else:
        kept = sorted(found.all - out)
        names = [f"class {value}" for value in kept]
        said, colors = f"the masks of {where} hold {len(kept)} classes", {}
        notes = [
            f"no list of classes in {where}: {len(kept)} classes, the labels in use "
            f"({_ranges(kept)}); a classes.txt with a name a line would name them"
        ]
        warnings = _stray(kept, found)
    if len(kept) < 2:
        raise DataError(
            f"the masks of {where} have {len(kept)} class beside pixels that are ignored "
            f"({', '.join(map(str, sorted(out)))}); expected at least two"
        )
    if len(kept) > MOST_CLASSES:
        raise DataError(
            f"{where} has {len(kept):,} classes, and up to {MOST_CLASSES} are read"
            + (f"; the mask {found.of(kept[-1]).first} holds {kept[-1]}" if listed is None else "")
        )
    notes.append(f"labels that are ignored: {', '.join(map(str, sorted(out)))}")
    values = {**dict.fromkeys(out, IGNORED), **{value: row for row, value in enumerate(kept)}}
    return Meaning(Labels(values, colors, said), names, notes, warnings)


def _black_and_white(listed: ClassList | None) -> Meaning:
    """Of masks that hold 0 and 255 alone."""
    names = ["background", "foreground"] if listed is None else list(listed.names)
    note = (
        f"masks hold 0 and 255 alone: read as {names[0]} and {names[1]}; if 255 is to be "
        "ignored, say so by --ignore-label 255"
    )
    said = f"masks hold 0 ({names[0]}) and 255 ({names[1]})"
    colors = {} if listed is None else _colors(listed)
    labels = Labels({0: 0, IGNORED: 1, **({1: 1} if colors else {})}, colors, said)
    return Meaning(labels, names, [note], [])


def _stray(kept: Sequence[int], found: Values) -> list[str]:
    """Labels of a single mask, where there are many masks: perhaps a slip of the brush."""
    if found.masks < _MANY:
        return []
    return [
        f"label {value} stands in one of {found.masks:,} masks, {found.of(value).first}: if it is "
        f"no class, correct the mask or give --ignore-label {value}"
        for value in kept
        if found.of(value).count == 1
    ]


def _ranges(values: Sequence[int]) -> str:
    """Numbers in order, with runs as their ends."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1][1:] = [value]
        else:
            runs.append([value])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _colors(listed: ClassList) -> dict[Color, int]:
    return {color: value for value, color in enumerate(listed.colors)}

"""What was found while images were read: left out, interpreted, decided; to be said once.

A study prints :meth:`Findings.lines` when it has read its images, and its report shows the same
lines: so nothing is dropped or reinterpreted without the user seeing it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

_NAMED = 3
_MOST_RECORDED = 1000

KINDS: Mapping[str, str] = {
    "turned": "turned upright, as their EXIF orientation says",
    "mask turned": "whose mask is turned as the image is, by its EXIF orientation",
    "transparent": "with transparency laid on white",
    "frames": "of several frames: the first is used",
    "cmyk": "in CMYK turned to RGB without a color profile",
    "16-bit": "of 16 bits",
    "integer": "of 32-bit whole numbers",
    "floating-point": "of floating-point numbers",
    "clipped": "with values outside the range that is read, or that are no numbers",
    "blank": "of one color throughout",
    "16 bits a channel": "of 16 bits a channel in color: the upper 8 bits are used",
}
"""What may be done to an image in order to read it, by the name that is counted."""


@dataclass(frozen=True)
class LeftOut:
    """Something that is not used.

    Attributes:
        name: of the file or folder.
        reason: why; the same words for the same cause, so that causes can be counted.
        label: the class that it would have belonged to, where that is known.
        count: of files, for a folder.
        unreadable: whether an image was expected and could not be read.
    """

    name: str
    reason: str
    label: str | None = None
    count: int = 1
    unreadable: bool = False


@dataclass(frozen=True)
class Duplicates:
    """Images whose decoded pixels are equal.

    Attributes:
        across: held-out images that are among the training images as well.
        within: training images beyond the first of their kind.
        conflicting: images, of either split, whose pixels stand under more than one class.
        pairs: some of ``across``, as (held-out name, training name).
        removed: training images that were left out because they are held out as well.
    """

    across: int = 0
    within: int = 0
    conflicting: int = 0
    pairs: tuple[tuple[str, str], ...] = ()
    removed: int = 0


@dataclass(frozen=True)
class Findings:
    """All of it, as the record of a run keeps it.

    Attributes:
        left_out: what is not used (the first 1,000), with the reason.
        counts: by reason, all that is not used.
        kinds: by the names in :data:`KINDS` and by bit depth, images that were interpreted.
        notes: what was decided for the user, a sentence each.
        warnings: what the user should look at before believing a result, a sentence each.
        duplicates: equal pixels.
    """

    left_out: tuple[LeftOut, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    kinds: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    duplicates: Duplicates = field(default_factory=Duplicates)

    @classmethod
    def of(
        cls,
        left_out: Iterable[LeftOut],
        kinds: Mapping[str, int],
        notes: Iterable[str],
        warnings: Iterable[str],
        duplicates: Duplicates,
    ) -> Findings:
        """Findings with the counts by reason filled in."""
        everything = list(left_out)
        counts: Counter[str] = Counter()
        for item in everything:
            counts[item.reason] += item.count
        return cls(
            tuple(everything[:_MOST_RECORDED]),
            dict(counts),
            dict(kinds),
            tuple(notes),
            tuple(warnings),
            duplicates,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Findings:
        """What :meth:`to_dict` gave."""
        found = values["duplicates"]
        pairs = tuple((one, other) for one, other in found["pairs"])
        return cls(
            tuple(LeftOut(**item) for item in values["left_out"]),
            values["counts"],
            values["kinds"],
            tuple(values["notes"]),
            tuple(values["warnings"]),
            Duplicates(**{**found, "pairs": pairs}),
        )

    def lines(self) -> list[str]:
        """Each finding as one line, warnings first; names are escaped by :func:`printable`."""
        said = [f"warning: {text}" for text in self.warnings]
        said += self._left_out_lines()
        for kind, count in self.kinds.items():
            said.append(f"{images_of(count)} {KINDS.get(kind, kind)}")
        said += self._duplicate_lines()
        said += self.notes
        return [printable(line) for line in said]

    def _left_out_lines(self) -> list[str]:
        unreadable = [item for item in self.left_out if item.unreadable]
        lines = []
        if unreadable:
            count = sum(self.counts[why] for why in {item.reason for item in unreadable})
            first = unreadable[0]
            line = f"skipped {count} unreadable file{_s(count)}: {first.name} ({first.reason})"
            if count > 1:
                line += " and others, listed in the record of the images"
            lines.append(line)
        groups: dict[str, list[LeftOut]] = defaultdict(list)
        for item in self.left_out:
            groups[item.reason].append(item)
        for reason, items in groups.items():
            if items[0].unreadable and len(unreadable) == 1:
                continue  # the line above says it all
            count = self.counts[reason]
            names = ", ".join(item.name for item in items[:_NAMED])
            more = ", ..." if len(items) > _NAMED else ""
            lines.append(f"left out, {reason}: {count:,} ({names}{more})")
        return lines

    def _duplicate_lines(self) -> list[str]:
        found = self.duplicates
        lines = []
        if found.across:
            line = f"{images_of(found.across)} held out and among the training images as well"
            if found.removed:
                line += f"; {found.removed:,} left out of training"
            names = ", ".join(f"{one} = {other}" for one, other in found.pairs[:_NAMED])
            mark = "" if found.removed else "warning: "
            lines.append(f"{mark}{line} (equal pixels: {names})")
        if found.within:
            lines.append(f"{images_of(found.within)} for training repeated, with equal pixels")
        if found.conflicting:
            lines.append(f"{images_of(found.conflicting)} equal to one of another class")
        return lines


def printable(text: str) -> str:
    r"""``text`` as any UTF-8 stream takes it, on one line.

    Bytes of a file name that are not UTF-8 (which Python holds as lone surrogates) and control
    characters are written as ``\xNN``, so that a name can neither end a study nor move a cursor.
    """
    out = []
    for character in text:
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif 0xD800 <= code <= 0xDFFF or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069:
            out.append(f"\\u{code:04x}")
        elif code < 32 or 127 <= code < 160:
            out.append(f"\\x{code:02x}")
        else:
            out.append(character)
    return "".join(out)


def images_of(count: int) -> str:
    """``count`` with its noun."""
    return f"{count:,} image{_s(count)}"


def _s(count: int) -> str:
    return "" if count == 1 else "s"

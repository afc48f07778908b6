"""Images with equal pixels: across the split they make a result look better than it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from foveate.data.findings import Duplicates

_NAMED = 20


class Hashed(NamedTuple):
    """One image of a split.

    Attributes:
        name: of the image.
        label: its class.
        digest: of its shape and decoded pixels.
    """

    name: str
    label: int
    digest: str


def find_duplicates(learning: Sequence[Hashed], held_out: Sequence[Hashed]) -> Duplicates:
    """Count and name equal images across and within the splits."""
    first: dict[str, Hashed] = {}
    within = 0
    for image in learning:
        if image.digest in first:
            within += 1
        else:
            first[image.digest] = image
    pairs = [(image.name, first[image.digest].name) for image in held_out
             if image.digest in first]  # fmt: skip
    labels: dict[str, set[int]] = {}
    for image in (*learning, *held_out):
        labels.setdefault(image.digest, set()).add(image.label)
    conflicting = sum(len(labels[image.digest]) > 1 for image in (*learning, *held_out))
    return Duplicates(len(pairs), within, conflicting, tuple(pairs[:_NAMED]))

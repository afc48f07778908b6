"""The embedded data: 136 hand-written characters by 20 drawers each, from Omniglot.

The 2,720 drawings are the small background set 1 of Omniglot (Lake, Salakhutdinov and Tenenbaum,
"Human-level concept learning through probabilistic program induction", Science 350, 2015), reduced
from 105x105 to 1-bit 32x32 by ``tools/make_characters.py``. The MIT license of the original lies
beside the file, in ``characters.LICENSE``.

The last :data:`HELD_OUT` of the 20 drawers of each alphabet are held out, so that a model is
measured on writers it has not seen: 2,040 drawings to learn from, 680 held out, 5 a character.
"""

from __future__ import annotations

from functools import cached_property
from importlib.resources import files

import numpy as np

from foveate.data.sources.base import TEST, TRAIN, Item, Listing, Raw, Source, from_array

DRAWERS, HELD_OUT, SIDE = 20, 5, 32


class Characters(Source):
    """Black ink on white, one channel; loading needs numpy alone."""

    channels = 1

    def __init__(self) -> None:
        self.name = "characters"

    def list(self) -> Listing:
        classes = [str(name) for name in self._file["classes"]]
        learning = DRAWERS - HELD_OUT
        items = [
            Item(f"{name}/{drawer:02d}", number, TRAIN if drawer <= learning else TEST)
            for number, name in enumerate(classes)
            for drawer in range(1, DRAWERS + 1)
        ]
        note = f"{HELD_OUT} of {DRAWERS} drawers of each alphabet are held out"
        return Listing(classes, items, [], [note])

    def read(self, name: str, side: tuple[int, int] | None = None) -> Raw:
        character, drawer = name.split("/")
        paper = self._paper[self._number[character], int(drawer) - 1]
        return Raw(from_array(paper))

    @cached_property
    def _file(self) -> dict[str, np.ndarray]:
        path = files("foveate.data.sources") / "characters.npz"
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}

    @cached_property
    def _number(self) -> dict[str, int]:
        return {str(name): number for number, name in enumerate(self._file["classes"])}

    @cached_property
    def _paper(self) -> np.ndarray:
        """(characters, drawers, 32, 32), 0 where there is ink and 255 elsewhere."""
        ink = np.unpackbits(self._file["ink"], axis=-1)
        return ((1 - ink) * np.uint8(255)).reshape(-1, DRAWERS, SIDE, SIDE)

"""Labels of images: the likeliest classes and their probabilities, a row an image."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from foveate.data.batches import Fit, normalized
from foveate.data.findings import printable
from foveate.prediction.base import Shown, moments_of, percent, thumbnail
from foveate.prediction.reading import Picture
from foveate.prediction.tables import write_table
from foveate.saved.load import LoadedModel
from foveate.tasks import Classification

_SHOWN = 3
TABLE = "predictions.csv"


class Ranked(NamedTuple):
    """The likeliest classes of an image, the first first."""

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]


class Labels:
    """See :class:`foveate.prediction.base.Predictor`.

    Args:
        loaded: a classifier.
        device: where it is.
        top_k: classes that are named of each image.
    """

    batch_size = 32

    def __init__(self, loaded: LoadedModel, device: str, top_k: int) -> None:
        self.model, info = loaded
        self.classes, self.device = info.classes, device
        self.top_k = min(top_k, len(info.classes))
        self.task = Classification(len(info.classes))
        self._fit, self._moments = Fit(info.input.size), moments_of(info.input)
        self._rows: list[tuple[str, Ranked]] = []

    def predict(self, pictures: list[Picture]) -> list[Ranked]:
        x = torch.stack([self._fit(Image.fromarray(picture.pixels)) for picture in pictures])
        x = normalized(x, *self._moments).contiguous(memory_format=torch.channels_last)
        logits = self.task.predict(self.model, x.to(self.device))
        best = logits.softmax(1).topk(self.top_k)
        return [
            Ranked(tuple(self.classes[place] for place in places), tuple(values))
            for values, places in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]

    def write(self, out: Path, picture: Picture, found: Ranked) -> None:
        self._rows.append((picture.name, found))

    def show(self, picture: Picture, found: Ranked) -> Shown:
        named = list(zip(found.classes, found.probabilities, strict=True))[:_SHOWN]
        said = tuple(f"{name}: {percent(probability)}" for name, probability in named)
        return Shown(picture.name, (("image", thumbnail(picture.pixels)),), said)

    def finish(self, out: Path) -> list[str]:
        numbers = range(1, self.top_k + 1)
        head = ["file", *(word for n in numbers for word in (f"class_{n}", f"probability_{n}"))]
        rows = [
            [printable(name), *(
                cell for each in zip(*ranked, strict=True) for cell in (each[0], f"{each[1]:.6f}")
            )]
            for name, ranked in self._rows
        ]  # fmt: skip
        write_table(out / TABLE, head, rows)
        likeliest = "class" if self.top_k == 1 else f"{self.top_k} classes"
        return [f"{TABLE}: the likeliest {likeliest} of each image"]

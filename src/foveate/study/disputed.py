"""The held-out images on which the things compared differ most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foveate.data.sources.base import TEST
from foveate.study.records import Predictions
from foveate.study.results import Results, Row

MOST = 8


@dataclass(frozen=True)
class Disputed:
    """An image that some find and others do not.

    Attributes:
        image: its number in the held-out split.
        name: by which its source finds it.
        label: its class; empty where classes are of pixels or objects.
        found: by label of what was compared, the share of seeds that found its class, or of pixels
            whose class is found; of objects the AP50 of this image alone.
        instead: by label, the class named most often where it was not found; absent elsewhere.
    """

    image: int
    name: str
    label: str
    found: dict[str, float]
    instead: dict[str, str]


def disputed(results: Results, most: int = MOST) -> list[Disputed]:
    """The images whose share of seeds that find them varies most from row to row.

    None where predictions were not kept, or are of other images than the held-out split.
    """
    rows = [row for row in results.rows if row.predictions]
    record = results.data
    if len(rows) < 2 or record is None or TEST not in record.splits:
        return []
    split = record.splits[TEST]
    labels = np.asarray(split.labels)
    shares = [_shares(row, labels) for row in rows]
    if any(share is None for share in shares):
        return []
    variance = np.nanvar(np.stack([share for share in shares if share is not None]), axis=0)
    order = np.argsort(-variance, kind="stable")[:most]
    return [
        Disputed(
            image=int(image),
            name=split.names[image] if image < len(split.names) else "",
            label="" if record.of_parts else record.classes[labels[image]],
            found={
                row.label: float(share[image])
                for row, share in zip(rows, shares, strict=True)
                if share is not None
            },
            instead=_instead(rows, int(image), record.classes),
        )
        for image in order
        if variance[image] > 0
    ]


def _shares(row: Row, labels: np.ndarray) -> np.ndarray | None:
    """By image, the share of seeds that found its class; None if these are other images."""
    total = np.zeros(len(labels))
    for found in row.predictions.values():
        if len(found.images) != len(labels) or found.images.max() >= len(labels):
            return None
        if isinstance(found, Predictions) and not np.array_equal(
            labels[found.images], found.labels
        ):
            return None
        total[found.images] += found.found
    return total / len(row.predictions)


def _instead(rows: list[Row], image: int, classes: list[str]) -> dict[str, str]:
    named = {}
    for row in rows:
        wrong = [
            int(found.predicted[place])
            for found in row.predictions.values()
            if isinstance(found, Predictions)
            for place in np.flatnonzero(found.images == image)
            if found.predicted[place] != found.labels[place]
        ]
        if wrong:
            named[row.label] = classes[max(set(wrong), key=wrong.count)]
    return named

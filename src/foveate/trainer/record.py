"""What a training came to, as its run directory keeps it in ``training.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

from foveate import _fields as fields
from foveate._files import write_text

RECORD = "training.json"
_FORMAT = 1


@dataclass(frozen=True)
class TrainingRecord:
    """A training that is over.

    Attributes:
        reported_epoch: whose weights ``model.safetensors`` holds.
        metrics: of these on the held-out images, by name; NaN is one that is not defined on them.
        best_epoch: whose weights ``best.safetensors`` holds, chosen on the held-out images; None
            where the reported one was chosen on images apart.
        parameters: of the model.
        train_seconds: spent on training, without evaluation.
        images_per_second: of training, all devices together.
        history: by epoch, what it came to.
        said: what was decided for the user, a sentence each.
    """

    reported_epoch: int
    metrics: Mapping[str, float]
    best_epoch: int | None
    parameters: int
    train_seconds: float
    images_per_second: float
    history: tuple[Mapping[str, float], ...]
    said: tuple[str, ...] = ()

    def write(self, root: Path) -> None:
        """Put it into the run directory ``root``."""
        values = {"format": _FORMAT, **asdict(self)}
        write_text(root / RECORD, json.dumps(_plain(values), indent=1))

    @classmethod
    def read(cls, root: Path) -> TrainingRecord | None:
        """What :meth:`write` put there, if the training is over.

        Raises:
            ValueError: if the file is damaged; it and the key are named.
        """
        path = root / RECORD
        if not path.exists():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            fields.whole(values, "format", least=1)
            return cls(
                fields.whole(values, "reported_epoch", least=1),
                _numbers(fields.mapping(values, "metrics")),
                fields.whole(values, "best_epoch", optional=True, least=1),
                fields.whole(values, "parameters"),
                fields.number(values, "train_seconds"),
                fields.number(values, "images_per_second"),
                tuple(_numbers(epoch) for epoch in values["history"]),
                fields.texts(values, "said"),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path} is damaged: {what}; remove it to train again") from error


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: nan if values[key] is None else fields.number(values, key) for key in values}


def _plain(value: Any) -> Any:
    """With None where a number is none, since JSON has no word for it."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value

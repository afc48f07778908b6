"""Which trainings lie in a folder, how far each is, and what it came to; without PyTorch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from foveate import _fields as fields
from foveate._files import read_json, write_json
from foveate.study.entry import PlanError
from foveate.study.numbers import show_value
from foveate.study.runs import Found, begun, is_locked
from foveate.trainer.config import CONFIG, load_config
from foveate.trainer.record import TrainingRecord

EPOCHS = "epochs.json"
"""How many epochs are over, in a run directory."""


def note_epoch(root: Path, epoch: int) -> None:
    """Note that so many epochs are over."""
    write_json(root / EPOCHS, {"epochs": epoch})


def list_trainings(folders: Sequence[str | os.PathLike[str]] = ("runs",)) -> list[Found]:
    """The run directories of trainings in some folders; see :func:`foveate.study.runs.list_runs`.

    Args:
        folders: each a run directory or a folder of run directories.
    """
    return [_look(root) for folder in folders for root in _roots(Path(folder))]


def _roots(folder: Path) -> Iterator[Path]:
    if (folder / CONFIG).exists():
        yield folder
    elif folder.is_dir():
        yield from (path for path in sorted(folder.iterdir()) if (path / CONFIG).exists())


def _look(root: Path) -> Found:
    when = begun(root, CONFIG)
    try:
        config = load_config(root / CONFIG)
        record = TrainingRecord.read(root)
        done = _epochs(root) if record is None else config.plan.epochs
    except (PlanError, ValueError) as error:
        return Found(root, "damaged", when, damage=str(error), unit="epochs")
    metric = config.plan.metric
    known = Found(
        root, "interrupted", when, done=done, total=config.plan.epochs, task=config.plan.task,
        host=config.model, data=config.plan.data, unit="epochs",
    )  # fmt: skip
    if record is None:
        return known._replace(state="running") if is_locked(root) else known
    value = record.metrics.get(metric.name)
    came = None if value is None else f"trained: {metric.name} {show_value(value, metric)}"
    return known._replace(state="finished", answer=came)


def _epochs(root: Path) -> int:
    try:
        return fields.whole(read_json(root / EPOCHS), "epochs")
    except FileNotFoundError:
        return 0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{root / EPOCHS} cannot be read ({error})") from error

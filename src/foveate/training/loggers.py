"""Every epoch's record, written for other programs to read: CSV, TensorBoard, Weights & Biases.

Lightning's loggers, each in ``logs`` in the training's directory; the number of the epoch is the
step. ``wandb`` writes an offline run, which ``wandb sync`` sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from foveate.arguments import one_of
from foveate.training.history import EpochRecord, History

LOGGERS = ("csv", "tensorboard", "wandb")
"""Names of loggers."""

LOGS = "logs"


def create_loggers(names: str | Sequence[str], directory: Path) -> list[Logger]:
    """The loggers of these names, for a training in ``directory``.

    Raises:
        ValueError: if a name is unknown, or its package is not installed.
    """
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        one_of(name, LOGGERS, "logger")
        if name != "csv" and find_spec(name) is None:
            raise ValueError(f"logger={name!r} needs a package: pip install {name}")
    return [_create(name, directory) for name in dict.fromkeys(names)]


def _create(name: str, directory: Path) -> Any:
    if name == "csv":
        return CSVLogger(directory, name=LOGS, version="")
    if name == "tensorboard":
        return TensorBoardLogger(directory, name=LOGS, version="")
    (directory / LOGS).mkdir(parents=True, exist_ok=True)
    return WandbLogger(name=directory.name, save_dir=directory / LOGS, offline=True)


class LogEachEpoch(pl.Callback):
    """Hands every epoch's record to the loggers.

    Where a training goes on, CSV and Weights & Biases begin anew, and get what was before as well;
    TensorBoard reads what was written then.

    Args:
        history: which has the records; it stands before this.
    """

    def __init__(self, history: History) -> None:
        self.history = history

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        anew = [each for each in trainer.loggers if not isinstance(each, TensorBoardLogger)]
        for record in self.history.records:
            _log(anew, record)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        _log(trainer.loggers, self.history.records[-1])


def _log(loggers: Sequence[Any], record: EpochRecord) -> None:
    for logger in loggers:
        logger.log_metrics({**record.values, "seconds": record.seconds}, step=record.epoch)
        logger.save()

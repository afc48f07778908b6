"""Checkpoints: everything that decides the rest of a training, in one file, whole or absent.

Files are read with ``weights_only=True``, so that reading one runs no code from it. A checkpoint
says which task and recipe it is of, and going on from one that does not fit is refused before
anything is loaded. So is a file whose bytes are not those that were written: its checksum stands at
its end, as the comment of the ZIP archive that it is, which ``torch.load`` passes over.
"""

from __future__ import annotations

import hashlib
import io
import os
import warnings
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from foveate._files import replacing
from foveate.metrics import Metric
from foveate.saved.info import KEY, ModelInfo
from foveate.surgery._weights_file import DamagedFileError, read_tensors
from foveate.surgery.recipe import save
from foveate.training.history import History, best_epoch
from foveate.training.recipe import Recipe

CHECKPOINT = "last.ckpt"
WEIGHTS = "model.safetensors"
BEST = "best.safetensors"
_FORMAT = 2  # 1, of Foveate 0.1, said neither its format nor its task nor its recipe
_OURS, _MODEL = "foveate", "model."
_NEWER = {
    field.name: field.default
    for field in fields(Recipe)
    if field.name in ("accumulate", "layer_decay", "ema_decay", "ema_warmup", "sync_batch_norm")
} | {"optimizer_kwargs": {}, "schedule_kwargs": {}}
_FIXED = {"ema_decay": "another average of the weights", "layer_decay": "another layer decay"}
_ANEW = "remove it to train from the first epoch again"


class CheckpointError(ValueError):
    """A file of a training cannot be used; the message names it and says what to do."""


class SaveEachEpoch(pl.Callback):
    """Saves after every epoch; stands after the history, so that the epoch's record is in."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)


class SaveBest(pl.Callback):
    """Saves the weights of the best epoch so far; stands between the history and the checkpoint.

    So a run that is cut off finds the weights of the best epoch that its checkpoint knows of, or of
    the next one, which it then runs again.

    Args:
        path: of the file.
        history: which has the records.
        metric: by which an epoch is best.
        info: what the file says of the model, but for its metrics.
    """

    def __init__(
        self, path: Path, history: History, metric: Metric, info: ModelInfo | None = None
    ) -> None:
        self.path, self.history, self.metric, self.info = path, history, metric, info

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        records = self.history.records
        if best_epoch(records, self.metric) != len(records):
            return
        found = {k: v for k, v in records[-1].values.items() if not k.startswith("train_")}
        pl_module.write(self.path, self.info and replace(self.info, metrics=found))


class CheckpointFiles(TorchCheckpointIO):
    """Writes checkpoints whole, and reads those that fit the training at hand.

    Args:
        task: its name.
        recipe: how the model is trained.
        model: that is trained.
    """

    def __init__(self, task: str, recipe: Recipe, model: nn.Module) -> None:
        self.task, self.recipe = task, recipe
        self.shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        ours = {"format": _FORMAT, "task": self.task, "recipe": asdict(self.recipe)}
        # Through memory: torch.save on a file hides why the disk refused.
        buffer = io.BytesIO()
        torch.save({**checkpoint, _OURS: ours}, buffer)
        with replacing(Path(path)) as file:
            whole = buffer.getbuffer()[:-2]  # but the length of the archive's comment, which is 0
            file.write(whole)
            file.write(_checksum(hashlib.sha256(whole).digest()))

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> Any:
        path = Path(path)
        checkpoint = read_checkpoint(path)
        self._check_model(checkpoint, path)
        self._check_recipe(checkpoint, path)
        return checkpoint

    def _check_model(self, checkpoint: dict[str, Any], path: Path) -> None:
        found = {
            key.removeprefix(_MODEL): tuple(value.shape)
            for key, value in checkpoint["state_dict"].items()
            if key.startswith(_MODEL)
        }
        for key in sorted({*found, *self.shapes}):
            if found.get(key) != self.shapes.get(key):
                theirs, mine = found.get(key, "nothing"), self.shapes.get(key, "nothing")
                raise CheckpointError(
                    f"{path} is of another model: {key} is {theirs} in it and {mine} in the model "
                    "to train; choose another directory, or remove the file to start anew"
                )

    def _check_recipe(self, checkpoint: dict[str, Any], path: Path) -> None:
        ours = checkpoint.get(_OURS, {})
        then, now = ours.get("recipe", {}), asdict(self.recipe)
        other = "; choose another directory, or remove the file to start anew"
        if ours.get("task", self.task) != self.task:
            raise CheckpointError(f"{path} is of the task {ours['task']}, not {self.task}{other}")
        if then:  # a recipe of before something could be asked for did not ask for it
            then = {**_NEWER, **then}
        for name, what in _FIXED.items():
            if then and then[name] != now[name]:
                raise CheckpointError(
                    f"{path} was trained with {what} ({name}={then[name]!r}), not "
                    f"{name}={now[name]!r}{other}"
                )
        if then.get("optimizer", now["optimizer"]) != now["optimizer"]:
            raise CheckpointError(
                f"{path} was trained by {then['optimizer']}, not {now['optimizer']}{other}"
            )
        done = len(checkpoint["callbacks"]["History"]["history"])
        if done > self.recipe.epochs:
            raise CheckpointError(
                f"{path} has {done} epochs behind it, more than epochs={self.recipe.epochs}{other}"
            )
        unlike = [f"{k}={v!r}, now {now[k]!r}" for k, v in then.items() if now.get(k, v) != v]
        if unlike:
            warnings.warn(
                f"{path} was trained with {'; '.join(unlike)}; the numbers will be those of "
                "neither recipe alone",
                stacklevel=2,
            )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint at ``path``, one of Foveate 0.1 brought into the form of today.

    Raises:
        CheckpointError: if it is damaged, something else, or of a later Foveate.
    """
    try:
        changed = _has_changed(path)
        checkpoint = None if changed else torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, MemoryError):
        raise
    except Exception as error:  # torch.load has no error of its own for a damaged file
        raise _damaged(path) from error
    if changed:
        raise CheckpointError(
            f"{path} is damaged: its bytes are not those that were written (SHA-256); {_ANEW}"
        )
    if not isinstance(checkpoint, dict):
        raise _damaged(path)
    written = checkpoint.get(_OURS, {}).get("format", 1)
    if written > _FORMAT:
        raise CheckpointError(
            f"{path} was written by a later Foveate (format {written}; this one reads up to "
            f"{_FORMAT}): update foveate, or choose another directory"
        )
    callbacks = checkpoint.get("callbacks", {})
    if "_Diary" in callbacks:  # the history's name in format 1
        callbacks["History"] = callbacks.pop("_Diary")
    if "state_dict" not in checkpoint or "History" not in callbacks:
        raise _damaged(path)
    return checkpoint


def save_weights(model: nn.Module, path: Path, info: ModelInfo | None = None) -> None:
    """Put the weights of ``model`` at ``path``: safetensors, with the recipe of its changes.

    With ``info`` the file says what it is, and :func:`foveate.load` builds the model from it.
    """
    save(model, path, words=None if info is None else {KEY: info.to_json()})


def load_weights(model: nn.Module, path: Path) -> None:
    """Give ``model`` the weights at ``path``, which :func:`save_weights` wrote.

    Raises:
        CheckpointError: if the file is damaged or of another model.
    """
    again = f"remove the directory {path.parent} to train again"
    try:
        model.load_state_dict(read_tensors(path)[0])
    except DamagedFileError as error:
        raise CheckpointError(f"{error}; {again}") from error
    except RuntimeError as error:
        raise CheckpointError(f"{path} holds the weights of another model; {again}") from error


def _checksum(digest: bytes) -> bytes:
    """How an archive that had no comment ends: the comment's length, and the comment."""
    comment = b"foveate sha256 " + digest
    return len(comment).to_bytes(2, "little") + comment


_END = _checksum(bytes(32))


def _has_changed(path: Path) -> bool:
    """Whether a file does not have its checksum; files of 0.1 have none."""
    with open(path, "rb") as file:
        left = file.seek(0, os.SEEK_END) - len(_END)
        file.seek(max(left, 0))
        end = file.read()
        if not end.startswith(_END[:-32]):
            return False
        digest = hashlib.sha256()
        file.seek(0)
        while left:
            digest.update(part := file.read(min(left, 1 << 20)))
            left -= len(part)
    return end != _checksum(digest.digest())


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or no checkpoint of a training; {_ANEW}")

"""Training a classifier, epoch by epoch, so that it can stop anywhere and go on as if it had not.

After each epoch everything that decides the rest (weights, optimizer, schedule, history) is put
into one checkpoint file, whole; at the start of each epoch every random generator is set from
(seed, epoch). Lightning runs the loop; optimizers, schedules and mixup are timm's.
"""

from __future__ import annotations

import io
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from safetensors.torch import save
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from torch import Tensor, nn
from torch.nn import functional as F

from foveate._files import replacing
from foveate.arguments import one_of
from foveate.data.batches import Batches

CHECKPOINT = "last.ckpt"
WEIGHTS = "model.safetensors"
_SCHEDULES = ("cosine", "tanh", "poly", "step", "multistep")
_PRECISIONS = ("32-true", "16-mixed", "bf16-mixed", "16-true", "bf16-true", "64-true")


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the training images.
        optimizer: a timm name.
        lr: highest learning rate.
        weight_decay: of weights that are neither biases nor norms.
        schedule: a timm name.
        warmup_epochs: over which the learning rate rises.
        label_smoothing: share of the target spread over all classes.
        mixup: timm's mixup alpha; 0 mixes nothing.
        clip_grad: largest norm of the gradient; None lets it be.
        precision: Lightning's word, such as ``"32-true"`` or ``"bf16-mixed"``.
        device: cpu, cuda, mps or another of torch's.
    """

    epochs: int
    optimizer: str = "adamw"
    lr: float = 2e-3
    weight_decay: float = 0.05
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.0
    mixup: float = 0.0
    clip_grad: float | None = 1.0
    precision: str = "32-true"
    device: str = "cpu"


def check_recipe(recipe: Recipe) -> None:
    """Refuse what training would stumble over.

    Raises:
        ValueError: if optimizer, schedule or precision are unknown.
    """
    one_of(recipe.optimizer, list_optimizers(), "optimizer")
    one_of(recipe.schedule, _SCHEDULES, "schedule")
    one_of(recipe.precision, _PRECISIONS, "precision")


class DivergenceError(RuntimeError):
    """The loss is no longer a number."""


def train(
    model: nn.Module,
    batches: Batches,
    held_out: Batches,
    recipe: Recipe,
    directory: Path,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
) -> dict[str, Any]:
    """Train, going on from the checkpoint in ``directory`` if there is one.

    Args:
        model: maps images to logits.
        batches: to learn from.
        held_out: to measure on, after every epoch.
        recipe: how.
        directory: gets ``last.ckpt`` after every epoch and ``model.safetensors`` at the end.
        report: is told ``{"epoch", "batch", "batches"}`` now and then, and the entry of the
            history after every epoch.

    Returns:
        ``history`` (a dict an epoch), and of the last epoch ``accuracy`` and ``loss``; further
        ``train_seconds`` and ``train_images_per_second``.

    Raises:
        DivergenceError: if the loss is not finite.
    """
    task = _Classification(model, recipe, len(batches))
    diary = _Diary(batches, report)
    checkpoint = directory / CHECKPOINT
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        trainer = pl.Trainer(
            max_epochs=recipe.epochs,
            accelerator=recipe.device.split(":")[0],
            devices=_devices(recipe.device),
            precision=recipe.precision,  # pyrefly: ignore
            gradient_clip_val=recipe.clip_grad,
            callbacks=[diary, _Checkpoint(checkpoint)],
            plugins=[_WholeFiles()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=directory,
        )
        trainer.fit(task, batches, held_out, ckpt_path=checkpoint if checkpoint.exists() else None)
    with replacing(directory / WEIGHTS) as file:
        file.write(save({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}))
    last, seconds = diary.history[-1], diary.train_seconds
    return {
        "accuracy": last["accuracy"],
        "loss": last["loss"],
        "history": diary.history,
        "train_seconds": seconds,
        "train_images_per_second": diary.images / seconds,
    }


class _Classification(pl.LightningModule):
    """The model with its loss; ``learned`` and ``measured`` sum up the epoch so far."""

    def __init__(self, model: nn.Module, recipe: Recipe, updates_per_epoch: int) -> None:
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.updates_per_epoch = updates_per_epoch
        self._mixup: Mixup | None = None
        if recipe.mixup > 0:
            self._mixup = Mixup(
                recipe.mixup,
                label_smoothing=recipe.label_smoothing,
                num_classes=model.num_classes,  # pyrefly: ignore
            )
        self.learned = self.measured = torch.zeros(3)

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        fused = recipe.optimizer in ("adam", "adamw") and recipe.device.startswith(("cpu", "cuda"))
        optimizer = create_optimizer_v2(
            self.model,
            recipe.optimizer,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            **({"fused": True} if fused else {}),
        )
        scheduler, _ = create_scheduler_v2(
            optimizer,
            recipe.schedule,
            num_epochs=recipe.epochs,
            warmup_epochs=min(recipe.warmup_epochs, recipe.epochs / 2),  # pyrefly: ignore
            warmup_lr=recipe.lr / 100,
            step_on_epochs=False,
            updates_per_epoch=self.updates_per_epoch,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step_update(self.global_step)

    def on_train_epoch_start(self) -> None:
        self.learned = torch.zeros(3, device=self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, target = batch
        if self._mixup is not None and len(x) % 2 == 0:
            x, soft = self._mixup(x, target)
            loss = SoftTargetCrossEntropy()(self.model(x), soft)
        else:
            loss = F.cross_entropy(
                self.model(x), target, label_smoothing=self.recipe.label_smoothing
            )
        self.learned = self.learned + _sums(loss.detach(), len(x))
        return loss

    def on_validation_epoch_start(self) -> None:
        self.measured = torch.zeros(3, device=self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        x, target = batch
        logits = self.model(x).float()
        hits = (logits.argmax(1) == target).sum()
        self.measured = self.measured + _sums(F.cross_entropy(logits, target), len(x), hits)


def _sums(mean_loss: Tensor, count: int, hits: Tensor | None = None) -> Tensor:
    hits = torch.zeros_like(mean_loss) if hits is None else hits
    return torch.stack([mean_loss.float() * count, torch.full_like(mean_loss.float(), count), hits])


class _Diary(pl.Callback):
    """Keeps the history, which travels with the checkpoint, and tells how it goes."""

    def __init__(self, batches: Batches, report: Callable[[dict[str, Any]], None]) -> None:
        self.batches, self.report = batches, report
        self.history: list[dict[str, Any]] = []
        self.train_seconds = 0.0
        self.images = 0
        self._start = self._trained = self._told = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "train_seconds": self.train_seconds,
            "images": self.images,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = state_dict["history"]
        self.train_seconds = state_dict["train_seconds"]
        self.images = state_dict["images"]
        self.batches.set_epoch(len(self.history))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        now = time.perf_counter()
        if now - self._told > 0.2:
            self._told = now
            self.report(
                {
                    "epoch": trainer.current_epoch,
                    "batch": trainer.fit_loop.batch_idx + 1,
                    "batches": len(self.batches),
                }
            )

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self._trained = time.perf_counter() - self._start

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        train_loss, count, _ = pl_module.learned.tolist()
        loss, number, hits = pl_module.measured.tolist()
        entry = {
            "epoch": len(self.history) + 1,
            "train_loss": train_loss / count,
            "loss": loss / number,
            "accuracy": hits / number,
            "seconds": time.perf_counter() - self._start,
        }
        if not math.isfinite(entry["train_loss"]) or not math.isfinite(entry["loss"]):
            raise DivergenceError(f"the loss is not finite in epoch {entry['epoch']}")
        self.history.append(entry)
        self.train_seconds += self._trained
        self.images += int(count)
        self.batches.set_epoch(len(self.history))
        self.report(entry)


class _Checkpoint(pl.Callback):
    """Saves after every epoch; stands after the diary, so that the diary's entry is in."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.save_checkpoint(self.path, weights_only=False)


class _WholeFiles(TorchCheckpointIO):
    """Checkpoints that are whole or absent, and are read without running code from them."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        # Through memory: torch.save on a file hides why the disk refused.
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        with replacing(Path(path)) as file:
            file.write(buffer.getbuffer())

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> Any:
        return torch.load(path, map_location="cpu", weights_only=True)


def _devices(device: str) -> Any:
    kind, _, number = device.partition(":")
    return [int(number)] if number else 1 if kind == "cpu" else [0]

"""Training: it learns, stops anywhere, and goes on as if it had not, whatever the task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from foveate._random import seed_all
from foveate.metrics import Metric
from foveate.training import DivergenceError, EpochRecord, Progress, Recipe, train

IGNORED = 255


class Dots:
    """Images with one bright half and maps of it, as lists: sizes differ, some pixels count not."""

    def __init__(self, batches: int, seed: int) -> None:
        self.batches, self.seed, self.epoch = batches, seed, 0
        self.asked: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
        seed_all(self.seed, self.epoch)
        self.asked.append(self.epoch)
        for number in range(self.batches):
            images, targets = [], []
            for width in range(4, 7 + number % 2):  # three images or four
                target = (torch.arange(width) % 2).expand(5, width).clone()
                image = (target + 0.3 * torch.randn(5, width))[None]
                target[0, 0] = IGNORED
                images.append(image)
                targets.append({"map": target})
            yield images, targets


class TinySegmentation:
    """A dense task in the form that the loop must take: lists, dicts, parts of a loss."""

    name = "tiny_segmentation"
    metrics = (Metric("miou", "%", higher_is_better=True, bounds=(0.0, 1.0)),)

    def losses(self, model, batch):
        images, targets = batch
        each = [
            nn.functional.cross_entropy(model(x[None]), t["map"][None], ignore_index=IGNORED)
            for x, t in zip(images, targets, strict=True)
        ]
        pixel = torch.stack(each).mean()
        size = sum(p.square().mean() for p in model.parameters())
        return {"loss": pixel + 0.01 * size, "pixel": pixel, "size": size}

    def predict(self, model, images):
        return torch.cat([model(x[None]).argmax(1).flatten() for x in images])

    def evaluator(self):
        kind = {"num_classes": 2, "ignore_index": IGNORED}
        collection = {
            "miou": MulticlassJaccardIndex(**kind),
            "pixel_accuracy": MulticlassAccuracy(**kind, average="micro"),
        }
        return _OnMaps(collection)


class _OnMaps(MetricCollection):
    def update(self, predictions, targets):
        super().update(predictions, torch.cat([t["map"].flatten() for t in targets]))


class CutOffError(Exception):
    pass


def cut_off_in(epoch: int):
    def report(event):
        if isinstance(event, EpochRecord) and event.epoch == epoch:
            raise CutOffError

    return report


def net() -> nn.Module:
    seed_all(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Dropout(0.1), nn.Conv2d(8, 2, 1))


def run(directory: Path, recipe: Recipe, report=lambda event: None, task=None, model=None):
    directory.mkdir(exist_ok=True)
    model = model or net()
    batches, held_out = Dots(3, 1), Dots(2, 2)
    task = task or TinySegmentation()
    return model, train(model, task, batches, held_out, recipe, directory, report), batches


def numbers(result):
    return [(record.epoch, record.values) for record in result.history]


def test_a_dense_task_learns(tmp_path):
    events = []
    _, result, batches = run(tmp_path, Recipe(epochs=6, lr=0.05), events.append)
    first, last = result.history[0].values, result.history[-1].values
    assert list(last) == ["train_loss", "train_pixel", "train_size", "miou", "pixel_accuracy"]
    assert last["train_loss"] == pytest.approx(last["train_pixel"] + 0.01 * last["train_size"])
    assert last["train_loss"] < first["train_loss"]
    assert last["miou"] > max(first["miou"], 0.9)
    assert result.values == {key: last[key] for key in ("miou", "pixel_accuracy")}
    assert result.reported_epoch == 6
    assert result.images == 6 * (3 + 4 + 3)
    assert result.images_per_second > 0
    assert batches.asked == [0, 1, 2, 3, 4, 5]
    assert [e for e in events if isinstance(e, EpochRecord)] == result.history
    progress = [e for e in events if isinstance(e, Progress)]
    assert progress
    assert all(0 < e.batch <= e.batches == 3 for e in progress)


def test_the_mean_loss_is_over_images_and_not_over_batches(tmp_path):
    class Counts(TinySegmentation):
        def losses(self, model, batch):
            zero = 0 * sum(p.sum() for p in model.parameters())
            return {"loss": zero + len(batch[0])}

    _, result, _ = run(tmp_path, Recipe(epochs=1), task=Counts())
    assert result.history[0].values["train_loss"] == pytest.approx((9 + 16 + 9) / 10)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_run_that_was_cut_off_ends_in_the_same_numbers(tmp_path, epoch):
    recipe = Recipe(epochs=3)
    whole_model, whole, _ = run(tmp_path / "whole", recipe)
    with pytest.raises(CutOffError):
        run(tmp_path / "cut", recipe, cut_off_in(epoch))
    # That epoch was over but not yet saved: it is run again.
    model, result, batches = run(tmp_path / "cut", recipe)
    assert batches.asked == list(range(epoch - 1, 3))
    assert numbers(result) == numbers(whole)
    for key, value in whole_model.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    saved = load_file(tmp_path / "cut" / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert not list(tmp_path.rglob(".*.tmp"))


def test_a_whole_training_is_not_run_again(tmp_path):
    recipe = Recipe(epochs=2)
    _, whole, _ = run(tmp_path, recipe)
    model, result, batches = run(tmp_path, recipe)
    assert batches.asked == []
    assert result._replace(evaluator=None) == whole._replace(evaluator=None)
    for key, value in load_file(tmp_path / "model.safetensors").items():
        assert torch.equal(value, model.state_dict()[key]), key


class GrowsWorse(TinySegmentation):
    """Whose metric falls from its third epoch on."""

    def __init__(self):
        self.epoch = 0

    def evaluator(self):
        task, collection = self, super().evaluator()
        compute = collection.compute

        def worse():
            found = compute()
            task.epoch += 1
            return {**found, "miou": torch.tensor([0.2, 0.4, 0.9, 0.3, 0.1][task.epoch - 1])}

        collection.compute = worse
        return collection


def test_the_best_epoch_is_reported_where_there_are_images_to_choose_by(tmp_path):
    def best(directory, epochs):
        model = net()
        task = GrowsWorse()
        result = train(model, task, Dots(3, 1), Dots(2, 2), Recipe(epochs=epochs, schedule="step"),
                       directory, selection=Dots(2, 3))  # fmt: skip
        return model, result

    (tmp_path / "whole").mkdir()
    model, result = best(tmp_path / "whole", 4)
    assert result.reported_epoch == 3
    assert [round(r.values["miou"], 1) for r in result.history] == [0.2, 0.4, 0.9, 0.3]
    assert result.values["miou"] == pytest.approx(0.1)  # measured on the others, once
    saved = load_file(tmp_path / "whole" / "model.safetensors")
    at_best = load_file(tmp_path / "whole" / "best.safetensors")
    for key, value in model.state_dict().items():
        assert torch.equal(value, saved[key]), key
        assert torch.equal(value, at_best[key]), key


def test_a_loss_that_is_no_number_is_an_error(tmp_path):
    class Diverges(TinySegmentation):
        def losses(self, model, batch):
            return {"loss": super().losses(model, batch)["loss"] * float("nan")}

    with pytest.raises(DivergenceError, match="not finite in epoch 1"):
        run(tmp_path, Recipe(epochs=2), task=Diverges())
    assert not (tmp_path / "last.ckpt").exists()


def test_a_metric_that_the_evaluator_does_not_give_is_an_error(tmp_path):
    class Promises(TinySegmentation):
        metrics = (Metric("dice", "%", higher_is_better=True, bounds=(0.0, 1.0)),)

    with pytest.raises(ValueError, match="states the metric dice, but its evaluator gives only mi"):
        run(tmp_path, Recipe(epochs=1), task=Promises())


def test_nothing_to_learn_from_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no batch to learn from"):
        train(net(), TinySegmentation(), Dots(0, 1), Dots(2, 2), Recipe(epochs=1), tmp_path)

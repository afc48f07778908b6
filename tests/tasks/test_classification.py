"""Classification: its loss and accuracy are the definitions, and training resumes exactly."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import foveate.models  # noqa: F401
from foveate._random import seed_all
from foveate.data.batches import held_out_batches, train_batches
from foveate.data.images import prepare
from foveate.tasks import Classification, Task
from foveate.training import EpochRecord, Recipe, train


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("digits"), "digits", (16, 16), limit=128)


def run(digits, directory, task: Task, report=lambda event: None):
    directory.mkdir(exist_ok=True)
    seed_all(0)
    model = timm.create_model(
        "pyramid_pico", in_chans=1, num_classes=10, drop_rate=0.1, drop_path_rate=0.1
    )
    batches = train_batches(digits, (16, 16), 32, 0)
    held_out = held_out_batches(digits, (16, 16), 64, processes=0)
    return model, train(model, task, batches, held_out, Recipe(epochs=3), directory, report)


@pytest.mark.parametrize("mixup", [0.0, 0.2])
def test_a_run_that_was_cut_off_ends_in_the_same_numbers(digits, tmp_path, mixup):
    task = Classification(10, label_smoothing=0.1, mixup=mixup)
    whole_model, whole = run(digits, tmp_path / "whole", task)

    class CutOffError(Exception):
        pass

    def cut_off(event):
        if isinstance(event, EpochRecord) and event.epoch == 2:
            raise CutOffError

    with pytest.raises(CutOffError):
        run(digits, tmp_path / "cut", task, cut_off)
    # The second epoch was over but not yet saved: it is run again.
    model, result = run(digits, tmp_path / "cut", task)
    assert [r.values for r in result.history] == [r.values for r in whole.history]
    for key, value in whole_model.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    last = result.history[-1].to_dict()
    assert list(last) == ["epoch", "train_loss", "loss", "accuracy", "balanced_accuracy", "seconds"]
    assert last["train_loss"] < result.history[0].values["train_loss"]


def test_loss_and_accuracy_are_means_over_all_images():
    logits, target = torch.randn(7, 4), torch.randint(4, (7,))
    evaluator = Classification(4).evaluator()
    for rows in (slice(0, 5), slice(5, 7)):
        evaluator.update(logits[rows], target[rows])
    found = evaluator.compute()
    assert found["accuracy"] == (logits.argmax(1) == target).double().mean()
    assert found["loss"] == pytest.approx(F.cross_entropy(logits, target).item(), rel=1e-6)
    evaluator.reset()
    evaluator.update(F.one_hot(target).float(), target)
    assert evaluator.compute()["accuracy"] == 1


def test_the_loss_is_smoothed_cross_entropy():
    x, target = torch.randn(6, 4), torch.randint(4, (6,))
    soft = 0.8 * F.one_hot(target, 4) + 0.2 / 4
    expected = -(soft * x.log_softmax(1)).sum(1).mean()
    found = Classification(4, label_smoothing=0.2).losses(nn.Identity(), (x, target))
    assert found.keys() == {"loss"}
    torch.testing.assert_close(found["loss"], expected)


def test_an_odd_batch_is_not_mixed_and_that_is_said():
    seed_all(0)
    x, target = torch.randn(3, 1, 2, 2), torch.tensor([0, 1, 2])
    plain = Classification(4).losses(nn.Flatten(), (x, target))["loss"]
    with pytest.warns(UserWarning, match="batch of 3 images is not mixed"):
        mixed = Classification(4, mixup=0.2).losses(nn.Flatten(), (x.clone(), target))["loss"]
    assert torch.equal(mixed, plain)


def test_cutmix_puts_a_rectangle_of_one_image_into_another():
    seed_all(0)
    x, target = torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])
    x[1] = 1.0
    seen = []

    def model(images):
        seen.append(images)
        return images.flatten(1)[:, :2]

    loss = Classification(2, cutmix=1.0).losses(model, (x, target))["loss"]
    assert set(seen[0].unique().tolist()) == {0.0, 1.0}, "no pixel is a mean of two"
    assert 0 < seen[0][0].mean() < 1
    assert loss.isfinite()


def test_predictions_are_float32_whatever_the_model_computes_in():
    model = nn.Flatten()
    images = torch.randn(2, 1, 2, 2, dtype=torch.bfloat16)
    assert Classification(4).predict(model, images).dtype is torch.float32


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing must be a number in"),
        ({"mixup": -0.1}, "mixup must be a finite number of at least 0, got -0.1"),
        ({"cutmix": float("nan")}, "cutmix must be a finite number of at least 0, got nan"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Classification(4, **wrong)


def test_what_it_is_judged_by():
    accuracy, balanced = Classification(3).metrics
    assert accuracy == ("accuracy", "%", True, (0.0, 1.0))
    assert Classification(3, metric=balanced).metrics == (balanced, accuracy)

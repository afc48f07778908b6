"""The average of the weights: what it is, that it is what is measured and saved, and goes on."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from foveate.training import CheckpointError, EpochRecord, Recipe, train
from foveate.training.module import Trained
from tests.training.pictures import Pictures, classifier, numbers, task


def run(directory, report=lambda event: None, **recipe):
    directory.mkdir(exist_ok=True)
    model = classifier()
    recipe = Recipe(**{"epochs": 3, "lr": 0.02, **recipe})
    held_out = Pictures(10, 4, None)
    result = train(model, task(), Pictures(24, 4, 1), held_out, recipe, directory, report)
    return model, result


@pytest.mark.parametrize("warmup", [False, True])
def test_it_is_the_moving_average_and_is_what_is_measured_and_saved(tmp_path, monkeypatch, warmup):
    weights = []
    step = Trained.optimizer_step

    def watched(self, *args, **kwargs):
        step(self, *args, **kwargs)
        weights.append({name: p.detach().clone() for name, p in self.model.named_parameters()})

    monkeypatch.setattr(Trained, "optimizer_step", watched)
    options = {"accumulate": 2, "ema_decay": 0.8, "ema_warmup": warmup}
    model, result = run(tmp_path, **options)
    assert len(weights) == 9  # an update every second batch
    average = weights[0]
    for number, now in enumerate(weights[1:], 1):
        decay = min(0.8, 1 - (1 + number) ** (-2 / 3)) if warmup else 0.8
        average = {name: decay * average[name] + (1 - decay) * now[name] for name in now}
    saved = load_file(tmp_path / "model.safetensors")
    for name, value in average.items():
        assert torch.allclose(saved[name], value, atol=1e-6), name
        assert torch.equal(saved[name], model.state_dict()[name]), name
    held_out = Pictures(10, 4, None)
    hits = (model.eval()(held_out.pixels).argmax(1) == held_out.labels).float().mean()
    assert result.values["accuracy"] == pytest.approx(hits.item())
    assert result.history[-1].values["loss"] == pytest.approx(result.values["loss"])


@pytest.mark.parametrize(
    ("epoch", "precision"), [(1, "32-true"), (2, "32-true"), (3, "32-true"), (2, "bf16-mixed")]
)
def test_a_run_that_was_cut_off_ends_in_the_same_numbers(tmp_path, epoch, precision):
    recipe = {"ema_decay": 0.9, "ema_warmup": True, "accumulate": 4, "precision": precision}

    def cut(event):
        if isinstance(event, EpochRecord) and event.epoch == epoch:
            raise ZeroDivisionError

    model, whole = run(tmp_path / "whole", **recipe)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "cut", cut, **recipe)
    other, result = run(tmp_path / "cut", **recipe)
    assert numbers(result) == numbers(whole)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_the_best_epoch_is_that_of_the_average(tmp_path):
    model = classifier()
    held_out, selection = Pictures(10, 4, None), Pictures(13, 4, None)
    recipe = Recipe(epochs=3, lr=0.02, ema_decay=0.9)
    result = train(
        model, task(), Pictures(24, 4, 1), held_out, recipe, tmp_path, selection=selection
    )
    best = load_file(tmp_path / "best.safetensors")
    hits = (model.eval()(selection.pixels).argmax(1) == selection.labels).float().mean()
    assert max(r.values["accuracy"] for r in result.history) == pytest.approx(hits.item())
    for name, value in model.state_dict().items():
        assert torch.equal(value, best[name]), name


@pytest.mark.parametrize(
    ("then", "now"),
    [({}, {"ema_decay": 0.9}), ({"ema_decay": 0.9}, {}), ({}, {"layer_decay": 0.7})],
)
def test_going_on_without_it_or_with_another_is_refused(tmp_path, then, now):
    def cut(event):
        if isinstance(event, EpochRecord) and event.epoch == 2:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, cut, **then)
    (name,) = {**then, **now}
    with pytest.raises(CheckpointError, match=rf"was trained with another .* \({name}="):
        run(tmp_path, **now)

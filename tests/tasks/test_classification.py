"""Training: it learns, stops anywhere, and goes on as if it had not."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import load_file

import foveate.models  # noqa: F401
from foveate._random import seed_all
from foveate.data.batches import held_out_batches, train_batches
from foveate.data.images import prepare
from foveate.tasks.classification import DivergenceError, Recipe, check_recipe, train


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("digits"), "digits", (16, 16), limit=128)


def run(digits, directory, recipe, report=lambda event: None, **options):
    directory.mkdir(exist_ok=True)
    seed_all(0)
    model = timm.create_model(
        "pyramid_pico", in_chans=1, num_classes=10, drop_rate=0.1, drop_path_rate=0.1, **options
    )
    batches = train_batches(digits, (16, 16), 32, 0)
    held_out = held_out_batches(digits, (16, 16), 64, processes=0)
    return model, train(model, batches, held_out, recipe, directory, report)


def numbers(outcome):
    return [{k: v for k, v in e.items() if k != "seconds"} for e in outcome["history"]]


@pytest.mark.parametrize("mixup", [0.0, 0.2])
def test_a_run_that_was_cut_off_ends_in_the_same_numbers(digits, tmp_path, mixup):
    recipe = Recipe(epochs=3, mixup=mixup, label_smoothing=0.1)
    whole_model, whole = run(digits, tmp_path / "whole", recipe)

    class CutOffError(Exception):
        pass

    def cut_off(event):
        if event.get("accuracy") is not None and event["epoch"] == 2:
            raise CutOffError

    with pytest.raises(CutOffError):
        run(digits, tmp_path / "cut", recipe, cut_off)
    # The second epoch was over but not yet saved: it is run again.
    model, outcome = run(digits, tmp_path / "cut", recipe)
    assert numbers(outcome) == numbers(whole)
    for key, value in whole_model.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    saved = load_file(tmp_path / "cut" / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()


def test_what_a_run_gives(digits, tmp_path):
    events = []
    _, outcome = run(digits, tmp_path, Recipe(epochs=2), events.append)
    assert [e["epoch"] for e in outcome["history"]] == [1, 2]
    assert outcome["history"][1]["train_loss"] < outcome["history"][0]["train_loss"]
    assert outcome["accuracy"] == outcome["history"][-1]["accuracy"]
    assert outcome["train_images_per_second"] > 0
    assert [e for e in events if "accuracy" in e] == outcome["history"]
    assert all(e["batches"] == 4 for e in events if "batch" in e)


def test_a_loss_that_is_no_number_is_an_error(digits, tmp_path):
    with pytest.raises(DivergenceError, match="not finite in epoch 1"):
        run(digits, tmp_path, Recipe(epochs=2, lr=1e30, optimizer="sgd", clip_grad=None))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "adamx"}, "unknown optimizer 'adamx'; did you mean"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"precision": "32"}, "unknown precision '32'"),
    ],
)
def test_a_wrong_recipe_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_recipe(Recipe(epochs=1, **wrong))

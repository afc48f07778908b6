"""What a training's configuration reads, refuses and writes; every published recipe."""

from __future__ import annotations

import re

import pytest
import timm
import yaml

import foveate.models  # noqa: F401  registers the models
from foveate.models import list_detectors, list_segmenters
from foveate.study.entry import PlanError
from foveate.trainer import config as configs
from foveate.trainer.config import complete, difference, read_config
from foveate.trainer.recipes import list_recipes, recipe_file


def test_what_is_written_is_read_again():
    given = {
        "model": "upernet:resnet18", "task": "segmentation", "data": "x", "seed": 3, "ema": 0.99,
        "attention": {"name": "cbam", "kwargs": {"reduction": 8}}, "schedule_kwargs": {"min_lr": 0},
    }  # fmt: skip
    config = read_config(given)
    again = read_config(yaml.safe_load(config.to_yaml()))
    assert again == config
    assert (config.plan.head, config.plan.host) == ("upernet", "timm/resnet18")
    assert config.plan.trials[0][0].kwargs == {"reduction": 8}
    assert config.plan.seeds == (3,)
    assert difference(again, config) is None
    other = read_config({**given, "devices": 2, "logger": "csv"})
    assert difference(config, other) is None, "where it runs changes no number"
    assert "ema is 0.99" in str(difference(config, read_config({**given, "ema": None})))


def test_heads_are_those_of_the_library():
    assert set(configs._HEADS["segmentation"]) == set(list_segmenters())
    assert set(configs._HEADS["detection"]) == set(list_detectors())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 3}, "unknown key 'epoch' in the configuration; did you mean 'epochs' or"),
        ({"seeds": 3}, "unknown key 'seeds'"),
        ({"layer_decay": 1.5}, "layer_decay must be above 0 and at most 1, got 1.5"),
        ({"ema": 1}, "ema must be above 0 and below 1, such as 0.9999, got 1"),
        ({"accumulate": 0}, "accumulate must be a whole number of at least 1"),
        ({"logger": "tensorbord"}, "tensorboard"),
        ({"attention": ["cbam", "slide"]}, "attention is one mechanism"),
        ({"strategy": "dp"}, "strategy"),
        ({"model": "upernet:resnet18"}, "task classification takes no head before the model"),
        (
            {"task": "segmentation", "data": "x", "model": "upernett:resnet18"},
            "'upernett' is no head of task segmentation; did you mean 'upernet'?",
        ),
        ({"sync_batch_norm": 1}, "sync_batch_norm must be true or false, got 1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given, message):
    with pytest.raises(PlanError, match=re.escape(message)):
        read_config(given)


def test_weights_are_a_start_and_norms_learn():
    assert complete(read_config({"model": "resnet18", "weights": "timm"})).plan.freeze == "nothing"


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_says_its_source_and_its_model_is_there(name):
    path = recipe_file(name)
    text = path.read_text(encoding="utf-8")
    assert re.search(r"^# Source: ", text, re.M)
    config = read_config({**yaml.safe_load(text), "data": "DIR"})
    assert timm.is_model(config.plan.host.removeprefix("timm/"))
    assert config.plan.epochs >= 12

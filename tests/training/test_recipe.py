from __future__ import annotations

import pytest
from torch import nn

from foveate.training import Recipe, check_recipe
from foveate.training.optimizer import create_optimizer, create_schedule


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer": "adamx"}, "unknown optimizer 'adamx'; did you mean"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"precision": "32"}, "unknown precision '32'"),
        ({"epochs": 0}, "epochs must be an integer of at least 1, got 0"),
        ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
        ({"lr": float("nan")}, "lr must be a positive number, got nan"),
        ({"accumulate": 0}, "accumulate must be an integer of at least 1, got 0"),
        ({"layer_decay": 1.5}, "layer_decay must be above 0 and at most 1, got 1.5"),
        ({"ema_decay": 1.0}, "ema_decay must be between 0 and 1, got 1.0"),
        ({"ema_warmup": True}, "ema_warmup is of the average that ema_decay asks for"),
        ({"ema_decay": 0.9, "precision": "bf16-true"}, "cannot hold: take 'bf16-mixed'"),
        ({"sync_batch_norm": True}, "sync_batch_norm needs CUDA devices, got device='cpu'"),
    ],
)
def test_a_wrong_recipe_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        check_recipe(Recipe(**{"epochs": 1, **wrong}))


def test_the_learning_rate_rises_to_its_highest_and_falls():
    recipe = Recipe(epochs=4, lr=0.5, warmup_epochs=1)
    optimizer = create_optimizer(nn.Linear(3, 2), recipe)
    schedule = create_schedule(optimizer, recipe, updates_per_epoch=10)
    rates = []
    for update in range(40):
        schedule.step_update(update)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.005)
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01


@pytest.mark.parametrize("warmup", [0.0, 0.5, 3.0, 99.0])
@pytest.mark.parametrize("schedule", ["cosine", "tanh", "poly"])
def test_the_highest_is_reached_whatever_the_warm_up(schedule, warmup):
    recipe = Recipe(epochs=6, lr=0.2, schedule=schedule, warmup_epochs=warmup)
    optimizer = create_optimizer(nn.Linear(3, 2), recipe)
    schedule = create_schedule(optimizer, recipe, updates_per_epoch=20)
    rates = [optimizer.param_groups[0]["lr"]]
    for update in range(1, 120):
        schedule.step_update(update)
        rates.append(optimizer.param_groups[0]["lr"])
    assert max(rates) == pytest.approx(0.2, rel=0.02)
    assert rates[-1] == min(rates[60:])


def test_biases_and_norms_do_not_decay():
    model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    groups = create_optimizer(model, Recipe(epochs=1, weight_decay=0.3)).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {n: decays[id(p)] for n, p in model.named_parameters()} == {
        "0.weight": 0.3, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0,
    }  # fmt: skip

"""Gradients of several batches make one update."""

from __future__ import annotations

import pytest
import torch

from foveate.training import Recipe, train
from tests.training.pictures import Pictures, classifier, numbers, task


def trained(directory, batch_size, images=24, **recipe):
    directory.mkdir()
    model = classifier()
    recipe = Recipe(**{"epochs": 3, "lr": 0.01, **recipe})
    batches = Pictures(images, batch_size, seed=1)
    return model, train(model, task(), batches, Pictures(10, 4, None), recipe, directory)


def test_parts_of_a_batch_give_its_numbers(tmp_path):
    model, whole = trained(tmp_path / "whole", 12)
    other, parts = trained(tmp_path / "parts", 4, accumulate=3)
    for one, two in zip(numbers(whole), numbers(parts), strict=True):
        assert two == pytest.approx(one, rel=1e-5)
    for name, value in model.state_dict().items():
        assert torch.allclose(other.state_dict()[name], value, atol=1e-6), name


def test_batches_that_fill_no_update_are_left_out(tmp_path):
    _, result = trained(tmp_path / "some", 4, images=22, accumulate=2)  # five batches an epoch
    assert result.images == 3 * 2 * 2 * 4


def test_more_batches_than_there_are_in_an_epoch_are_refused(tmp_path):
    with pytest.raises(ValueError, match="accumulate=7 batches make an update, and an epoch has 6"):
        trained(tmp_path / "none", 4, accumulate=7)

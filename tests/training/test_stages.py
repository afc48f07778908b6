"""A reduced model that training prunes, or that settles something on images apart."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import foveate
from foveate._random import seed_all
from foveate.reduction.early_exit import mean_cost
from foveate.tasks import Classification, ReducedClassification
from foveate.training import (
    BEFORE,
    Distribution,
    EpochRecord,
    Progress,
    Recipe,
    epochs_before,
    train_in_stages,
)

RECIPE = Recipe(epochs=4, lr=3e-3, warmup_epochs=0)


class Halves:
    """Images with one bright half, and which one it is."""

    def __init__(self, batches=2, seed=0, stop=None):
        self.batches, self.seed, self.epoch, self.stop = batches, seed, 0, stop
        self.asked = []

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.batches

    def __iter__(self):
        seed_all(self.seed, self.epoch)
        self.asked.append(self.epoch)
        for _ in range(self.batches):
            if self.epoch == self.stop:
                raise InterruptedError
            labels = torch.randint(2, (16,))
            images = torch.randn(16, 3, 16, 16)
            images[:, :, :, :8] += labels[:, None, None, None]
            yield images, labels


def reduced(reducer, **options):
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    return foveate.reduce(VisionTransformer(**sizes, num_classes=2), reducer, **options)


def run(model, directory, *, batches=None, report=lambda event: None, **more):
    directory.mkdir(exist_ok=True)
    held_out = Halves(seed=1)
    task = ReducedClassification(Classification(2))
    batches = batches or Halves()
    return train_in_stages(model, task, batches, held_out, RECIPE, directory, report, **more)


def test_scores_are_learnt_then_channels_removed_then_trained_on(tmp_path):
    model, batches, told = reduced("vtp", keep=0.5, scored=0.25), Halves(), []
    result = run(model, tmp_path, batches=batches, report=told.append)
    assert model.blocks.pruned
    assert batches.asked == [0, 1, 2, 3]
    assert [record.epoch for record in result.history] == [1, 2, 3, 4]
    assert ["train_l1" in record.values for record in result.history] == [True, *[False] * 3]
    assert [event.epoch for event in told if isinstance(event, EpochRecord)] == [1, 2, 3, 4]
    assert {event.epoch for event in told if isinstance(event, Progress)} <= {0, 1, 2, 3}
    assert (result.reported_epoch, result.first_epoch, result.images) == (4, 1, 4 * 32)
    assert (tmp_path / BEFORE).is_dir()


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_one_that_was_cut_off_ends_in_the_same_numbers(stop, tmp_path):
    whole = reduced("vtp", keep=0.5)
    run(whole, tmp_path / "whole")

    with pytest.raises(InterruptedError):
        run(reduced("vtp", keep=0.5), tmp_path / "cut", batches=Halves(stop=stop))
    again = reduced("vtp", keep=0.5)
    result = run(again, tmp_path / "cut")
    assert [record.epoch for record in result.history] == [1, 2, 3, 4]
    for key, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)


def test_an_epoch_is_chosen_among_those_after_the_removal(tmp_path):
    result = run(reduced("vtp", keep=0.5, scored=0.7), tmp_path, selection=Halves(seed=2))
    assert result.reported_epoch == 4


def test_thresholds_are_solved_on_images_apart(tmp_path):
    model, apart = reduced("dvt", grids=[2], budget=0.9), Halves(4, seed=3)
    result = run(model, tmp_path, apart=apart)
    assert model.leaves_early
    model.eval()
    with torch.no_grad():
        confidence = torch.cat([model.confidence(x) for x, _ in apart], 1)
        right = [model(x).argmax(1) == y for x, y in Halves(seed=1)]
    costs = model.exit_multiply_adds((16, 16))
    plain = VisionTransformer(img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=3,
                              num_classes=2)  # fmt: skip
    given = foveate.count_flops(plain, torch.zeros(1, 3, 16, 16)) // 2
    assert model.given_multiply_adds((16, 16)) == given
    one = (costs[1] - costs[0]) / confidence.shape[1]
    assert 0.9 * given - one < mean_cost(confidence, model.thresholds.tolist(), costs)
    assert mean_cost(confidence, model.thresholds.tolist(), costs) <= 0.9 * given
    assert result.values["accuracy"] == pytest.approx(torch.cat(right).float().mean().item())
    with pytest.raises(ValueError, match="on at least one image"):
        model.settle([])


def test_epochs_of_the_first_part():
    assert [epochs_before(10, share) for share in (0, 0.5, 0.99)] == [1, 5, 9]
    with pytest.raises(ValueError, match="takes two epochs; epochs=1"):
        epochs_before(1, 0.5)


def test_a_model_in_parts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="VTP is changed when it has been trained"):
        run(reduced("vtp"), tmp_path, distribution=Distribution(strategy="fsdp"))

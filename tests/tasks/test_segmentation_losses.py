"""Losses of pixels: what counts, what does not, and what each comes to by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from foveate.tasks.segmentation_losses import dice_loss, pixel_cross_entropy


@pytest.fixture
def batch():
    torch.manual_seed(0)
    labels = torch.randint(4, (2, 5, 7))
    labels[0, :3] = 255
    return torch.randn(2, 4, 5, 7, requires_grad=True), labels


@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 0.0, 0.5]])
def test_cross_entropy_is_pytorchs(batch, weights):
    logits, labels = batch
    weights = None if weights is None else torch.tensor(weights)
    expected = F.cross_entropy(logits, labels, weights, ignore_index=255)
    torch.testing.assert_close(pixel_cross_entropy(logits, labels, weights), expected)


def test_dice_is_its_definition(batch):
    logits, labels = batch
    labels[labels == 3] = 255  # a class that no pixel has is in no mean
    counted = labels != 255
    p = logits.softmax(1).permute(0, 2, 3, 1)[counted]
    t = F.one_hot(labels[counted], 4)
    dice = 2 * (p * t).sum(0) / (p.sum(0) + t.sum(0))
    torch.testing.assert_close(dice_loss(logits, labels), 1 - dice[:3].mean())


@pytest.mark.parametrize("loss", [pixel_cross_entropy, dice_loss])
def test_ignored_pixels_have_no_say(batch, loss):
    logits, labels = batch
    value = loss(logits, labels)
    (gradient,) = torch.autograd.grad(value, logits)
    assert gradient[0, :, :3].abs().max() == 0
    assert gradient[:, :, 3:].abs().min() > 0
    other = logits.detach().clone()
    other[0, :, :3] = 100
    assert torch.equal(loss(other, labels), value)


@pytest.mark.parametrize("loss", [pixel_cross_entropy, dice_loss])
def test_a_batch_that_is_ignored_whole_teaches_nothing(loss):
    logits = torch.randn(2, 4, 5, 7, requires_grad=True)
    value = loss(logits, torch.full((2, 5, 7), 255))
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() == 0


def test_what_does_not_go_together_is_refused(batch):
    logits, labels = batch
    with pytest.raises(ValueError, match=r"got \(2, 4, 5, 7\) and \(2, 5, 6\)"):
        dice_loss(logits, labels[..., :6])
    with pytest.raises(ValueError, match=r"one for each of 4 classes, got \(3,\)"):
        pixel_cross_entropy(logits, labels, torch.ones(3))

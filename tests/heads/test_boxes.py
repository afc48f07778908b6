"""Boxes, their offsets and what they are for."""

from __future__ import annotations

import torch
from torchvision.models.detection._utils import BoxCoder

from foveate.heads import Assigner
from foveate.heads.boxes import decode, encode, sample


def boxes(number: int) -> torch.Tensor:
    corner = 50 * torch.rand(number, 2)
    return torch.cat([corner, corner + 5 + 40 * torch.rand(number, 2)], 1)


def test_offsets_lead_back_and_are_torchvisions():
    torch.manual_seed(0)
    stds = (0.1, 0.1, 0.2, 0.2)
    one, other = boxes(20), boxes(20)
    offsets = encode(one, other, stds)
    torch.testing.assert_close(decode(one, offsets, stds), other, rtol=1e-5, atol=1e-4)
    (theirs,) = BoxCoder((10.0, 10.0, 5.0, 5.0)).encode([other], [one])
    torch.testing.assert_close(offsets, theirs, rtol=1e-5, atol=1e-5)


def test_the_last_object_has_the_box_that_two_claim():
    same = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    chosen, best = Assigner(0.9, 0.1)(same.repeat(2, 1), torch.tensor([[0.0, 0.0, 10.0, 8.0]]))
    assert (chosen.tolist(), best.tolist()) == ([2], [0.800000011920929])


def test_without_objects_all_is_background():
    chosen, best = Assigner(0.5, 0.4)(torch.zeros(0, 4), boxes(3))
    assert chosen.tolist() == best.tolist() == [0, 0, 0]


def test_what_there_is_of_objects_is_filled_up_with_background():
    chosen = torch.tensor([1, -1, 0, 2, 0, 0, -1, 1])
    positive, negative = sample(chosen, 4, 0.5)
    assert len(positive) == len(negative) == 2
    assert (chosen[positive] > 0).all()
    assert (chosen[negative] == 0).all()
    positive, negative = sample(chosen, 8, 0.5)
    assert (positive.tolist(), negative.tolist()) == ([0, 3, 7], [2, 4, 5])

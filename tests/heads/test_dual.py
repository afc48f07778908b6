"""DANet's head: three outputs, of which one predicts."""

from __future__ import annotations

import torch

from foveate.heads import DualHead


def test_what_predicts_is_the_first_of_what_is_learnt_by():
    torch.manual_seed(0)
    head = DualHead(16, 3).eval()
    x = torch.randn(2, 16, 5, 4)
    outputs = head.outputs(x)
    assert list(outputs) == list(head.loss_weights) == ["out", "position", "channel"]
    assert torch.equal(outputs["out"], head(x))


def test_every_part_learns():
    head = DualHead(16, 3)
    loss = sum(y.square().mean() for y in head.outputs(torch.randn(2, 16, 5, 4)).values())
    loss.backward()
    assert all(p.grad is not None for p in head.parameters())

"""UPerNet's head."""

from __future__ import annotations

import torch

from foveate.heads import UPerHead


def test_every_map_counts_everywhere_and_everything_learns():
    torch.manual_seed(0)
    head = UPerHead((4, 6, 8), 3, dim=8)
    maps = [
        torch.randn(2, 4, 9, 13, requires_grad=True),
        torch.randn(2, 6, 5, 7, requires_grad=True),
        torch.randn(2, 8, 3, 4, requires_grad=True),
    ]
    logits = head(maps)
    assert logits.shape == (2, 3, 9, 13)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in head.parameters())
    assert all(x.grad.abs().amax((2, 3)).min() > 0 for x in maps)

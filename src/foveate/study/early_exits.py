"""What a cascade costs that images leave early: it depends on the images."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from foveate.reduction.dvt import DVT


class Exits(NamedTuple):
    """Where images leave.

    Attributes:
        taken: by each image, the number of its exit (N,).
        multiply_adds: of an image in the mean.
    """

    taken: Tensor
    multiply_adds: int

    def like_all(self, count: int) -> list[int]:
        """Numbers of ``count`` images that leave in the shares in which all do."""
        order = self.taken.argsort(stable=True)
        places = (torch.arange(count) + 0.5) * len(order) / count
        return order[places.long()].tolist()


def exits_of(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Exits | None:
    """Where the images of ``batches`` leave ``model``; None where it has no exits to leave by."""
    if not isinstance(model, DVT) or not model.leaves_early:
        return None
    device = next(model.parameters()).device
    taken, costs = [], [0]
    with torch.inference_mode():
        for images, _ in batches:
            taken.append(model.eval().leave(images.to(device))[1].cpu())
            costs = model.exit_multiply_adds((images.shape[2], images.shape[3]))
    every = torch.cat(taken)
    return Exits(every, round(torch.tensor(costs)[every].double().mean().item()))

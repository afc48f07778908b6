"""What becomes of each patch, on the image's grid of patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foveate.reduction.whole import sources


def source_maps(model: nn.Module, images: Tensor) -> dict[int, Tensor]:
    """Which token stands for each patch of ``images``, as maps.

    It is what :func:`foveate.reduction.sources` says, on the grid: patches with one number have
    merged, -1 is a patch that was dropped, or that waits (Evo-ViT).

    Args:
        model: a model whose blocks were reduced.
        images: as the model takes them, (B, 3, H, W).

    Returns:
        By the number of the block from which on it holds, (B, rows, columns). Empty where no block
        drops or merges anything.

    Raises:
        ValueError: if nothing has reduced the model's blocks.
    """
    grid = None
    maps = {}
    for index, tokens in sources(model, images).items():
        grid = grid or grid_of(model, images)
        maps[index] = tokens.unflatten(1, grid)
    return maps


def grid_of(model: Any, images: Tensor) -> tuple[int, int]:
    """Rows and columns of patches of ``images``."""
    height, width = images.shape[-2:]
    rows, columns = model.patch_embed.dynamic_feat_size((height, width))
    return rows, columns


def patches_of(tokens: Tensor) -> Tensor:
    """How many patches the token of each patch stands for (B, N); 0 where it was dropped.

    Args:
        tokens: of each patch, -1 for none (B, N).
    """
    known = tokens.clamp_min(0)
    left = (tokens >= 0).to(torch.long)
    counts = torch.zeros_like(tokens).scatter_add(1, known, left)
    return counts.gather(1, known) * left

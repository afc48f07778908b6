"""A picture of what a reduced model dropped and merged: the images, block by block.

A patch that was dropped, or waits, is dimmed. Patches that one token stands for share their mean
color inside one outline. What has neither color nor outline of its own is a patch whose token is
its alone.
"""

from __future__ import annotations

import math

import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.reduction.on_grid import patches_of, source_maps

_LEAST = 8
"""Pixels a side of a patch, below which the picture is made larger."""
_DIMMED = 0.2
"""What is left of a dropped patch; the rest is white."""
_DARK = 0.35
_GAP, _HEADING = 8, 16


def picture(model: nn.Module, images: Tensor, pixels: Tensor | None = None) -> Image.Image:
    """Draw ``images`` as they came, and at each block that drops or merges.

    An image is a row; columns are headed by the number of the block from which on they hold.

    Args:
        model: a model whose blocks were reduced; it runs once, in the mode that it is in.
        images: as the model takes them, (B, 3, H, W).
        pixels: what to draw of them, from 0 to 1, of the same size (B, 1 or 3, H, W); by default
            ``images``, each brought from its least to its greatest value.

    Raises:
        ValueError: if nothing has reduced the model's blocks, none of them drops or merges
            anything, or ``pixels`` are of another size.
    """
    pixels = _between_0_and_1(images) if pixels is None else pixels
    if pixels.shape[0] != images.shape[0] or pixels.shape[2:] != images.shape[2:]:
        raise ValueError(
            f"pixels must be as large as images, {tuple(images.shape)}; got {tuple(pixels.shape)}"
        )
    maps = source_maps(model, images)
    if not maps:
        raise ValueError(
            "no block of this model drops or merges tokens, so there is nothing to draw"
        )
    grid = next(iter(maps.values())).shape[1:]
    drawn = pixels.detach().float().clamp(0, 1).expand(-1, 3, -1, -1).cpu()
    height, width = (_side(size, n) for size, n in zip(drawn.shape[2:], grid, strict=True))
    drawn = F.interpolate(drawn, (height, width))
    heads = ["image", *(f"block {index}" for index in maps)]
    parts = [drawn, *(_at_block(drawn, tokens.cpu()) for tokens in maps.values())]
    return _table(heads, parts)


def _between_0_and_1(images: Tensor) -> Tensor:
    flat = images.detach().float().flatten(1)
    least, greatest = (each[:, None, None, None] for each in (flat.amin(1), flat.amax(1)))
    return (images - least) / (greatest - least).clamp_min(1e-12)


def _side(size: int, patches: int) -> int:
    """Pixels of a side that is a multiple of ``patches``, at least about ``size``."""
    return patches * max(_LEAST, math.ceil(size / patches))


def _at_block(pixels: Tensor, tokens: Tensor) -> Tensor:
    """``pixels`` (B, 3, H, W) by what became of each patch, ``tokens`` (B, rows, columns)."""
    grid = tokens.shape[1:]
    patch = [size // n for size, n in zip(pixels.shape[2:], grid, strict=True)]
    counts = patches_of(tokens.flatten(1)).unflatten(1, grid)
    dimmed = _DIMMED * pixels + 1 - _DIMMED
    drawn = torch.where(_large(counts == 0, patch), dimmed, pixels)
    drawn = torch.where(_large(counts > 1, patch), _large(_means(pixels, tokens), patch), drawn)
    against = (drawn.mean(1, keepdim=True) < _DARK).to(drawn.dtype)  # white on dark, else black
    return torch.where(_outline(tokens, counts, patch), against, drawn)


def _large(cells: Tensor, patch: list[int]) -> Tensor:
    """Cells (B, [3,] rows, columns) as pixels (B, 1 or 3, H, W)."""
    cells = cells if cells.dim() == 4 else cells[:, None]
    return cells.repeat_interleave(patch[0], 2).repeat_interleave(patch[1], 3)


def _means(pixels: Tensor, tokens: Tensor) -> Tensor:
    """The mean color of all patches of each patch's token (B, 3, rows, columns)."""
    cells = F.adaptive_avg_pool2d(pixels, tokens.shape[1:]).flatten(2)
    number = tokens.flatten(1).clamp_min(0)[:, None].expand_as(cells)
    sums = torch.zeros_like(cells).scatter_add(2, number, cells)
    counts = torch.zeros_like(cells).scatter_add(2, number, torch.ones_like(cells))
    return (sums / counts.clamp_min(1)).gather(2, number).unflatten(2, tokens.shape[1:])


def _outline(tokens: Tensor, counts: Tensor, patch: list[int]) -> Tensor:
    """Pixels (B, 1, H, W) on the borders of patches that have merged."""
    tokens, merged = (_large(each, patch) for each in (tokens, counts > 1))
    edge = torch.zeros_like(merged)
    for dim in (2, 3):
        size = tokens.shape[dim]
        here, there = tokens.narrow(dim, 0, size - 1), tokens.narrow(dim, 1, size - 1)
        either = merged.narrow(dim, 0, size - 1) | merged.narrow(dim, 1, size - 1)
        edge.narrow(dim, 0, size - 1).logical_or_((here != there) & either)
    return edge


def _table(heads: list[str], parts: list[Tensor]) -> Image.Image:
    """Parts (B, 3, H, W) side by side under their heads, an image a row."""
    count, _, height, width = parts[0].shape
    size = (len(parts) * (width + _GAP) - _GAP, _HEADING + count * (height + _GAP) - _GAP)
    table = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(table)
    for column, (head, part) in enumerate(zip(heads, parts, strict=True)):
        left = column * (width + _GAP)
        draw.text((left, 1), head, fill="black")
        pixels = (255 * part).round().byte().permute(0, 2, 3, 1).numpy()
        for row, one in enumerate(pixels):
            table.paste(Image.fromarray(one), (left, _HEADING + row * (height + _GAP)))
    return table

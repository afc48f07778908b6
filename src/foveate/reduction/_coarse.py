"""A vision transformer on a coarser grid: larger patches, with the weights of the finer model."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.reduction._options import listed


class CoarsePatchEmbed(nn.Module):
    """A patch embedding in larger patches; the image is padded with zeros on all sides to fit.

    Args:
        embed: of the model, whose weights are resampled.
        patch: pixels of a side.
    """

    def __init__(self, embed: Any, patch: int) -> None:
        from timm.layers import resample_patch_embed

        super().__init__()
        old = embed.proj
        self.patch_size = (patch, patch)
        self.img_size = embed.img_size
        self.strict_img_size = embed.strict_img_size
        self.flatten = embed.flatten
        self.proj = nn.Conv2d(
            old.in_channels, old.out_channels, patch, patch, bias=old.bias is not None
        )
        with torch.no_grad():
            self.proj.weight.copy_(resample_patch_embed(old.weight, [patch, patch]))
            if old.bias is not None:
                self.proj.bias.copy_(old.bias)  # pyrefly: ignore
        self.norm = copy.deepcopy(embed.norm)
        self.grid_size = self.dynamic_feat_size(embed.img_size)  # pyrefly: ignore
        self.num_patches = self.grid_size[0] * self.grid_size[1]

    def dynamic_feat_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tokens of an image of ``size`` (H, W)."""
        return math.ceil(size[0] / self.patch_size[0]), math.ceil(size[1] / self.patch_size[1])

    def forward(self, images: Tensor) -> Tensor:
        size = tuple(images.shape[-2:])
        if self.strict_img_size and size != tuple(self.img_size):  # pyrefly: ignore
            raise ValueError(f"expected images of {self.img_size} pixels, got {size}")
        down, right = (-side % self.patch_size[0] for side in size)
        x = F.pad(images, (right // 2, right - right // 2, down // 2, down - down // 2))
        # A convolution with such a stride is a linear layer of each patch, which is faster.
        patch, rows = self.patch_size[0], x.shape[2] // self.patch_size[0]
        x = x.unflatten(3, (-1, patch)).unflatten(2, (rows, patch))  # (B, c, H, p, W, p)
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(3)
        x = F.linear(x, self.proj.weight.flatten(1), self.proj.bias)  # (B, H, W, C)
        return self.norm(x.flatten(1, 2) if self.flatten else x)


def coarser(host: Any, rows: int) -> Any:
    """A copy of ``host`` on a grid of so many ``rows``, with its weights resampled."""
    from timm.layers import resample_abs_pos_embed

    stage = copy.deepcopy(host)
    patch = math.ceil(host.patch_embed.img_size[0] / rows)
    stage.patch_embed = CoarsePatchEmbed(host.patch_embed, patch)
    if host.pos_embed is not None:
        kept = 0 if host.no_embed_class else host.num_prefix_tokens
        grids = (list(each.patch_embed.grid_size) for each in (stage, host))
        with torch.no_grad():
            embedding = resample_abs_pos_embed(host.pos_embed, *grids, num_prefix_tokens=kept)
        stage.pos_embed = nn.Parameter(embedding.clone())
    return stage


def default_grids(host: Any) -> list[int]:
    rows = host.patch_embed.grid_size[0]
    return sorted({round(rows / 2), round(rows / math.sqrt(2))} - {0, rows})


def checked_grids(host: Any, grids: Sequence[int]) -> list[int]:
    """``grids`` if patches can be as large as they ask for."""
    rows, side = host.patch_embed.grid_size[0], host.patch_embed.img_size[0]
    what = f"grids must ascend from at least 1 to below the model's {rows} rows"
    grids = listed(grids, what)
    whole = all(isinstance(each, int) and each > 0 for each in grids)
    if not whole or any(a >= b for a, b in itertools.pairwise([*grids, rows])):
        raise ValueError(f"{what}, got {grids!r}")
    for each in grids:
        found = math.ceil(side / math.ceil(side / each))
        if found != each:
            raise ValueError(
                f"there is no grid of {each} rows of equal patches in {side} pixels: the nearest "
                f"has {found}"
            )
    return grids

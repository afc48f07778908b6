"""Rows of the reducers: what drops and merges tokens of a vision transformer."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

import foveate
from foveate.reduction import sources
from foveate.reduction.tome import match
from tests.published.golden import Golden, Row


def _matching(**kwargs: Any) -> nn.Module:
    return nn.Identity()


def _merged(module: nn.Module, golden: Golden) -> dict[str, Tensor]:
    """One merging, put back where it came from; a second one where the case has it."""
    metric, x = golden.inputs["metric"], golden.inputs["x"]
    prefix = golden.kwargs["class_token"] + golden.kwargs["distill_token"]
    r = golden.kwargs["r"]
    merging = match(metric, r, prefix)
    merged, size = merging.merge(x, torch.ones(*x.shape[:2], 1))
    token = merging.moved()[..., None].expand(-1, -1, x.shape[2])
    given = merged
    if prefix == 2:
        given = _as_published_puts_back(merged, merging.left.shape[1])
    back = torch.cat([given[:, :prefix], given[:, prefix:].gather(1, token)], 1)
    found = {"merged": merged, "size": size, "unmerged": back}
    if "merged2" in golden.outputs:
        metric, _ = merging.merge(metric, torch.ones(*x.shape[:2], 1))
        found["merged2"], found["size2"] = match(metric, r, prefix).merge(merged, size)
    return found


def _as_published_puts_back(merged: Tensor, left: int) -> Tensor:
    """Its way back takes the distillation token for the last one that is left of the first set."""
    cls, first, dist, second = merged.split([1, left, 1, merged.shape[1] - left - 2], 1)
    return torch.cat([cls, dist, first, second], 1)


def _merging_vit(r: int, prop_attn: bool, img_size: list[int], **kwargs: Any) -> nn.Module:
    vit = VisionTransformer(img_size=tuple(img_size), **kwargs)  # pyrefly: ignore
    return foveate.reduce(vit, "tome", r=r, prop_attn=prop_attn)


def _logits_and_sources(model: nn.Module, golden: Golden) -> dict[str, Tensor]:
    x = golden.inputs["x"]
    token = list(sources(model, x).values())[-1] + 1  # the class token comes first
    token = F.pad(token, (1, 0))
    source = F.one_hot(token).transpose(1, 2).float()
    return {"logits": model(x), "size": source.sum(2, keepdim=True), "source": source}


ROWS = [
    *(
        Row(f"tome_match_{case}", _matching, _merged, mechanism="tome")
        for case in ("cls", "distill", "plain_twice")
    ),
    *(
        Row(case, _merging_vit, _logits_and_sources, mechanism="tome")
        for case in ("tome_vit_narrow", "tome_vit_narrow_noprop")
    ),
]

"""Networks that timm has: its own code gives what the publications give, from their weights."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models import cait, xcit
from torch import Tensor, nn

from tests.published.golden import Golden, Row


def _cait(init_scale: float, norm_eps: float, **options: Any) -> cait.Cait:
    norm = partial(nn.LayerNorm, eps=norm_eps)
    return cait.Cait(init_values=init_scale, norm_layer=norm, **options)


def _xcit(norm_eps: float, **options: Any) -> xcit.Xcit:
    return xcit.Xcit(norm_layer=partial(nn.LayerNorm, eps=norm_eps), **options)


def _filtered_by_timm(golden: Golden) -> dict[str, Tensor]:
    return xcit.checkpoint_filter_fn(dict(golden.state), _xcit(**golden.kwargs))


def _logits(model: nn.Module, golden: Golden) -> dict[str, Tensor]:
    return {"logits": model(golden.inputs["x"])}


ROWS = [
    Row("cait_tiny_model", _cait, _logits),
    Row("xcit_tiny_model", _xcit, _logits, _filtered_by_timm),
]

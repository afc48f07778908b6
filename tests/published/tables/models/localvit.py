"""LocalViT: two networks and their feed-forward."""

from __future__ import annotations

from typing import Any

import timm

from foveate.models.localvit import LocalFeedForward
from tests.published.golden import Row

ACTS = {
    "relu": ("relu6", None),
    "hs": ("hard_swish", None),
    "hs+se": ("hard_swish", "se"),
    "hs+eca": ("hard_swish", "eca"),
    "hs+ecah": ("hard_swish", "eca_hard"),
}


def _feed_forward(in_dim: int, act: str = "hs+se", **options: Any) -> LocalFeedForward:
    act_layer, gate = ACTS[act]
    return LocalFeedForward(
        in_dim,
        options.get("expand_ratio", 4.0),
        act_layer,
        gate,
        options.get("reduction", 4),
        depthwise=not options.get("wo_dp_conv", False),
    )


ROWS = [
    Row("localvit_ff_relu", _feed_forward),
    Row("localvit_ff_se", _feed_forward),
    Row("localvit_t", lambda **_: timm.create_model("localvit_tiny")),
    Row("localvit_t_se4", lambda **_: timm.create_model("localvit_tiny_se4"), slow=True),
]

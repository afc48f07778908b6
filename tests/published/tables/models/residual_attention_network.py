"""Residual attention networks: the authors' definition, and the port's networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from foveate.attention.gates.residual_attention import PreActivationBlock
from foveate.models.residual_attention_network import ResidualAttentionNetwork
from tests.published.golden import Row

SMALL_IMAGES = {"stem_dim": 32, "dims": (128, 256, 512, 1024), "stem": "small"}


def _network(**options: Any) -> Callable[..., ResidualAttentionNetwork]:
    return lambda num_classes: ResidualAttentionNetwork(num_classes=num_classes, **options)


def _block(input_channels: int, output_channels: int, stride: int) -> PreActivationBlock:
    return PreActivationBlock(input_channels, output_channels, stride)


ROWS = [
    Row("ran_residual_block", _block, mechanism="residual_attention"),
    Row("ran56", _network(port=True), slow=True),
    Row("ran56_caffe", _network()),
    Row(
        "ran92_32input_update",
        _network(port=True, modules=(1, 2, 3), levels=(2, 1, 0), **SMALL_IMAGES),
    ),
]

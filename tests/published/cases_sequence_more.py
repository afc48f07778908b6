"""Attention over sequences: dot products, sparse patterns, routing."""

from __future__ import annotations

from torch import Tensor, nn

from foveate.attention.sequence.scaled_dot_product import scaled_dot_product
from tests.published.golden import Golden, Row


class _Options(nn.Module):
    """Stands for a published function: holds the options of the case."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.options = options


def _dot_product(module: _Options, golden: Golden) -> Tensor:
    options = module.options
    return scaled_dot_product(
        *golden.inputs.values(), causal=options.get("is_causal", False), scale=options.get("scale")
    )[0]


ROWS = [
    *(
        Row(f"sdpa_{name}", _Options, _dot_product)
        for name in ("bool_mask", "causal", "float_mask", "plain", "scale")
    ),
]

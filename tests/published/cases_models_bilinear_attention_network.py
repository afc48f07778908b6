"""Bilinear attention networks: the features that retrieval compares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from foveate.models.bilinear_attention_network import BilinearAttentionNetwork
from tests.published.golden import Golden, Row


def _network(**options: Any) -> Callable[..., BilinearAttentionNetwork]:
    def build(num_classes: int, feat_dim: int, num_focused_parts: int, **_: int):
        return BilinearAttentionNetwork(
            num_classes=num_classes, hidden=feat_dim, parts=num_focused_parts, **options
        )

    return build


def _embedded(model: BilinearAttentionNetwork, golden: Golden) -> Tensor:
    return model.embed(golden.inputs["x"])


ROWS = [
    Row("batnet_bilinear_aia_GL", _network(), _embedded),
    Row("batnet_incep_mbi", _network(gates=(True, True, True)), _embedded, slow=True),
]

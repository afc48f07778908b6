"""Bilinear attention networks: the features that retrieval compares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from foveate.attention.gates.bilinear import BilinearAttention
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


def _products(inChannels: int, outChannels: int) -> BilinearAttention:
    """The products and the layer behind them, without the attention that weights them."""
    module = BilinearAttention(inChannels)
    products = module.local[0].in_channels
    module.local[0], module.local[1] = (
        nn.Conv2d(products, outChannels, 1),
        nn.BatchNorm2d(outChannels),
    )
    module.inner = nn.Identity()
    return module


def _second_order(module: BilinearAttention, golden: Golden) -> Tensor:
    z = module.reduce(golden.inputs["x"])
    return module.local(module.products(z))


ROWS = [
    Row("bat_bilinear_module", _products, _second_order, mechanism="bilinear"),
    Row("batnet_bilinear_aia_GL", _network(), _embedded),
    Row("batnet_incep_mbi", _network(gates=(True, True, True)), _embedded, slow=True),
]

"""Parts that models here take from timm equal their own publications, too."""

from __future__ import annotations

from timm.models.pvt_v2 import MlpWithDepthwiseConv
from timm.models.twins import PosConv
from timm.models.xcit import PositionalEncodingFourier
from torch import Tensor, nn

from tests.published.golden import Golden, Row

SIZE = (5, 6)
"""Height and width of the map that the tokens of the cases are."""


def _on_map(module: nn.Module, golden: Golden) -> Tensor:
    return module(golden.inputs["x"], SIZE)


def _without_wrapper(golden: Golden) -> dict[str, Tensor]:
    return {key.replace("dwconv.dwconv", "dwconv"): value for key, value in golden.state.items()}


def _fourier(dim: int, hidden_dim: int = 32, **_: int) -> PositionalEncodingFourier:
    return PositionalEncodingFourier(hidden_dim, dim)


def _positions(module: PositionalEncodingFourier, golden: Golden) -> Tensor:
    """Of a map of the output's size; nothing else is an input."""
    batch, _, height, width = golden.outputs["y"].shape
    return module(batch, height, width)


ROWS = [
    Row("pvt_v2_mlp", MlpWithDepthwiseConv, _on_map, _without_wrapper),
    Row("twins_peg", PosConv, _on_map),
    Row("xcit_fourier_pos", _fourier, _positions),
    Row("xcit_pos_fourier", _fourier, _positions),
]

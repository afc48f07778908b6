"""The layouts in which published modules take and give: channels last, tokens, parts of a block."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from tests.published.golden import Golden


def channels_last(module: nn.Module, golden: Golden) -> Tensor:
    """The published module takes and gives (B, H, W, C)."""
    return module(golden.inputs["x"].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def map_of(height: int, width: int) -> Callable[[nn.Module, Golden], Tensor]:
    """The published module takes and gives the tokens of a map of this size."""
    return lambda module, golden: (
        module(golden.inputs["x"].mT.unflatten(2, (height, width))).flatten(2).mT
    )


def within(prefix: str) -> Callable[[Golden], dict[str, Tensor]]:
    """The entries of the submodule at ``prefix``, under its own names."""
    return lambda golden: {
        key.removeprefix(prefix): value
        for key, value in golden.state.items()
        if key.startswith(prefix)
    }


def layer_norm(x: Tensor, golden: Golden, name: str) -> Tensor:
    """The layer norm called ``name`` in the case's weights."""
    weight, bias = golden.state[f"{name}.weight"], golden.state[f"{name}.bias"]
    return F.layer_norm(x, (x.shape[-1],), weight, bias)

"""Local, window and sequence attention."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from foveate.attention.local.neighborhood import NeighborhoodAttention
from foveate.attention.window.window import WindowAttention
from tests.published.golden import Golden, Row


def _channels_last(module: nn.Module, golden: Golden) -> Tensor:
    """The published module takes and gives (B, H, W, C)."""
    return module(golden.inputs["x"].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _within(prefix: str) -> Callable[[Golden], dict[str, Tensor]]:
    """The entries of the part called ``prefix``, under its own names."""
    return lambda golden: {
        key.removeprefix(prefix): value
        for key, value in golden.state.items()
        if key.startswith(prefix)
    }


def _norm(x: Tensor, golden: Golden, name: str) -> Tensor:
    weight, bias = golden.state[f"{name}.weight"], golden.state[f"{name}.bias"]
    return F.layer_norm(x, (x.shape[-1],), weight, bias)


def _swin_attention(dim: int, input_resolution: list[int], **options: int) -> WindowAttention:
    return WindowAttention(dim, **options)


def _swin_block(module: nn.Module, golden: Golden) -> Tensor:
    x, weights = golden.inputs["x"], golden.state  # (B, H*W, C)
    size = golden.kwargs["input_resolution"]
    attended = module(_norm(x, golden, "norm1").mT.unflatten(2, size)).flatten(2).mT
    x = x + attended
    hidden = F.linear(_norm(x, golden, "norm2"), weights["mlp.fc1.weight"], weights["mlp.fc1.bias"])
    return x + F.linear(F.gelu(hidden), weights["mlp.fc2.weight"], weights["mlp.fc2.bias"])


ROWS = [
    Row("nat_attention_k3", NeighborhoodAttention, _channels_last),
    Row("nat_attention_k3d2", NeighborhoodAttention, _channels_last),
    Row("nat_attention_k5", NeighborhoodAttention, _channels_last),
    Row("swin_block_shift", _swin_attention, _swin_block, _within("attn.")),
]

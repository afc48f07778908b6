"""Blocks of class attention and cross-covariance attention, composed around our modules."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import foveate
from foveate.attention.full.class_attention import ClassAttention
from foveate.attention.full.cross_covariance import (
    CrossCovarianceAttention,
    LocalPatchInteraction,
)
from foveate.layout import map_to_tokens
from tests.published.golden import Golden, Row


def _part(name: str) -> Callable[[Golden], dict[str, Tensor]]:
    """The entries of the part ``name``, under its own names."""
    return lambda golden: {
        key.removeprefix(f"{name}."): value
        for key, value in golden.state.items()
        if key.startswith(f"{name}.")
    }


def _norm(x: Tensor, golden: Golden, name: str) -> Tensor:
    weight, bias = golden.state[f"{name}.weight"], golden.state[f"{name}.bias"]
    return F.layer_norm(x, (x.shape[-1],), weight, bias)


def _mlp(x: Tensor, golden: Golden) -> Tensor:
    weights = golden.state
    hidden = F.gelu(F.linear(x, weights["mlp.fc1.weight"], weights["mlp.fc1.bias"]))
    return F.linear(hidden, weights["mlp.fc2.weight"], weights["mlp.fc2.bias"])


def _cait(module: ClassAttention, golden: Golden) -> Tensor:
    """Only the class token has a residual connection and a feed-forward part."""
    x, token = golden.inputs["x"], golden.inputs["x_cls"]
    attended = module(_norm(torch.cat([token, x], 1), golden, "norm1"))[:, :1]
    token = token + golden.state["gamma_1"] * attended
    return token + golden.state["gamma_2"] * _mlp(_norm(token, golden, "norm2"), golden)


def _named(output: str) -> Callable[[ClassAttention, Golden], dict[str, Tensor]]:
    return lambda module, golden: {output: _cait(module, golden)}


def _xcit_class(module: ClassAttention, golden: Golden) -> Tensor:
    """As published: patches take their own norm, and later twice themselves."""
    x = golden.inputs["x"]
    x = x + golden.state["gamma1"] * module(_norm(x, golden, "norm1"))
    normed = _norm(x, golden, "norm2")
    x = normed if golden.kwargs["tokens_norm"] else torch.cat([normed[:, :1], x[:, 1:]], 1)
    token = golden.state["gamma2"] * _mlp(x[:, :1], golden)
    return x + torch.cat([token, x[:, 1:]], 1)


def _xcit(height: int, width: int) -> Callable[[nn.Module, Golden], Tensor]:
    def block(module: nn.Module, golden: Golden) -> Tensor:
        x, weights = golden.inputs["x"], golden.state
        local = LocalPatchInteraction(x.shape[2]).eval()
        foveate.load_published(local, _part("local_mp")(golden))
        x = x + weights["gamma1"] * module(_norm(x, golden, "norm1"))
        feature_map = _norm(x, golden, "norm3").mT.unflatten(2, (height, width))
        x = x + weights["gamma3"] * map_to_tokens(local(feature_map))
        return x + weights["gamma2"] * _mlp(_norm(x, golden, "norm2"), golden)

    return block


def _class_attention(dim: int, num_heads: int, **_: object) -> ClassAttention:
    return ClassAttention(dim, num_heads)


def _cross_covariance(dim: int, num_heads: int, **_: object) -> CrossCovarianceAttention:
    return CrossCovarianceAttention(dim, num_heads)


def _local(in_features: int, **_: int) -> LocalPatchInteraction:
    return LocalPatchInteraction(in_features)


def _on_map(module: nn.Module, golden: Golden) -> Tensor:
    return map_to_tokens(module(golden.inputs["x"].mT.unflatten(2, (3, 4))))


ROWS = [
    Row("cait_block_ca", _class_attention, _cait, _part("attn")),
    Row("cait_class_block", _class_attention, _named("cls"), _part("attn")),
    *(
        Row(f"xcit_class_{case}", _class_attention, _xcit_class, _part("attn"))
        for case in ("attention_block_tn0", "block", "block_tokens_norm")
    ),
    Row("xcit_block", _cross_covariance, _xcit(3, 4), _part("attn")),
    Row("xcit_block_2heads", _cross_covariance, _xcit(5, 6), _part("attn")),
    Row("xcit_xca_16", _cross_covariance),
    Row("xcit_lpi_16", _local, _on_map, mechanism="cross_covariance"),
]

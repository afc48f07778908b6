"""Attention over the whole map, full or reduced; blocks are composed around our modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import foveate
from foveate.attention.full.class_attention import ClassAttention
from foveate.attention.full.convolutional_projection import ConvolutionalProjectionAttention
from foveate.attention.full.cross_covariance import (
    CrossCovarianceAttention,
    LocalPatchInteraction,
)
from foveate.attention.full.deformable import DeformableAttention, _grid
from foveate.attention.full.multi_head_cross import MultiHeadCrossAttention
from foveate.attention.full.performer import TokenPerformer
from foveate.attention.full.spatial_reduction import SpatialReductionAttention
from foveate.attention.full.talking_heads import TalkingHeadsAttention
from foveate.layout import map_to_tokens
from tests.published.golden import Golden, Row
from tests.published.layouts import layer_norm, map_of, within


def _cvt(dim_in: int, num_heads: int, kernel_size: int, stride_kv: int, **_):
    return ConvolutionalProjectionAttention(dim_in, num_heads, kernel_size, stride_kv)


def _with_class_token(module: ConvolutionalProjectionAttention, golden: Golden) -> Tensor:
    token, patches = golden.inputs["x"].split([1, 5 * 6], 1)
    feature_map = patches.transpose(1, 2).unflatten(2, (5, 6))
    y, token = module.forward_with_class_token(feature_map, token)
    return torch.cat([token, map_to_tokens(y)], 1)


def _dat(n_heads: int, n_head_channels: int, n_groups: int, q_size: list[int], **options):
    return DeformableAttention(
        n_heads * n_head_channels,
        n_heads,
        n_groups,
        options["stride"],
        options["ksize"],
        offset_range=options["offset_range_factor"],
        offsets=not options["no_off"],
        position="log" if options["log_cpb"] else "table",
        table_size=tuple(q_size),
    )


def _with_points(module: DeformableAttention, golden: Golden) -> dict[str, Tensor]:
    x = golden.inputs["x"]
    points = module.points(x)
    reference = _grid(*points.shape[2:4], 0.5, x).expand_as(points)
    return {"y": module(x), "pos": points, "ref": reference}


def _cross(embed_dim: int, num_heads: int, bias: bool = True, **options: Any):
    key_dim, value_dim = options.get("kdim"), options.get("vdim")
    return MultiHeadCrossAttention(
        embed_dim, num_heads, key_dim=key_dim, value_dim=value_dim, qkv_bias=bias
    )


def _from_queries(module: MultiHeadCrossAttention, golden: Golden) -> dict[str, Tensor]:
    """The weights are averaged over heads unless the case says no; its masks say what to drop."""
    query, key, value, *masks = golden.inputs.values()
    mask = None
    if masks:
        padding, pairs = masks
        mask = ~(padding[:, None, None] | pairs)
    y, weights = module(query, key, value, mask)
    averaged = golden.kwargs.get("average_attn_weights", True)
    return {"y": y, "w": weights.mean(1) if averaged else weights}


def _mlp(x: Tensor, golden: Golden) -> Tensor:
    weights = golden.state
    hidden = F.gelu(F.linear(x, weights["mlp.fc1.weight"], weights["mlp.fc1.bias"]))
    return F.linear(hidden, weights["mlp.fc2.weight"], weights["mlp.fc2.bias"])


def _cait(module: ClassAttention, golden: Golden) -> Tensor:
    """Only the class token has a residual connection and a feed-forward part."""
    x, token = golden.inputs["x"], golden.inputs["x_cls"]
    attended = module(layer_norm(torch.cat([token, x], 1), golden, "norm1"))[:, :1]
    token = token + golden.state["gamma_1"] * attended
    return token + golden.state["gamma_2"] * _mlp(layer_norm(token, golden, "norm2"), golden)


def _named(output: str) -> Callable[[ClassAttention, Golden], dict[str, Tensor]]:
    return lambda module, golden: {output: _cait(module, golden)}


def _xcit_class(module: ClassAttention, golden: Golden) -> Tensor:
    """As published: patches take their own norm, and later twice themselves."""
    x = golden.inputs["x"]
    x = x + golden.state["gamma1"] * module(layer_norm(x, golden, "norm1"))
    normed = layer_norm(x, golden, "norm2")
    x = normed if golden.kwargs["tokens_norm"] else torch.cat([normed[:, :1], x[:, 1:]], 1)
    token = golden.state["gamma2"] * _mlp(x[:, :1], golden)
    return x + torch.cat([token, x[:, 1:]], 1)


def _xcit(height: int, width: int) -> Callable[[nn.Module, Golden], Tensor]:
    def block(module: nn.Module, golden: Golden) -> Tensor:
        x, weights = golden.inputs["x"], golden.state
        local = LocalPatchInteraction(x.shape[2]).eval()
        foveate.load_published(local, within("local_mp.")(golden))
        x = x + weights["gamma1"] * module(layer_norm(x, golden, "norm1"))
        feature_map = layer_norm(x, golden, "norm3").mT.unflatten(2, (height, width))
        x = x + weights["gamma3"] * map_to_tokens(local(feature_map))
        return x + weights["gamma2"] * _mlp(layer_norm(x, golden, "norm2"), golden)

    return block


def _class_attention(dim: int, num_heads: int, **_: object) -> ClassAttention:
    return ClassAttention(dim, num_heads)


def _cross_covariance(
    dim: int, num_heads: int, qkv_bias: bool = True, **_: object
) -> CrossCovarianceAttention:
    return CrossCovarianceAttention(dim, num_heads, qkv_bias=qkv_bias)


def _token_performer(dim: int, in_dim: int, kernel_ratio: float) -> TokenPerformer:
    return TokenPerformer(dim, in_dim, kernel_ratio)


def _local(in_features: int, **_: int) -> LocalPatchInteraction:
    return LocalPatchInteraction(in_features)


def _on_map(module: nn.Module, golden: Golden) -> Tensor:
    return map_to_tokens(module(golden.inputs["x"].mT.unflatten(2, (3, 4))))


ROWS = [
    Row("pvt_sra", SpatialReductionAttention, map_of(6, 8)),
    Row("xcit_xca", CrossCovarianceAttention),
    Row(
        "xcit_lpi",
        lambda in_features: LocalPatchInteraction(in_features),
        map_of(5, 6),
        mechanism="cross_covariance",
    ),
    *(
        Row(f"mha_{case}", _cross, _from_queries, mechanism="multi_head")
        for case in ("cross", "kdim_vdim", "masks", "self_nobias")
    ),
    Row("cait_class_attention", ClassAttention, lambda m, g: {"cls": m(g.inputs["x"])[:, :1]}),
    Row("cait_class_attention_24", ClassAttention, lambda m, g: m(g.inputs["x"])[:, :1]),
    Row("cait_talking_heads", TalkingHeadsAttention),
    Row("cvt_attention", _cvt, _with_class_token),
    Row("dat_deformable_attention", _dat, _with_points),
    Row("dat_deformable_attention_logcpb", _dat, _with_points),
    Row("dat_deformable_attention_nooff", _dat),
    Row("xcit_class_attention", ClassAttention),
    Row("cait_block_ca", _class_attention, _cait, within("attn.")),
    Row("cait_class_block", _class_attention, _named("cls"), within("attn.")),
    *(
        Row(f"xcit_class_{case}", _class_attention, _xcit_class, within("attn."))
        for case in ("attention_block_tn0", "block", "block_tokens_norm")
    ),
    Row("xcit_block", _cross_covariance, _xcit(3, 4), within("attn.")),
    Row("xcit_block_2heads", _cross_covariance, _xcit(5, 6), within("attn.")),
    Row("dvt_token_performer", _token_performer, mechanism="performer"),
    Row("xcit_xca_16", _cross_covariance),
    Row("xcit_lpi_16", _local, _on_map, mechanism="cross_covariance"),
]

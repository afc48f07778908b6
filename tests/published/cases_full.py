"""Attention over the whole map, full or reduced."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.attention.full.class_attention import ClassAttention
from foveate.attention.full.convolutional_projection import ConvolutionalProjectionAttention
from foveate.attention.full.deformable import DeformableAttention, _grid
from foveate.attention.full.multi_head_cross import MultiHeadCrossAttention
from foveate.attention.full.talking_heads import TalkingHeadsAttention
from foveate.layout import map_to_tokens
from tests.published.golden import Golden, Row


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


ROWS = [
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
]

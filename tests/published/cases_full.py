"""Attention over the whole map, full or reduced."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.attention.full.class_attention import ClassAttention
from foveate.attention.full.convolutional_projection import ConvolutionalProjectionAttention
from foveate.attention.full.deformable import DeformableAttention, _grid
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


ROWS = [
    Row("cait_class_attention", ClassAttention, lambda m, g: {"cls": m(g.inputs["x"])[:, :1]}),
    Row("cait_class_attention_24", ClassAttention, lambda m, g: m(g.inputs["x"])[:, :1]),
    Row("cait_talking_heads", TalkingHeadsAttention),
    Row("cvt_attention", _cvt, _with_class_token),
    Row("dat_deformable_attention", _dat, _with_points),
    Row("dat_deformable_attention_logcpb", _dat, _with_points),
    Row("dat_deformable_attention_nooff", _dat),
    Row("xcit_class_attention", ClassAttention),
]

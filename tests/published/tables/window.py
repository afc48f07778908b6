"""Attention in windows, stripes, spread groups and along axes; blocks are composed around ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.attention.window.acmix_window import ACmixWindowAttention
from foveate.attention.window.axial import AxialAttention
from foveate.attention.window.axial_deeplab import AxialDeepLabAttention
from foveate.attention.window.cross_shaped import CrossShapedAttention
from foveate.attention.window.locally_grouped import LocallyGroupedAttention
from foveate.attention.window.messenger import MessengerAttention
from foveate.attention.window.pale import PaleAttention
from foveate.attention.window.shuffle import ShuffleAttention
from foveate.attention.window.squeeze_axial import SqueezeAxialAttention
from foveate.attention.window.window import WindowAttention
from foveate.layout import window_merge, window_partition
from tests.published.golden import Golden, Row
from tests.published.layouts import channels_last, layer_norm, map_of, within


def _swin_attention(dim: int, input_resolution: list[int], **options: int) -> WindowAttention:
    return WindowAttention(dim, **options)


def _swin_block(module: nn.Module, golden: Golden) -> Tensor:
    x, weights = golden.inputs["x"], golden.state  # (B, H*W, C)
    size = golden.kwargs["input_resolution"]
    attended = module(layer_norm(x, golden, "norm1").mT.unflatten(2, size)).flatten(2).mT
    x = x + attended
    hidden = F.linear(
        layer_norm(x, golden, "norm2"), weights["mlp.fc1.weight"], weights["mlp.fc1.bias"]
    )
    return x + F.linear(F.gelu(hidden), weights["mlp.fc2.weight"], weights["mlp.fc2.bias"])


def _pale_block(module: nn.Module, golden: Golden) -> Tensor:
    x, weights = golden.inputs["x"], golden.state

    def convolve(x: Tensor, name: str, **options: int) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x.movedim(1, -1), golden, f"{name}.ln").movedim(-1, 1)

    x = x + convolve(x, "cpe", padding=1, groups=x.shape[1])
    x = x + module(norm(x, "norm1"))
    return x + convolve(F.gelu(convolve(norm(x, "norm2"), "mlp.fc1")), "mlp.fc2")


def _cross_shaped(dim: int, num_heads: int, split_size: int, **_: int) -> CrossShapedAttention:
    """The case is one of two branches, so the module has twice its channels and heads."""
    return CrossShapedAttention(2 * dim, 2 * num_heads, split_size)


def _cross_shaped_weights(golden: Golden) -> dict[str, Tensor]:
    """The branch's convolution for both branches; the projections lie outside the case."""
    dim = 2 * golden.kwargs["dim"]
    shapes = {"qkv.weight": (3 * dim, dim), "qkv.bias": (3 * dim,)}
    shapes |= {"proj.weight": (dim, dim), "proj.bias": (dim,)}
    state = {f"attns.{i}.{key}": value for key, value in golden.state.items() for i in (0, 1)}
    return state | {key: torch.zeros(shape) for key, shape in shapes.items()}


def _cross_shaped_branch(module: nn.Module, golden: Golden) -> Tensor:
    options = golden.kwargs
    size = (options["resolution"], options["resolution"])
    qkv = golden.inputs["x"].unflatten(-1, (options["num_heads"], -1)).unflatten(2, size)
    q, k, v = torch.cat([qkv, qkv], -2)  # each (B, H, W, h, D)
    y = module._attend(q, k, v).flatten(-2) + module._local(v)
    return y.chunk(2, -1)[options["idx"]].flatten(1, 2)


def _locally_grouped(dim: int, num_heads: int, ws: int, qkv_bias: bool) -> nn.Module:
    return LocallyGroupedAttention(dim, num_heads, ws, qkv_bias=qkv_bias)


def _axial(dim: int, heads: int, num_dimensions: int, sum_axial_out: bool, **_: int):
    return AxialAttention(dim, heads, volume=num_dimensions == 3, sum_axial_out=sum_axial_out)


def _shuffle(relative_pos_embedding: bool, **options: Any) -> ShuffleAttention:
    return ShuffleAttention(**options, rel_pos_bias=relative_pos_embedding)


def _messengers(module: nn.Module, golden: Golden) -> Tensor:
    """Four windows of 3 x 3 cells, each with its messenger in front: a map of 6 x 6."""
    x = golden.inputs["x"]  # (B, n, 1 + T, C)
    cells = window_merge(x[:, :, 1:], (3, 3), (6, 6)).permute(0, 3, 1, 2)
    cells, messengers = module.exchange(cells, x[:, :, 0])
    cells = window_partition(cells.permute(0, 2, 3, 1), (3, 3))
    return torch.cat([messengers[:, :, None], cells], 2)


def _acmix_window(dim: int, window_size: list[int], num_heads: int):
    return ACmixWindowAttention(dim, num_heads, tuple(window_size))


def _squeeze_axial(dim: int, num_heads: int, key_dim: int, attn_ratio: int, **_: object):
    return SqueezeAxialAttention(dim, num_heads, key_dim, attn_ratio)


def _attention(golden: Golden) -> dict[str, Tensor]:
    return {
        key.removeprefix("attn."): value
        for key, value in golden.state.items()
        if key.startswith("attn.")
    }


def _block(module: nn.Module, golden: Golden) -> Tensor:
    """The block around the attention: neither branch has a norm in front."""
    x, weights = golden.inputs["x"], golden.state

    def conv_norm(x: Tensor, name: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        norm = (weights[f"{name}.bn.{entry}"] for entry in names)
        return F.batch_norm(F.conv2d(x, weights[f"{name}.c.weight"]), *norm)

    x = x + module(x)
    depthwise = (weights["mlp.dwconv.weight"], weights["mlp.dwconv.bias"])
    hidden = F.conv2d(conv_norm(x, "mlp.fc1"), *depthwise, padding=1, groups=128)
    return x + conv_norm(F.relu6(hidden), "mlp.fc2")


def _position_sensitive(in_planes: int, groups: int, kernel_size: int, **_: object):
    return AxialDeepLabAttention(in_planes, groups, kernel_size)


def _one_axis(golden: Golden) -> dict[str, Tensor]:
    """The case is the first of a block's two axes; the second gets the same weights."""
    axes = ("hight_block", "width_block")
    return {f"{axis}.{key}": value for axis in axes for key, value in golden.state.items()}


ROWS = [
    Row("cswin_lepe_attention_h", _cross_shaped, _cross_shaped_branch, _cross_shaped_weights),
    Row("cswin_lepe_attention_v", _cross_shaped, _cross_shaped_branch, _cross_shaped_weights),
    Row("axial_attention_seq", _axial, channels_last),
    Row("axial_attention_volume", _axial),
    Row("shuffle_attention_shuf", _shuffle),
    Row("msg_window_attention", MessengerAttention, _messengers),
    Row("twins_lsa", _locally_grouped, map_of(6, 9)),
    Row("pale_attention_p2", PaleAttention),
    Row("pale_block", PaleAttention, _pale_block, within("attn.")),
    Row("swin_block_shift", _swin_attention, _swin_block, within("attn.")),
    Row("acmix_swin_attn", _acmix_window, channels_last),
    Row(
        "axial_deeplab_attention_h",
        _position_sensitive,
        lambda module, golden: module.along_columns(golden.inputs["x"]),
        _one_axis,
    ),
    Row("sea_attention", _squeeze_axial),
    Row("sea_block", _squeeze_axial, _block, _attention),
]

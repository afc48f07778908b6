"""Axes: squeezed to tokens (SeaFormer), and position-sensitive (Axial-DeepLab)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from foveate.attention.window.axial_deeplab import AxialDeepLabAttention
from foveate.attention.window.squeeze_axial import SqueezeAxialAttention
from tests.published.golden import Golden, Row


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
    Row(
        "axial_deeplab_attention_h",
        _position_sensitive,
        lambda module, golden: module.along_columns(golden.inputs["x"]),
        _one_axis,
    ),
    Row("sea_attention", _squeeze_axial),
    Row("sea_block", _squeeze_axial, _block, _attention),
]

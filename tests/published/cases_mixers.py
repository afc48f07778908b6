"""Local, window and sequence attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.attention.full.cross_covariance import (
    CrossCovarianceAttention,
    LocalPatchInteraction,
)
from foveate.attention.full.spatial_reduction import SpatialReductionAttention
from foveate.attention.local.neighborhood import NeighborhoodAttention
from foveate.attention.local.stand_alone import StandAloneAttention
from foveate.attention.sequence.sliding_window import SlidingWindowAttention
from foveate.attention.window.axial import AxialAttention
from foveate.attention.window.cross_shaped import CrossShapedAttention
from foveate.attention.window.locally_grouped import LocallyGroupedAttention
from foveate.attention.window.messenger import MessengerAttention
from foveate.attention.window.pale import PaleAttention
from foveate.attention.window.shuffle import ShuffleAttention
from foveate.attention.window.window import WindowAttention
from foveate.layout import window_merge, window_partition
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


def _pale_block(module: nn.Module, golden: Golden) -> Tensor:
    x, weights = golden.inputs["x"], golden.state

    def convolve(x: Tensor, name: str, **options: int) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)

    def norm(x: Tensor, name: str) -> Tensor:
        return _norm(x.movedim(1, -1), golden, f"{name}.ln").movedim(-1, 1)

    x = x + convolve(x, "cpe", padding=1, groups=x.shape[1])
    x = x + module(norm(x, "norm1"))
    return x + convolve(F.gelu(convolve(norm(x, "norm2"), "mlp.fc1")), "mlp.fc2")


def _stand_alone(in_channels: int, out_channels: int, kernel_size: int, **_: int) -> nn.Module:
    """A softmax for every channel: heads of one channel, whatever the port calls groups."""
    return StandAloneAttention(in_channels, out_channels, kernel_size, out_dim=out_channels)


def _longformer(
    hidden_size: int, num_attention_heads: int, attention_window: list[int] | int, **options: Any
) -> SlidingWindowAttention:
    both_sides = isinstance(attention_window, int)
    window = attention_window // 2 if both_sides else attention_window[0]
    (dilation,) = options.get("attention_dilation", [1])
    return SlidingWindowAttention(hidden_size, num_attention_heads, window, dilation, num_global=3)


def _longformer_inputs(golden: Golden) -> tuple[Tensor, Tensor | None, Tensor | None]:
    x, mask = golden.inputs["hidden_states"], golden.inputs.get("attention_mask")
    if mask is None:
        return x, None, None
    mask = mask.view(x.shape[:2])
    return x, mask >= 0, mask > 0


def _longformer_output(module: nn.Module, golden: Golden) -> Tensor:
    return module(*_longformer_inputs(golden))


def _longformer_with_weights(module: nn.Module, golden: Golden) -> dict[str, Tensor]:
    """Weights in the published form: columns of the global tokens, then the window's slots."""
    x, key_mask, global_mask = _longformer_inputs(golden)
    dense = module.weights(x, key_mask, global_mask).transpose(1, 2)  # (B, N, h, N)
    batch, tokens = x.shape[:2]
    probs = torch.zeros_like(golden.outputs["probs"])
    width = 2 * module.window + 1
    for b in range(batch):
        marked = [] if global_mask is None else global_mask[b].nonzero()[:, 0].tolist()
        for i in range(tokens):
            if i in marked:  # published: the window's weights of a global query are zeroed
                continue
            probs[b, i, :, : len(marked)] = dense[b, i][:, marked]
            for slot in range(width):
                j = i + slot - module.window
                if 0 <= j < tokens and j not in marked:
                    probs[b, i, :, slot - width] = dense[b, i, :, j]
    return {"y": module(x, key_mask, global_mask), "probs": probs}


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


def _map_of(height: int, width: int) -> Callable[[nn.Module, Golden], Tensor]:
    """The published module takes and gives the tokens of a map of this size."""
    return lambda module, golden: (
        module(golden.inputs["x"].mT.unflatten(2, (height, width))).flatten(2).mT
    )


def _locally_grouped(dim: int, num_heads: int, ws: int, qkv_bias: bool) -> nn.Module:
    return LocallyGroupedAttention(dim, num_heads, ws, qkv_bias=qkv_bias)


def _axial(dim: int, heads: int, sum_axial_out: bool, **_: int) -> AxialAttention:
    return AxialAttention(dim, heads, sum_axial_out=sum_axial_out)


def _shuffle(relative_pos_embedding: bool, **options: Any) -> ShuffleAttention:
    return ShuffleAttention(**options, rel_pos_bias=relative_pos_embedding)


def _messengers(module: nn.Module, golden: Golden) -> Tensor:
    """Four windows of 3 x 3 cells, each with its messenger in front: a map of 6 x 6."""
    x = golden.inputs["x"]  # (B, n, 1 + T, C)
    cells = window_merge(x[:, :, 1:], (3, 3), (6, 6)).permute(0, 3, 1, 2)
    cells, messengers = module.exchange(cells, x[:, :, 0])
    cells = window_partition(cells.permute(0, 2, 3, 1), (3, 3))
    return torch.cat([messengers[:, :, None], cells], 2)


ROWS = [
    Row("nat_attention_k3", NeighborhoodAttention, _channels_last),
    Row("nat_attention_k3d2", NeighborhoodAttention, _channels_last),
    Row("nat_attention_k5", NeighborhoodAttention, _channels_last),
    Row("cswin_lepe_attention_h", _cross_shaped, _cross_shaped_branch, _cross_shaped_weights),
    Row("cswin_lepe_attention_v", _cross_shaped, _cross_shaped_branch, _cross_shaped_weights),
    Row("pvt_sra", SpatialReductionAttention, _map_of(6, 8)),
    Row("xcit_xca", CrossCovarianceAttention),
    Row(
        "xcit_lpi",
        lambda in_features: LocalPatchInteraction(in_features),
        _map_of(5, 6),
        mechanism="cross_covariance",
    ),
    Row("axial_attention_seq", _axial, _channels_last),
    Row("shuffle_attention_shuf", _shuffle),
    Row("msg_window_attention", MessengerAttention, _messengers),
    Row("twins_lsa", _locally_grouped, _map_of(6, 9)),
    Row("pale_attention_p2", PaleAttention),
    Row("pale_block", PaleAttention, _pale_block, _within("attn.")),
    *(
        Row(case, _longformer, _longformer_output)
        for case in (
            "longformer_sliding_chunks",
            "longformer_sliding_chunks_g",
            "longformer_tvm",
            "longformer_tvm_dil2",
            "longformer_tvm_g",
            "longformer_tvm_gp",
        )
    ),
    *(
        Row(case, _longformer, _longformer_with_weights)
        for case in ("hf_longformer_self", "hf_longformer_self_g", "hf_longformer_self_gp")
    ),
    Row("sasa_attention_port", _stand_alone),
    Row("swin_block_shift", _swin_attention, _swin_block, _within("attn.")),
]

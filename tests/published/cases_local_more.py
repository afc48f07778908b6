"""Local attention beyond plain dot products."""

from __future__ import annotations

from torch import Tensor, nn

from foveate.attention.local.acmix import ACmix
from foveate.attention.local.san_pairwise import PairwiseAttention
from foveate.attention.local.san_patchwise import PatchwiseAttention
from foveate.attention.window.acmix_window import ACmixWindowAttention
from tests.published.golden import Row


def _san(cls: type):
    def build(in_planes: int, rel_planes: int, share_planes: int, kernel_size: int, **_):
        return cls(in_planes, kernel_size, rel_dim=rel_planes, share=share_planes)

    return build


def _acmix(in_planes: int, out_planes: int, head: int, **options):
    return ACmix(
        in_planes,
        head,
        options["kernel_att"],
        options["kernel_conv"],
        dim_out=out_planes,
        stride=options["stride"],
    )


def _channels_last(module: nn.Module, x: Tensor) -> Tensor:
    return module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _acmix_window(dim: int, window_size: list[int], num_heads: int):
    return ACmixWindowAttention(dim, num_heads, tuple(window_size))


ROWS = [
    Row("acmix_k7s1", _acmix),
    Row("acmix_swin_attn", _acmix_window, lambda m, g: _channels_last(m, g.inputs["x"])),
    Row("san_sam_pairwise", _san(PairwiseAttention)),
    Row("san_sam_patchwise", _san(PatchwiseAttention)),
]

"""Local attention: neighbourhoods, slide attention, ACmix, SAN and stand-alone attention."""

from __future__ import annotations

from torch import Tensor, nn

from foveate.attention.local.acmix import ACmix
from foveate.attention.local.neighborhood import NeighborhoodAttention
from foveate.attention.local.san_pairwise import PairwiseAttention
from foveate.attention.local.san_patchwise import PatchwiseAttention
from foveate.attention.local.slide import SlideAttention
from foveate.attention.local.stand_alone import StandAloneAttention
from foveate.layout import map_to_tokens, tokens_to_map
from tests.published.golden import Golden, Row
from tests.published.layouts import channels_last


def _stand_alone(in_channels: int, out_channels: int, kernel_size: int, **_: int) -> nn.Module:
    """A softmax for every channel: heads of one channel, whatever the port calls groups."""
    return StandAloneAttention(in_channels, out_channels, kernel_size, out_dim=out_channels)


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


def _slide(dim: int, num_heads: int, ka: int, **_):
    return SlideAttention(dim, num_heads, ka)


def _dat(dim: int, num_heads: int, ka: int, **options):
    return SlideAttention(
        dim,
        num_heads,
        ka,
        dim_reduction=options.get("dim_reduction", 4),
        share_qkv=options.get("share_qkv", False),
        position_bias=options.get("rpb", True),
    )


class _Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, ka: int, **_) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = SlideAttention(dim, num_heads, ka)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(dim, 4 * dim))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(4 * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + _on_tokens(self.attn, self.norm1(tokens), 6, 6)
        return tokens + self.mlp(self.norm2(tokens))

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        inside = {k.removeprefix("attn."): v for k, v in state.items() if k.startswith("attn.")}
        outside = {k: v for k, v in state.items() if not k.startswith("attn.")}
        converted = self.attn.convert_published(inside)
        return outside | {f"attn.{k}": v for k, v in converted.items()}


def _on_tokens(module: nn.Module, tokens: Tensor, height: int, width: int) -> Tensor:
    like = tokens.new_empty(1, 1, height, width)
    return map_to_tokens(module(tokens_to_map(tokens, height, width, like)))


def _run(module: SlideAttention, golden: Golden) -> Tensor:
    return _on_tokens(module, golden.inputs["x"], *golden.kwargs["input_resolution"])


ROWS = [
    Row("nat_attention_k3", NeighborhoodAttention, channels_last),
    Row("nat_attention_k3d2", NeighborhoodAttention, channels_last),
    Row("nat_attention_k5", NeighborhoodAttention, channels_last),
    Row("sasa_attention_port", _stand_alone),
    Row("acmix_k7s1", _acmix),
    Row("san_sam_pairwise", _san(PairwiseAttention)),
    Row("san_sam_patchwise", _san(PatchwiseAttention)),
    Row("slide_attention_dat", _dat),
    Row("slide_attention_dat_shareqkv", _dat),
    Row("slide_attention_ka3", _slide, _run),
    Row("slide_swin_block", _Block, mechanism="slide"),
]

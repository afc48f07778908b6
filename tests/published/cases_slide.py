"""Slide attention, its variant of DAT, and the block around it."""

from __future__ import annotations

from torch import Tensor, nn

from foveate.attention.local.slide import SlideAttention
from foveate.layout import map_to_tokens, tokens_to_map
from tests.published.golden import Golden, Row


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
    Row("slide_attention_dat", _dat),
    Row("slide_attention_dat_shareqkv", _dat),
    Row("slide_attention_ka3", _slide, _run),
    Row("slide_swin_block", _Block, mechanism="slide"),
]

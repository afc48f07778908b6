"""MSG-Transformer: each window has a messenger, and messengers swap what they know.

    stem /4, then four stages at 1/4, 1/8, 1/16, 1/32; a block is
    [x, m] = [x, m] + attention(norm([x, m]))   inside each window, of its cells and its messenger
    m = shuffle(m)                              slices of channels change places in each region
    [x, m] = [x, m] + mlp(norm([x, m]))

The messengers lie on a grid of their own, one a window, and are down-sampled by the convolution
that down-samples the map. What is classified is the mean of the last stage's messengers.

Shapes: images (B, in_chans, H, W), features (B, C_i, ceil(H / r_i), ceil(W / r_i)), r = 4, 8, 16,
32, messengers (B, C_i, rows, columns) of windows. ``forward_features`` gives (B, 2 C_4, h, w): the
last map and, beside each of its cells, the messenger of the cell's window.

Paper: Fang et al., "MSG-Transformer: Exchanging Local Spatial Information by Manipulating Messenger
Tokens", CVPR 2022, arXiv:2105.15168.
Published code: hustvl/MSG-Transformer@068da56 ``MSGTransformer``, Apache-2.0. It reads one size of
image, which windows and regions must divide; there the last stage is one window. Here windows that
overhang are padded and masked, and their messengers keep the slices for windows beyond the map.
Stochastic depth leaves a branch out for an image, there for a region of windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from timm.layers import DropPath, LayerNorm2d, calculate_drop_path_rates
from timm.models import (
    generate_default_cfgs,
    register_model,
)
from torch import Tensor, nn

from foveate.attention.window._inside import cut_into
from foveate.attention.window.messenger import MessengerAttention, shuffle_messengers
from foveate.contracts import OneStep
from foveate.layout import in_format, map_to_tokens, tokens_to_map
from foveate.models._backbone import (
    Backbone,
    Published,
    Stage,
    State,
    cfg,
    convert_parts,
    create,
    rename,
)
from foveate.models._layers import MapMlp, PatchEmbed, drop_together, init_trunc_normal

__all__ = ["MSGTransformer", "msg_base", "msg_small", "msg_tiny"]

Maps = tuple[Tensor, Tensor]
"""A map (B, C, h, w), and its windows' messengers (B, C, rows, columns)."""


class Stem(OneStep):
    """Patches, and the first messengers: one learned region of them, repeated over the map.

    Args:
        in_chans: channels of the images.
        dim: channels of the output.
        window_size: side of a window.
        region: rows and columns of windows in a region.
    """

    def __init__(self, in_chans: int, dim: int, window_size: int, region: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.patches = PatchEmbed(
            in_chans, dim, 4, LayerNorm2d(dim, eps=1e-5), kernel_size=7, padding=2
        )
        self.messengers = nn.Parameter(torch.empty(1, dim, region, region))
        nn.init.trunc_normal_(self.messengers, std=0.02)

    def forward(self, x: Tensor) -> Maps:
        x = self.patches(x)
        rows, columns = cut_into(tuple(x.shape[2:]), (self.window_size, self.window_size)).grid
        # By number, not cut from a larger one, which ties an exported program to the example's map.
        region = self.messengers.shape[2]
        messengers = self.messengers.index_select(2, _numbers(rows, x) % region)
        messengers = messengers.index_select(3, _numbers(columns, x) % region)
        messengers = messengers.expand(x.shape[0], -1, -1, -1)
        return x, in_format(messengers, torch.channels_last)


def _numbers(n: int, like: Tensor) -> Tensor:
    return torch.arange(n, device=like.device)


class MessengerBlock(OneStep):
    """Attention in windows, an exchange between their messengers, an MLP.

    Args:
        dim: channels.
        num_heads: heads of the attention.
        window_size: side of a window.
        region: rows and columns of windows that exchange messages; 1 for no exchange.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        qkv_bias: whether q, k, v projections have a bias.
        drop: dropout of attention's output and in the MLP.
        attn_drop: dropout of attention's weights.
        drop_path: probability that a branch is left out for a sample.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        region: int,
        mlp_ratio: float,
        qkv_bias: bool,
        drop: float,
        attn_drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.region = region
        self.norm1 = LayerNorm2d(dim, eps=1e-5)
        self.attention = MessengerAttention(
            dim,
            num_heads,
            window_size,
            qkv_bias=qkv_bias,
            own_messenger=False,
            attn_drop=attn_drop,
            proj_drop=drop,
        )
        self.norm2 = LayerNorm2d(dim, eps=1e-5)
        self.mlp = MapMlp(dim, int(dim * mlp_ratio), drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, maps: Maps) -> Maps:
        x, messengers = maps
        rows, columns = messengers.shape[2:]
        y, told = self.attention.exchange(self.norm1(x), map_to_tokens(self.norm1(messengers)))
        told = told.transpose(1, 2).unflatten(2, (rows, columns))
        y, told = drop_together(self.drop_path, y, told)
        x, messengers = x + y, messengers + told
        if self.region > 1:
            tokens = shuffle_messengers(map_to_tokens(messengers), (rows, columns), self.region)
            messengers = tokens_to_map(tokens, rows, columns, like=messengers)
        y, told = self.mlp(self.norm2(x)), self.mlp(self.norm2(messengers))
        y, told = drop_together(self.drop_path, y, told)
        return x + y, messengers + told


class Halve(nn.Module):
    """A convolution of stride 2 and a norm, for the map and for the messengers' grid.

    Args:
        in_chans: channels of the input.
        dim: channels of the output.
    """

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(in_chans, dim, 3, stride=2, padding=1)
        self.norm = LayerNorm2d(dim, eps=1e-5)

    def forward(self, maps: Maps) -> Maps:
        x, messengers = maps
        return self.norm(self.reduction(x)), self.norm(self.reduction(messengers))


class MessengerStage(Stage):
    """A stage whose map alone passes ``map``, where hooks can take it."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None = None) -> None:
        super().__init__(blocks, downsample)
        self.map = nn.Identity()

    def forward(self, maps: Maps) -> Maps:
        x, messengers = super().forward(maps)
        return self.map(x), messengers


class BesideTheirCells(OneStep):
    """``(B, C, h, w)`` and a messenger a window as ``(B, 2 C, h, w)``.

    Args:
        window_size: side of a window.
    """

    def __init__(self, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size

    def forward(self, x: Tensor, messengers: Tensor) -> Tensor:
        rows, columns = (_numbers(n, x) // self.window_size for n in x.shape[2:])
        return torch.cat([x, messengers.index_select(2, rows).index_select(3, columns)], 1)


class MSGTransformer(Backbone):
    """The MSG-Transformer; a timm model in full.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled messengers.
        global_pool: how messengers are pooled, as in timm; ``""`` gives the last map.
        dims: channels a stage.
        depths: blocks a stage.
        num_heads: heads a stage.
        window_size: side of a window.
        regions: rows and columns of windows that exchange messages, a stage.
        shuffle: whether messengers exchange slices.
        mlp_ratio: hidden channels of an MLP over the stage's.
        qkv_bias: whether q, k, v projections have a bias.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout of attention's output and in the MLPs.
        attn_drop_rate: dropout of attention's weights.
        drop_path_rate: stochastic depth, rising to this in the last block.
    """

    spared: ClassVar[tuple[str, ...]] = (*Backbone.spared, "rel_pos_msg", "messengers")

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (2, 4, 12, 4),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        window_size: int = 7,
        regions: Sequence[int] = (4, 4, 2, 1),
        shuffle: bool = True,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for level, dim in enumerate(dims):
            blocks = [
                MessengerBlock(
                    dim,
                    num_heads[level],
                    window_size,
                    regions[level] if shuffle else 1,
                    mlp_ratio,
                    qkv_bias,
                    proj_drop_rate,
                    attn_drop_rate,
                    rate,
                )
                for rate in rates[level]
            ]
            stages.append(MessengerStage(blocks, Halve(dims[level - 1], dim) if level else None))
        super().__init__(
            Stem(in_chans, dims[0], window_size, regions[0]),
            stages,
            dims=dims,
            norm=LayerNorm2d(dims[-1], eps=1e-5),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
        )
        self.window_size = window_size
        self.beside = BesideTheirCells(window_size)
        self.num_features = 2 * dims[-1]
        for info in self.feature_info:
            info["module"] += ".map"
        init_trunc_normal(self, nn.Linear)

    def finish(self, x: Maps) -> Maps:
        """Map and messengers after the final norm."""
        return self.norm(x[0]), self.norm(x[1])

    def as_map(self, x: Maps) -> Tensor:
        """The map of the two."""
        return x[0]

    def as_features(self, x: Maps) -> Tensor:
        """The map, and beside each cell its window's messenger: ``(B, 2 C, h, w)``."""
        return self.beside(*x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Messengers pooled, dropout and, unless ``pre_logits``, the classifier."""
        features, messengers = x.chunk(2, 1)
        if not self.head.global_pool.pool_type:
            return self.head(features, pre_logits=pre_logits)
        one_a_window = messengers[:, :, :: self.window_size, :: self.window_size]
        return self.head(one_a_window, pre_logits=pre_logits)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        take = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        self.num_features = 2 * self.map_channels
        return take

    def convert_published(self, state: State) -> State:
        """The published network's state, whose stages end with the down-sampling of the next."""
        region = self.stem.messengers.shape[2]

        def on_grid(first: Tensor) -> Tensor:
            """``(1, windows of a region, 1, C)`` as ``(1, C, region, region)``."""
            return first.squeeze(2).mT.unflatten(2, (region, region))

        state = {
            key: on_grid(value) if key == "stem.messengers" else value
            for key, value in rename(state, PUBLISHED_NAMES).items()
        }
        return convert_parts(self, state)


PUBLISHED_NAMES = [
    (r"^patch_embed\.", "stem.patches."),
    (r"^msg_tokens$", "stem.messengers"),
    (r"^layers\.(\d)\.downsample\.", lambda found: f"stages.{int(found[1]) + 1}.downsample."),
    (r"^layers\.", "stages."),
    (r"\.attn\.", ".attention."),
    (r"^head\.", "head.fc."),
]

PUBLISHED = {
    "msg_tiny": Published("25M", "3.8G", 82.4, source="README"),
    "msg_small": Published("56M", "8.4G", 83.4, source="README"),
    "msg_base": Published("84M", "14.2G", 84.0, source="README"),
}

_CFG = cfg(
    first_conv="stem.patches.proj",
    license="apache-2.0",
    origin_url="https://github.com/hustvl/MSG-Transformer",
    paper_ids="arXiv:2105.15168",
)

default_cfgs = generate_default_cfgs({f"{name}.untrained": _CFG for name in PUBLISHED})


@register_model
def msg_tiny(pretrained: bool = False, **kwargs: Any) -> MSGTransformer:
    """MSG-Transformer-T: 25 M parameters."""
    return create(MSGTransformer, "msg_tiny", pretrained, **kwargs)


@register_model
def msg_small(pretrained: bool = False, **kwargs: Any) -> MSGTransformer:
    """MSG-Transformer-S: 56 M parameters."""
    sizes = {"dims": (96, 192, 384, 768), "num_heads": (3, 6, 12, 24)}
    return create(MSGTransformer, "msg_small", pretrained, **{**sizes, **kwargs})


@register_model
def msg_base(pretrained: bool = False, **kwargs: Any) -> MSGTransformer:
    """MSG-Transformer-B: 84 M parameters."""
    sizes = {
        "dims": (96, 192, 384, 768),
        "depths": (2, 4, 28, 4),
        "num_heads": (3, 6, 12, 24),
    }
    return create(MSGTransformer, "msg_base", pretrained, **{**sizes, **kwargs})

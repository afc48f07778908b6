"""Pyramid Vision Transformer, the first version: global attention to a map made smaller.

    patches of 4, then of 2 between four stages at 1/4, 1/8, 1/16, 1/32; each with a norm and
    position embeddings; a block is
    x = x + spatial_reduction(norm(x))   attention, see ``foveate.attention.full.spatial_reduction``
    x = x + mlp(norm(x))

A class token joins the last stage, which attends to it and to the whole map. The published networks
for segmentation and detection have none (``class_token=False``).

Shapes: images (B, in_chans, H, W), features (B, C_i, ceil(H / r_i), ceil(W / r_i)), r = 4, 8, 16,
32. Position embeddings are resampled to the map.

Paper: Wang et al., "Pyramid Vision Transformer", ICCV 2021, arXiv:2102.12122.
Published code: whai362/PVT@57e2dfa ``PyramidVisionTransformer`` of pvt.py (Apache-2.0). It leaves
out pixels that patches do not fill, which are padded here. Its second version is timm's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from timm.layers import LayerNorm2d, calculate_drop_path_rates, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import pair
from foveate.contracts import OneStep
from foveate.layout import map_to_tokens, to_channels_last, tokens_to_map
from foveate.models._backbone import (
    Published,
    Stage,
    State,
    cfg,
    convert_parts,
    create,
    rename,
)
from foveate.models._class_token import MapAndToken, TokenBackbone
from foveate.models._layers import Block, PatchEmbed, check_stages, create_mixer, init_trunc_normal

__all__ = ["PyramidVisionTransformer", "pvt_large", "pvt_medium", "pvt_small", "pvt_tiny"]


class PlacedPatches(PatchEmbed):
    """Patches, a norm, and an embedding of every position.

    Args:
        in_chans: channels of the input.
        dim: channels of the output.
        patch_size: side of a patch.
        size: height and width of the map that has an embedding of its own at every position;
            others have them resampled. So are those of a checkpoint made for another size.
    """

    def __init__(self, in_chans: int, dim: int, patch_size: int, size: tuple[int, int]) -> None:
        super().__init__(in_chans, dim, patch_size, LayerNorm2d(dim, eps=1e-5))
        self.pos_embed = nn.Parameter(torch.zeros(1, dim, *size))
        trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x + _resample(self.pos_embed, x.shape[2:])

    def _load_from_state_dict(self, state_dict: State, prefix: str, *args: Any) -> None:
        name = f"{prefix}pos_embed"
        if name in state_dict and state_dict[name].dim() == 4:
            state_dict[name] = _resample(state_dict[name], self.pos_embed.shape[2:])
        super()._load_from_state_dict(state_dict, prefix, *args)


def _resample(positions: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(positions, size, mode="bilinear")


class PatchesAndToken(OneStep):
    """Patches at their positions, and a class token: ``(B, C, h, w)`` and ``(B, C)``.

    Args:
        patches: makes the map.
        dim: its channels.
    """

    def __init__(self, patches: PlacedPatches, dim: int) -> None:
        super().__init__()
        self.patches = patches
        self.cls_token = nn.Parameter(torch.zeros(1, dim))
        self.cls_pos_embed = nn.Parameter(torch.zeros(1, dim))
        trunc_normal_(self.cls_token, std=0.02)
        trunc_normal_(self.cls_pos_embed, std=0.02)

    def forward(self, x: Tensor) -> MapAndToken:
        return self.patches(x), (self.cls_token + self.cls_pos_embed).expand(x.shape[0], -1)


class TokenStage(OneStep, Stage):
    """Blocks of full attention on a map and a class token, which they see as a row of positions."""

    def forward(self, x: Tensor) -> MapAndToken:
        features, token = self.downsample(x)
        tokens = torch.cat([token[:, None], map_to_tokens(features)], 1)  # (B, 1 + h*w, C)
        row = self.run(tokens[:, None].permute(0, 3, 1, 2))  # (B, C, 1, 1 + h*w)
        tokens = to_channels_last(row)[:, 0]
        return tokens_to_map(tokens[:, 1:], *features.shape[2:], like=features), tokens[:, 0]


class PyramidVisionTransformer(TokenBackbone):
    """The backbone of PVT, with another mechanism in the first stages if asked for.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: ``"token"`` classifies the class token; others, as in timm, pool the last map.
        class_token: whether there is a class token; without one ``"token"`` is ``"avg"``.
        img_size: height and width of the images that position embeddings are laid out for.
        depths: blocks a stage.
        dims: channels a stage.
        num_heads: heads a stage.
        sr_ratios: how many times smaller the map is made a stage; 1 in the last.
        attention: mechanism a stage, by name; ``"spatial_reduction"`` in the last.
        mlp_ratios: hidden channels of the MLP over the stage's, a stage.
        qkv_bias: whether q, k, v projections have a bias.
        qk_scale: factor of the products of queries and keys; ``head_dim**-0.5`` if None.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout in the blocks.
        attn_drop_rate: dropout of the attention weights.
        drop_path_rate: stochastic depth, rising to this in the last block.

    Raises:
        ValueError: if the last stage, which has the class token, is not left to full attention.
    """

    spared = ("cls_token", "position_bias")
    dense_options: ClassVar[dict[str, Any]] = {"class_token": False}

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        class_token: bool = True,
        img_size: int | tuple[int, int] = 224,
        depths: Sequence[int] = (3, 4, 6, 3),
        dims: Sequence[int] = (64, 128, 320, 512),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        attention: Sequence[str] = ("spatial_reduction",) * 4,
        mlp_ratios: Sequence[float] = (8.0, 8.0, 4.0, 4.0),
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_stages(
            depths=depths,
            dims=dims,
            num_heads=num_heads,
            sr_ratios=sr_ratios,
            attention=attention,
            mlp_ratios=mlp_ratios,
        )
        if attention[-1] != "spatial_reduction" or sr_ratios[-1] != 1:
            raise ValueError(
                "the last stage attends to the class token and the whole map, by "
                f"'spatial_reduction' with a ratio of 1; got {attention[-1]!r} with {sr_ratios[-1]}"
            )
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)

        def block(level: int, rate: float) -> Block:
            mixer = create_mixer(
                attention[level],
                dims[level],
                {} if qk_scale is None else {"qk_scale": qk_scale},
                num_heads=num_heads[level],
                qkv_bias=qkv_bias,
                attn_drop=attn_drop_rate,
                proj_drop=proj_drop_rate,
                sr_ratio=sr_ratios[level],
            )
            return Block(dims[level], mixer, mlp_ratios[level], proj_drop_rate, rate, eps=1e-6)

        def patches(level: int) -> PlacedPatches:
            height, width = (-(-side // 2 ** (level + 2)) for side in pair(img_size, "img_size"))
            dim_in, patch_size = (dims[level - 1], 2) if level else (in_chans, 4)
            return PlacedPatches(dim_in, dims[level], patch_size, (height, width))

        blocks = [[block(level, rate) for rate in rates[level]] for level in range(4)]
        super().__init__(
            patches(0),
            [
                Stage(blocks[0]),
                Stage(blocks[1], patches(1)),
                Stage(blocks[2], patches(2)),
                TokenStage(blocks[3], PatchesAndToken(patches(3), dims[3]))
                if class_token
                else Stage(blocks[3], patches(3)),
            ],
            dims=dims,
            norm=LayerNorm2d(dims[-1], eps=1e-6),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool="avg" if global_pool == "token" and not class_token else global_pool,
            class_token=class_token,
            drop_rate=drop_rate,
        )
        init_trunc_normal(self, nn.Linear)

    def convert_published(self, state: State) -> State:
        """The published names under ours; the embeddings of positions as maps.

        Without a class token its own embedding is left out, which the published networks for dense
        predictions keep and do not use.
        """
        last = "stages.3.downsample.patches" if self.class_token else "stages.3.downsample"
        rules = [
            (r"^(patch_embed|pos_embed)1", r"stem.\1"),
            (
                r"^(patch_embed|pos_embed)(2|3)",
                lambda m: f"stages.{int(m[2]) - 1}.downsample.{m[1]}",
            ),
            (r"^(patch_embed|pos_embed)4", rf"{last}.\1"),
            (r"\.patch_embed\.", "."),
            (r"^cls_token$", "stages.3.downsample.cls_token"),
            (r"^block(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks."),
            (r"\.attn\.", ".attention."),
            (r"^head\.(weight|bias)$", r"head.fc.\1"),
        ]
        sizes = {
            key: (value.shape[2], value.shape[3])
            for key, value in self.named_parameters()
            if key.endswith(".pos_embed")
        }
        converted = {}
        for key, value in rename(state, rules).items():
            if key == f"{last}.pos_embed":
                if self.class_token:
                    converted["stages.3.downsample.cls_pos_embed"] = value[:, 0]
                value = value[:, 1:]
            if key in sizes:
                value = _resample(_as_map(value, sizes[key]), sizes[key])
            converted[key] = value.flatten(1) if key.endswith(".cls_token") else value
        return convert_parts(self, converted)


def _as_map(positions: Tensor, size: tuple[int, int]) -> Tensor:
    """Embeddings ``(1, N, C)`` of a map of ``size``, or else a square one, as ``(1, C, h, w)``."""
    count = positions.shape[1]
    side = math.isqrt(count)
    height, width = size if size[0] * size[1] == count else (side, count // side)
    return positions.unflatten(1, (height, width)).permute(0, 3, 1, 2)


_SOURCE = "README of the published code and table 2 of the paper"
PUBLISHED = {
    "pvt_tiny": Published("13.2M", "1.9G", 75.1, source=_SOURCE),
    "pvt_small": Published("24.5M", "3.8G", 79.8, source=_SOURCE),
    "pvt_medium": Published("44.2M", "6.7G", 81.2, source=_SOURCE),
    "pvt_large": Published("61.4M", "9.8G", 81.7, source=_SOURCE),
}

_ORIGIN = "https://github.com/whai362/PVT"
default_cfgs = generate_default_cfgs(
    {
        f"{name}.in1k": cfg(
            url=f"{_ORIGIN}/releases/download/v2/{name}.pth",
            origin_url=_ORIGIN,
            paper_ids="arXiv:2102.12122",
            license="apache-2.0",
            first_conv="stem.proj",
        )
        for name in PUBLISHED
    }
)


@register_model
def pvt_tiny(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Tiny."""
    sizes = {"depths": (2, 2, 2, 2)}
    return create(PyramidVisionTransformer, "pvt_tiny", pretrained, **{**sizes, **kwargs})


@register_model
def pvt_small(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Small."""
    return create(PyramidVisionTransformer, "pvt_small", pretrained, **kwargs)


@register_model
def pvt_medium(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Medium."""
    sizes = {"depths": (3, 4, 18, 3)}
    return create(PyramidVisionTransformer, "pvt_medium", pretrained, **{**sizes, **kwargs})


@register_model
def pvt_large(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """PVT-Large."""
    sizes = {"depths": (3, 8, 27, 3)}
    return create(PyramidVisionTransformer, "pvt_large", pretrained, **{**sizes, **kwargs})

"""CvT: convolutions embed the tokens of every stage and project them to queries, keys and values.

    patches of 7x7 by 4, then of 3x3 by 2, before three stages at 1/4, 1/8, 1/16; a block is
    x = x + attention(norm(x))      see ``foveate.attention.full.convolutional_projection``
    x = x + mlp(norm(x))

A class token joins the last stage. Convolutions take the place of position embeddings.

Shapes: images (B, in_chans, H, W), features (B, C_i, ceil(H / r_i), ceil(W / r_i)), r = 4, 8, 16.

Paper: Wu et al., "CvT: Introducing Convolutions to Vision Transformers", ICCV 2021,
arXiv:2103.15808.
Published code: microsoft/CvT@f851e68 ``ConvolutionalVisionTransformer`` (experiments/imagenet/cvt),
MIT. Stochastic depth rises in the last stage alone, as there. It leaves out pixels that patches of
the stem do not fill, which are padded here, and its classifier refuses a batch of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import LayerNorm2d, QuickGELU, calculate_drop_path_rates, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from foveate.attention.full.convolutional_projection import ConvolutionalProjectionAttention
from foveate.contracts import OneStep
from foveate.models._backbone import Published, Stage, State, cfg, convert_parts, create, rename
from foveate.models._class_token import MapAndToken, TokenBackbone
from foveate.models._layers import (
    Block,
    PatchEmbed,
    check_stages,
    drop_together,
    init_trunc_normal,
)

__all__ = ["CvT", "cvt_13", "cvt_21", "cvt_w24"]


class TokenBlock(OneStep, Block):
    """The residual block on a map and a class token ``(B, C, 1, 1)``."""

    def forward(self, x: MapAndToken) -> MapAndToken:
        features, token = x
        row = self.norm1(token).flatten(2).mT  # (B, 1, C)
        y, told = self.attention.forward_with_class_token(self.norm1(features), row)
        y, told = drop_together(self.drop_path, y, told.mT[..., None])
        features, token = features + y, token + told
        y, told = self.mlp(self.norm2(features)), self.mlp(self.norm2(token))
        y, told = drop_together(self.drop_path, y, told)
        return features + y, token + told


class TokenStage(Stage):
    """A stage that gives its map, which alone passes ``map``, and a class token.

    Args:
        dim: channels.
        blocks: run in order on map and token.
        downsample: what comes before them, on the map.
    """

    def __init__(self, dim: int, blocks: Sequence[nn.Module], downsample: nn.Module) -> None:
        super().__init__(blocks, downsample)
        self.cls_token = nn.Parameter(torch.zeros(1, dim, 1, 1))
        trunc_normal_(self.cls_token, std=0.02)
        self.map = nn.Identity()

    def forward(self, x: Tensor) -> MapAndToken:
        x = self.downsample(x)
        features, token = self.run((x, self.cls_token.repeat(x.shape[0], 1, 1, 1)))
        return self.map(features), token.flatten(1)


class CvT(TokenBackbone):
    """The convolutional vision transformer; a timm model in full.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: ``"token"`` classifies the class token; others, as in timm, pool the last map.
        dims: channels a stage.
        depths: blocks a stage.
        num_heads: heads a stage.
        mlp_ratio: hidden channels of an MLP over the stage's.
        qkv_bias: whether q, k, v projections have a bias.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout of attention's output and in the MLPs.
        attn_drop_rate: dropout of attention's weights.
        drop_path_rate: stochastic depth, rising to this through the last stage.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        dims: Sequence[int] = (64, 192, 384),
        depths: Sequence[int] = (1, 2, 10),
        num_heads: Sequence[int] = (1, 3, 6),
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_stages(dims=dims, depths=depths, num_heads=num_heads)

        def blocks(level: int, kind: type[Block], rate: float) -> list[nn.Module]:
            dim = dims[level]
            return [
                kind(
                    dim,
                    ConvolutionalProjectionAttention(
                        dim,
                        num_heads[level],
                        qkv_bias=qkv_bias,
                        attn_drop=attn_drop_rate,
                        proj_drop=proj_drop_rate,
                    ),
                    mlp_ratio,
                    proj_drop_rate,
                    drop_path,
                    act=QuickGELU,
                )
                for drop_path in calculate_drop_path_rates(rate, depths[level])
            ]

        def patches(level: int) -> PatchEmbed:
            norm = LayerNorm2d(dims[level], eps=1e-5)
            if level:
                return PatchEmbed(dims[level - 1], dims[level], 2, norm, kernel_size=3)
            return PatchEmbed(in_chans, dims[0], 4, norm, kernel_size=7, padding=2)

        last = len(dims) - 1
        stages: list[Stage] = [
            Stage(blocks(level, Block, 0.0), patches(level) if level else None)
            for level in range(last)
        ]
        stages.append(TokenStage(dims[-1], blocks(last, TokenBlock, drop_path_rate), patches(last)))
        super().__init__(
            patches(0),
            stages,
            dims=dims,
            reductions=[4 * 2**level for level in range(len(dims))],
            norm=LayerNorm2d(dims[-1], eps=1e-5),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
        )
        self.feature_info[-1]["module"] += ".map"
        init_trunc_normal(self, nn.Linear)

    def convert_published(self, state: State) -> State:
        """The published network's state, whose stages begin with their patches."""
        state = {
            key: value.mT[..., None] if key.endswith(".cls_token") else value
            for key, value in rename(state, PUBLISHED_NAMES).items()
        }
        return convert_parts(self, state)


PUBLISHED_NAMES = [
    (r"^stage0\.patch_embed\.", "stem."),
    (r"^stage(\d)\.patch_embed\.", r"stages.\1.downsample."),
    (r"^stage(\d)\.", r"stages.\1."),
    (r"\.attn\.", ".attention."),
    (r"^head\.", "head.fc."),
]

_ROUNDED = "the README rounds down: its code has {} as well; at 384 x 384 both agree, {}"

PUBLISHED = {
    "cvt_13": Published(
        "20M", "4.5G", 81.6, source="README", note=_ROUNDED.format("4.57G", "16.3G")
    ),
    "cvt_21": Published(
        "32M", "7.1G", 82.5, source="README", note=_ROUNDED.format("7.18G", "24.9G")
    ),
    "cvt_w24": Published(
        "277M", "193.2G", 87.6, (384, 384), source="README, trained on ImageNet-22k first"
    ),
}

_CFG = cfg(
    first_conv="stem.proj",
    pool_size=(14, 14),
    license="mit",
    origin_url="https://github.com/microsoft/CvT",
    paper_ids="arXiv:2103.15808",
)

default_cfgs = generate_default_cfgs(
    {
        "cvt_13.untrained": _CFG,
        "cvt_21.untrained": _CFG,
        "cvt_w24.untrained": {
            **_CFG,
            "input_size": (3, 384, 384),
            "pool_size": (24, 24),
            "crop_pct": 1.0,
            "crop_mode": "squash",
        },
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> CvT:
    kwargs.setdefault("out_indices", (0, 1, 2))
    return create(CvT, variant, pretrained, **kwargs)


@register_model
def cvt_13(pretrained: bool = False, **kwargs: Any) -> CvT:
    """CvT-13: 20 M parameters."""
    return _create("cvt_13", pretrained, **kwargs)


@register_model
def cvt_21(pretrained: bool = False, **kwargs: Any) -> CvT:
    """CvT-21: 32 M parameters."""
    return _create("cvt_21", pretrained, **{"depths": (1, 4, 16), **kwargs})


@register_model
def cvt_w24(pretrained: bool = False, **kwargs: Any) -> CvT:
    """CvT-W24: 277 M parameters."""
    sizes = {"dims": (192, 768, 1024), "depths": (2, 2, 20), "num_heads": (3, 12, 16)}
    return _create("cvt_w24", pretrained, **{**sizes, **kwargs})

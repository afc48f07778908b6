"""CSWin: a pyramid whose blocks attend in upright and level stripes, wider stage by stage.

    stem 7x7/4, then four stages at 1/4, 1/8, 1/16, 1/32, joined by 3x3/2 convolutions, each with a
    norm; stripes of 1, 2, 7 cells, and the whole map in the last stage; a block is
    x = x + cross_shaped(norm(x))   attention, see ``foveate.attention.window.cross_shaped``
    x = x + mlp(norm(x))

Shapes: images (B, in_chans, H, W), features (B, C_i, ceil(H / r_i), ceil(W / r_i)), r = 4, 8, 16,
32. Maps that stripes do not divide are padded, and the padding is not attended.

Paper: Dong et al., "CSWin Transformer", CVPR 2022, arXiv:2107.00652.
Published code: microsoft/CSWin-Transformer@f111ae2 ``CSWinTransformer`` (MIT). Its models for 384
pixels differ in the stripes of the third stage, of 12 cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import LayerNorm2d, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import nn

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
from foveate.models._layers import Block, PatchEmbed, check_stages, create_mixer, init_trunc_normal

__all__ = [
    "CSWinTransformer",
    "cswin_base",
    "cswin_base_384",
    "cswin_large",
    "cswin_large_384",
    "cswin_small",
    "cswin_tiny",
]


class CSWinTransformer(Backbone):
    """The backbone of CSWin, with another mechanism in some stages if asked for.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm; ``""`` keeps the map.
        depths: blocks a stage.
        dims: channels a stage.
        num_heads: heads a stage.
        split_size: width of the stripes a stage; None for the whole map.
        attention: mechanism a stage, by name.
        mlp_ratio: hidden channels of the MLP over the stage's.
        qkv_bias: whether q, k, v projections have a bias.
        qk_scale: factor of the products of queries and keys; ``head_dim**-0.5`` if None.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout in the blocks.
        attn_drop_rate: dropout of the attention weights.
        drop_path_rate: stochastic depth, rising to this in the last block.
    """

    dense_norms = True

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (1, 2, 21, 1),
        dims: Sequence[int] = (64, 128, 256, 512),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        split_size: Sequence[int | None] = (1, 2, 7, None),
        attention: Sequence[str] = ("cross_shaped",) * 4,
        mlp_ratio: float = 4.0,
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
            split_size=split_size,
            attention=attention,
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
                split_size=split_size[level],
            )
            return Block(dims[level], mixer, mlp_ratio, proj_drop_rate, rate)

        stages = [
            Stage(
                [block(level, rate) for rate in rates[level]],
                PatchEmbed(dims[level - 1], dim, 2, _norm(dim), kernel_size=3) if level else None,
            )
            for level, dim in enumerate(dims)
        ]
        super().__init__(
            PatchEmbed(in_chans, dims[0], 4, _norm(dims[0]), kernel_size=7, padding=2),
            stages,
            dims=dims,
            norm=_norm(dims[-1]),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
        )
        init_trunc_normal(self, nn.Linear)

    def convert_published(self, state: State) -> State:
        """The published names under ours."""
        merging = [
            (rf"^merge{level}\.(conv|norm)\.", rf"stages.{level}.downsample.\1.")
            for level in (1, 2, 3)
        ]
        blocks = [
            (rf"^stage{level + 1}\.(\d+)\.", rf"stages.{level}.blocks.\1.") for level in range(4)
        ]
        rules = [
            (r"^stage1_conv_embed\.0\.", "stem.proj."),
            (r"^stage1_conv_embed\.2\.", "stem.norm."),
            *merging,
            (r"\.downsample\.conv\.", ".downsample.proj."),
            *blocks,
            (r"(\.blocks\.\d+)\.(qkv|proj|attns)\.", r"\1.attention.\2."),
            (r"^head\.(weight|bias)$", r"head.fc.\1"),
        ]
        return convert_parts(self, rename(state, rules))


def _norm(dim: int) -> nn.Module:
    return LayerNorm2d(dim, eps=1e-5)


_SOURCE = "README of the published code"
_22K = f"{_SOURCE}, after training on ImageNet-22K"
_ROUNDED = "The published code has 22.3M, as here."
_COSTS = "The published code costs {}, as here, by the count that gives the base variant's figure."
PUBLISHED = {
    "cswin_tiny": Published("23M", "4.3G", 82.8, source=_SOURCE, note=_ROUNDED),
    "cswin_small": Published("35M", "6.9G", 83.6, source=_SOURCE, note=_COSTS.format("6.8G")),
    "cswin_base": Published("78M", "15.0G", 84.2, source=_SOURCE),
    "cswin_base_384": Published("78M", "47.0G", 85.5, (384, 384), _SOURCE),
    "cswin_large": Published("173M", "31.5G", 86.5, source=_22K, note=_COSTS.format("33.1G")),
    "cswin_large_384": Published("173M", "96.8G", 87.5, (384, 384), _22K, _COSTS.format("101.9G")),
}


def _cfg(file: str, **kwargs: Any) -> dict[str, Any]:
    origin = "https://github.com/microsoft/CSWin-Transformer"
    return cfg(
        url=f"{origin}/releases/download/v0.1.0/{file}.pth",
        origin_url=origin,
        paper_ids="arXiv:2107.00652",
        license="mit",
        **{"crop_pct": 0.9, "first_conv": "stem.proj", **kwargs},
    )


_384 = {"input_size": (3, 384, 384), "pool_size": (12, 12), "crop_pct": 1.0}
default_cfgs = generate_default_cfgs(
    {
        "cswin_tiny.ms_in1k": _cfg("cswin_tiny_224"),
        "cswin_small.ms_in1k": _cfg("cswin_small_224"),
        "cswin_base.ms_in1k": _cfg("cswin_base_224"),
        "cswin_base_384.ms_in1k": _cfg("cswin_base_384", **_384),
        "cswin_large.ms_in22k_ft_in1k": _cfg("cswin_large_224"),
        "cswin_large_384.ms_in22k_ft_in1k": _cfg("cswin_large_384", **_384),
    }
)


_BASE = {"depths": (2, 4, 32, 2), "dims": (96, 192, 384, 768), "num_heads": (4, 8, 16, 32)}
_LARGE = {
    "depths": (2, 4, 32, 2),
    "dims": (144, 288, 576, 1152),
    "num_heads": (6, 12, 24, 24),
}
_WIDE = {"split_size": (1, 2, 12, None)}


@register_model
def cswin_tiny(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """CSWin-T."""
    return create(CSWinTransformer, "cswin_tiny", pretrained, **kwargs)


@register_model
def cswin_small(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """CSWin-S."""
    sizes = {"depths": (2, 4, 32, 2)}
    return create(CSWinTransformer, "cswin_small", pretrained, **{**sizes, **kwargs})


@register_model
def cswin_base(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """CSWin-B."""
    return create(CSWinTransformer, "cswin_base", pretrained, **{**_BASE, **kwargs})


@register_model
def cswin_base_384(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """CSWin-B for 384 pixels."""
    return create(CSWinTransformer, "cswin_base_384", pretrained, **{**_BASE, **_WIDE, **kwargs})


@register_model
def cswin_large(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """CSWin-L."""
    return create(CSWinTransformer, "cswin_large", pretrained, **{**_LARGE, **kwargs})


@register_model
def cswin_large_384(pretrained: bool = False, **kwargs: Any) -> CSWinTransformer:
    """CSWin-L for 384 pixels."""
    sizes = {**_LARGE, **_WIDE}
    return create(CSWinTransformer, "cswin_large_384", pretrained, **{**sizes, **kwargs})

"""NAT: neighborhood attention in four stages.

    two 3x3 / 2 convolutions, norm -> stages at 1/4, 1/8, 1/16, 1/32, a 3x3 / 2 convolution between
    a block:   x = x + attention(norm(x)),   x = x + mlp(norm(x))

Every position attends to its 7 x 7 nearest ones. The larger variants scale each branch by a learned
factor per channel.

Shapes: images (B, in_chans, H, W) of any size, features (B, C_i, ceil(H / r_i), ceil(W / r_i)) with
r = 4, 8, 16, 32. A map smaller than the neighbourhood is padded to it, as published.

Paper: Hassani et al., "Neighborhood Attention Transformer", CVPR 2023, arXiv:2204.07143.
Published code: SHI-Labs/Neighborhood-Attention-Transformer@d334f5b ``NAT`` (MIT).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import LayerNorm2d
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from foveate.attention.local.neighborhood import NeighborhoodAttention
from foveate.layout import in_format
from foveate.models._backbone import Published, cfg, create
from foveate.models._swin import Swin


class Tokenizer(nn.Module):
    """Two convolutions of stride 2 and a norm.

    Args:
        in_chans: channels of the images.
        dim: channels of the map at a quarter of their size.
    """

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1),
            nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1),
        )
        self.norm = LayerNorm2d(dim, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(in_format(x, torch.channels_last)))


class Halving(nn.Module):
    """A convolution of stride 2 and a norm.

    Args:
        in_chans: channels of the map.
        dim: channels of the map at half its size.
    """

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Conv2d(in_chans, dim, 3, stride=2, padding=1, bias=False)
        self.norm = LayerNorm2d(dim, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(x))


class NAT(Swin):
    """Neighborhood attention in four stages.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm; ``""`` keeps the map.
        embed_dim: channels of the first stage; each further stage doubles them.
        depths: blocks a stage.
        num_heads: heads a stage.
        kernel_size: height and width of a neighbourhood.
        dilations: of each block of each stage; all 1 if None.
        mlp_ratio: hidden channels of the MLP over the stage's.
        qkv_bias: whether q, k, v projections have a bias.
        qk_scale: factor of the products of queries and keys; ``head_dim**-0.5`` if None.
        attn_drop_rate: dropout of the attention weights.
        proj_drop_rate: dropout in the attentions and the MLPs.
        attend: the attention of a block, from its stage, its number in the stage, the channels and
            the heads; neighborhood attention if None.
        **kwargs: as in Swin: ``drop_rate``, ``drop_path_rate``, ``layer_scale``.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        embed_dim: int = 64,
        depths: Sequence[int] = (3, 4, 6, 5),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        kernel_size: int = 7,
        dilations: Sequence[Sequence[int]] | None = None,
        mlp_ratio: float = 3.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attend: Callable[[int, int, int, int], nn.Module] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            attend
            or neighborhoods(
                kernel_size,
                dilations,
                qkv_bias=qkv_bias,
                qk_scale=qk_scale,
                attn_drop=attn_drop_rate,
                proj_drop=proj_drop_rate,
            ),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            embed_dim=embed_dim,
            depths=depths,
            num_heads=num_heads,
            stem=Tokenizer(in_chans, embed_dim),
            halve=Halving,
            mlp_ratio=mlp_ratio,
            proj_drop_rate=proj_drop_rate,
            **kwargs,
        )


def neighborhoods(
    kernel_size: int, dilations: Sequence[Sequence[int]] | None, **options: Any
) -> Callable[[int, int, int, int], nn.Module]:
    """The neighborhood attention of every block.

    Args:
        kernel_size: height and width of a neighbourhood.
        dilations: of each block of each stage; all 1 if None.
        **options: of every attention.
    """

    def attend(level: int, index: int, dim: int, heads: int) -> nn.Module:
        dilation = 1 if dilations is None else dilations[level][index]
        return NeighborhoodAttention(dim, heads, kernel_size, dilation, **options)

    return attend


_SOURCE = "README of the published code"
PUBLISHED = {
    "nat_mini": Published("20M", "2.7G", 81.8, source=_SOURCE),
    "nat_tiny": Published("28M", "4.3G", 83.2, source=_SOURCE),
    "nat_small": Published("51M", "7.8G", 83.7, source=_SOURCE),
    "nat_base": Published("90M", "13.7G", 84.3, source=_SOURCE),
}

_REPOSITORY = "https://github.com/SHI-Labs/Neighborhood-Attention-Transformer"
_WEIGHTS = "https://shi-labs.com/projects/nat/checkpoints/CLS"

default_cfgs = generate_default_cfgs(
    {
        f"{name}.in1k": cfg(
            url=f"{_WEIGHTS}/{name}.pth",
            origin_url=_REPOSITORY,
            license="mit",
            first_conv="stem.proj.0",
        )
        for name in PUBLISHED
    }
)


WIDE: dict[str, dict[str, Any]] = {
    name: {
        "embed_dim": embed_dim,
        "depths": (3, 4, 18, 5),
        "num_heads": tuple(embed_dim // 32 << stage for stage in range(4)),
        "mlp_ratio": 2.0,
    }
    for name, embed_dim in (("small", 96), ("base", 128), ("large", 192))
}
"""Sizes of the wider variants, of all kinds of NAT."""


@register_model
def nat_mini(pretrained: bool = False, **kwargs: Any) -> NAT:
    """NAT-Mini."""
    return create(NAT, "nat_mini", pretrained, **kwargs)


@register_model
def nat_tiny(pretrained: bool = False, **kwargs: Any) -> NAT:
    """NAT-Tiny."""
    return create(NAT, "nat_tiny", pretrained, **{"depths": (3, 4, 18, 5), **kwargs})


@register_model
def nat_small(pretrained: bool = False, **kwargs: Any) -> NAT:
    """NAT-Small."""
    sizes = {**WIDE["small"], "layer_scale": 1e-5}
    return create(NAT, "nat_small", pretrained, **{**sizes, **kwargs})


@register_model
def nat_base(pretrained: bool = False, **kwargs: Any) -> NAT:
    """NAT-Base."""
    sizes = {**WIDE["base"], "layer_scale": 1e-5}
    return create(NAT, "nat_base", pretrained, **{**sizes, **kwargs})

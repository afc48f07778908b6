"""DiNAT: NAT whose blocks dilate their neighbourhoods in turn.

    dilations of a stage's blocks:   1, d, 1, d, ...   with d = 8, 4, 2, 1 at 1/4, 1/8, 1/16, 1/32

With these, at 224 x 224, every second block reaches across the whole map. DiNAT_s is the same in
Swin's network: patches, their merging, wider MLPs.

Shapes: images (B, in_chans, H, W) of any size, features (B, C_i, ceil(H / r_i), ceil(W / r_i)) with
r = 4, 8, 16, 32. A map smaller than a dilated neighbourhood is padded to it, as published.

Paper: Hassani and Shi, "Dilated Neighborhood Attention Transformer", arXiv:2209.15001.
Published code: SHI-Labs/Neighborhood-Attention-Transformer@d334f5b ``DiNAT``, ``DiNAT_s`` (MIT).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import generate_default_cfgs, register_model

from foveate.models._backbone import Published, cfg, create
from foveate.models._swin import Swin
from foveate.models.nat import NAT, WIDE, neighborhoods


class DiNAT(NAT):
    """NAT with dilated neighbourhoods.

    Args:
        depths: blocks a stage.
        dilations: of each block of each stage, or of every second block, a number a stage.
        **kwargs: as for NAT.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (3, 4, 6, 5),
        dilations: Sequence[int] | Sequence[Sequence[int]] = (8, 4, 2, 1),
        **kwargs: Any,
    ) -> None:
        super().__init__(depths=depths, dilations=in_turn(dilations, depths), **kwargs)


class DiNATSwin(Swin):
    """DiNAT_s: dilated neighbourhoods in Swin's network.

    Args:
        depths: blocks a stage.
        kernel_size: height and width of a neighbourhood.
        dilations: of each block of each stage, or of every second block, a number a stage.
        qkv_bias: whether q, k, v projections have a bias.
        qk_scale: factor of the products of queries and keys; ``head_dim**-0.5`` if None.
        attn_drop_rate: dropout of the attention weights.
        proj_drop_rate: dropout in the attentions and the MLPs.
        **kwargs: of the network around them, as for Swin.
    """

    def __init__(
        self,
        *,
        depths: Sequence[int] = (2, 2, 6, 2),
        kernel_size: int = 7,
        dilations: Sequence[int] | Sequence[Sequence[int]] = (8, 4, 2, 1),
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        attend = neighborhoods(
            kernel_size,
            in_turn(dilations, depths),
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop=attn_drop_rate,
            proj_drop=proj_drop_rate,
        )
        super().__init__(attend, depths=depths, proj_drop_rate=proj_drop_rate, **kwargs)


def in_turn(
    dilations: Sequence[int] | Sequence[Sequence[int]], depths: Sequence[int]
) -> list[list[int]]:
    """The dilation of every block: 1 and the stage's in turn where a stage has but one number.

    Raises:
        ValueError: if there is not a number, or a list as long as its depth, for every stage.
    """
    blocks = [
        [1 if index % 2 == 0 else stage for index in range(depth)]
        if isinstance(stage, int)
        else list(stage)
        for stage, depth in zip(dilations, depths, strict=False)
    ]
    if [len(stage) for stage in blocks] != list(depths):
        raise ValueError(
            f"dilations must be a number, or one for each block, of every stage of "
            f"{tuple(depths)} blocks, got {dilations!r}"
        )
    return blocks


_SOURCE = "README of the published code"
PUBLISHED = {
    "dinat_mini": Published("20M", "2.7G", 81.8, source=_SOURCE),
    "dinat_tiny": Published("28M", "4.3G", 82.7, source=_SOURCE),
    "dinat_small": Published("51M", "7.8G", 83.8, source=_SOURCE),
    "dinat_base": Published("90M", "13.7G", 84.4, source=_SOURCE),
    "dinat_large": Published("200M", "30.6G", 86.6, source=_SOURCE),
    "dinat_s_tiny": Published("28M", "4.5G", 81.8, source=_SOURCE),
    "dinat_s_small": Published("50M", "8.7G", 83.5, source=_SOURCE),
    "dinat_s_base": Published("88M", "15.4G", 83.8, source=_SOURCE),
    "dinat_s_large": Published("197M", "34.5G", 86.5, source=_SOURCE),
}

_REPOSITORY = "https://github.com/SHI-Labs/Neighborhood-Attention-Transformer"
_WEIGHTS = "https://shi-labs.com/projects/dinat/checkpoints"
_NAT = {"origin_url": _REPOSITORY, "license": "mit"}


def _in1k(name: str, pretraining: str = "", first_conv: str = "stem.proj.0") -> dict[str, Any]:
    url = f"{_WEIGHTS}/imagenet1k/{name}_{pretraining}in1k_224.pth"
    return cfg(url=url, first_conv=first_conv, **_NAT)


default_cfgs = generate_default_cfgs(
    {
        "dinat_mini.in1k": _in1k("dinat_mini"),
        "dinat_tiny.in1k": _in1k("dinat_tiny"),
        "dinat_small.in1k": _in1k("dinat_small"),
        "dinat_base.in1k": _in1k("dinat_base"),
        "dinat_large.in22k_ft_in1k": _in1k("dinat_large", "in22k_"),
        "dinat_large.in22k": cfg(
            url=f"{_WEIGHTS}/imagenet22k/dinat_large_in22k_224.pth",
            num_classes=21841,
            first_conv="stem.proj.0",
            **_NAT,
        ),
        # As in the code and DiNAT.md; classification/DiNAT.md has other names of the files.
        "dinat_s_tiny.in1k": _in1k("dinat_s_tiny", first_conv="stem.proj"),
        "dinat_s_small.in1k": _in1k("dinat_s_small", first_conv="stem.proj"),
        "dinat_s_base.in1k": _in1k("dinat_s_base", first_conv="stem.proj"),
        "dinat_s_large.in22k_ft_in1k": _in1k("dinat_s_large", first_conv="stem.proj"),
    }
)


@register_model
def dinat_mini(pretrained: bool = False, **kwargs: Any) -> DiNAT:
    """DiNAT-Mini."""
    return create(DiNAT, "dinat_mini", pretrained, **kwargs)


@register_model
def dinat_tiny(pretrained: bool = False, **kwargs: Any) -> DiNAT:
    """DiNAT-Tiny."""
    return create(DiNAT, "dinat_tiny", pretrained, **{"depths": (3, 4, 18, 5), **kwargs})


@register_model
def dinat_small(pretrained: bool = False, **kwargs: Any) -> DiNAT:
    """DiNAT-Small; without layer scale, as its published weights."""
    return create(DiNAT, "dinat_small", pretrained, **{**WIDE["small"], **kwargs})


@register_model
def dinat_base(pretrained: bool = False, **kwargs: Any) -> DiNAT:
    """DiNAT-Base."""
    sizes = {**WIDE["base"], "layer_scale": 1e-5}
    return create(DiNAT, "dinat_base", pretrained, **{**sizes, **kwargs})


@register_model
def dinat_large(pretrained: bool = False, **kwargs: Any) -> DiNAT:
    """DiNAT-Large, pre-trained on ImageNet-22K."""
    return create(DiNAT, "dinat_large", pretrained, **{**WIDE["large"], **kwargs})


@register_model
def dinat_s_tiny(pretrained: bool = False, **kwargs: Any) -> DiNATSwin:
    """DiNAT_s-Tiny."""
    return create(DiNATSwin, "dinat_s_tiny", pretrained, **kwargs)


@register_model
def dinat_s_small(pretrained: bool = False, **kwargs: Any) -> DiNATSwin:
    """DiNAT_s-Small."""
    return create(DiNATSwin, "dinat_s_small", pretrained, **{"depths": (2, 2, 18, 2), **kwargs})


@register_model
def dinat_s_base(pretrained: bool = False, **kwargs: Any) -> DiNATSwin:
    """DiNAT_s-Base."""
    sizes = {"depths": (2, 2, 18, 2), "embed_dim": 128, "num_heads": (4, 8, 16, 32)}
    return create(DiNATSwin, "dinat_s_base", pretrained, **{**sizes, **kwargs})


@register_model
def dinat_s_large(pretrained: bool = False, **kwargs: Any) -> DiNATSwin:
    """DiNAT_s-Large, pre-trained on ImageNet-22K."""
    sizes = {"depths": (2, 2, 18, 2), "embed_dim": 192, "num_heads": (6, 12, 24, 48)}
    return create(DiNATSwin, "dinat_s_large", pretrained, **{**sizes, **kwargs})

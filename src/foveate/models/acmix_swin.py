"""ACmix-Swin: Swin whose windows share their projections with a convolution.

    a block:   x = x + alpha attention(norm(x)) + beta convolution(norm(x)),   x = x + mlp(norm(x))

Windows of 7 cells, shifted by 3 in every other block; both paths start from the same q, k and v
(see ``acmix_window``).

Shapes: images (B, in_chans, H, W) of any size, features (B, C_i, ceil(H / r_i), ceil(W / r_i)) with
r = 4, 8, 16, 32.

Paper: Pan et al., "On the Integration of Self-Attention and Convolution", CVPR 2022,
arXiv:2111.14556.
Published code: LeapLabTHU/ACmix@81dddb6 ``SwinTransformer_acmix`` (no license; written here from
the paper). Its weights have no stable address.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import generate_default_cfgs, register_model
from torch import nn

from foveate.attention._shifted_convolution import ShiftedConvolution
from foveate.attention.window.acmix_window import ACmixWindowAttention
from foveate.models._backbone import Published, cfg, create
from foveate.models._swin import Swin, window_in_map


class ACmixSwin(Swin):
    """Swin with ACmix in every block.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm; ``""`` keeps the map.
        img_size: height and width of the images that windows are laid out for.
        depths: blocks a stage.
        window_size: height and width of a window.
        conv_kernel_size: side of the convolution.
        qkv_bias: whether q, k, v projections have a bias.
        attn_drop_rate: dropout of the attention weights.
        proj_drop_rate: dropout in the attentions and the MLPs.
        **kwargs: of the network around them, as for Swin: ``embed_dim``, ``num_heads``,
            ``patch_size``, ``mlp_ratio``, ``drop_rate``, ``drop_path_rate``.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        img_size: int | tuple[int, int] = 224,
        depths: Sequence[int] = (2, 2, 6, 2),
        window_size: int = 7,
        conv_kernel_size: int = 3,
        qkv_bias: bool = True,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        patch_size = kwargs.get("patch_size", 4)
        options = {"attn_drop": attn_drop_rate, "proj_drop": proj_drop_rate, "qkv_bias": qkv_bias}

        def attend(level: int, index: int, dim: int, heads: int) -> nn.Module:
            side = window_in_map(window_size, img_size, patch_size * 2**level)
            shift = side // 2 if index % 2 else 0
            return ACmixWindowAttention(dim, heads, side, shift, conv_kernel_size, **options)

        super().__init__(
            attend,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            depths=depths,
            proj_drop_rate=proj_drop_rate,
            **kwargs,
        )
        for module in self.modules():
            if isinstance(module, ShiftedConvolution):  # a convolution, as published
                module.fc.reset_parameters()


_SOURCE = "README of the published code"
_PARAMS = "The published code has as many parameters as this."
PUBLISHED = {
    "acmix_swin_tiny": Published("30M", "4.6G", 81.9, source=_SOURCE, note=_PARAMS),
    "acmix_swin_small": Published("51M", "9.0G", 83.5, source=_SOURCE, note=_PARAMS),
}

_CFG = cfg(first_conv="stem.proj")

default_cfgs = generate_default_cfgs({f"{name}.untrained": _CFG for name in PUBLISHED})


@register_model
def acmix_swin_tiny(pretrained: bool = False, **kwargs: Any) -> ACmixSwin:
    """ACmix-Swin-T."""
    return create(ACmixSwin, "acmix_swin_tiny", pretrained, **kwargs)


@register_model
def acmix_swin_small(pretrained: bool = False, **kwargs: Any) -> ACmixSwin:
    """ACmix-Swin-S."""
    sizes = {"depths": (2, 2, 18, 2)}
    return create(ACmixSwin, "acmix_swin_small", pretrained, **{**sizes, **kwargs})

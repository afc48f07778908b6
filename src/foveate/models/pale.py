"""Pale Transformer: a pyramid whose blocks attend to interlaced rows and columns.

    stem 7x7/4, then four stages at 1/4, 1/8, 1/16, 1/32, joined by 3x3/2 convolutions; a block is
    x = x + conv3x3(x)              depthwise: conditional position encoding
    x = x + pale(norm(x))           attention, see ``foveate.attention.window.pale``
    x = x + mlp(norm(x))

Shapes: images (B, in_chans, H, W), features (B, C_i, ceil(H / r_i), ceil(W / r_i)), r = 4, 8, 16,
32. Maps that the pale does not divide are padded, and the padding is not attended.

Paper: Wu et al., "Pale Transformer", AAAI 2022, arXiv:2112.14000. Its authors published no code.
Published code: the port qwopqwop200/pale-transformer-pytorch@99ebd2a ``PS_Transformer`` (MIT),
followed here; it holds the base variant alone. The widths and heads of the others give the paper's
parameters. What nothing public decides, and the port does: batch normalisation in the convolutions
that make q, k, v; no norm beside the down-sampling convolutions or after the last stage; heads
counted in each half of the channels. These change the parameters by less than the paper's rounding.
The port ends in a softmax and keeps PyTorch's initial values; here logits come out, and linear
layers start as in other vision transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from foveate.attention.window.pale import PaleAttention
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
from foveate.models._layers import (
    Block,
    PatchEmbed,
    ResidualDepthwise,
    check_stages,
    init_trunc_normal,
)

__all__ = ["PaleTransformer", "pale_base", "pale_small", "pale_tiny"]


class PaleBlock(Block):
    """The residual block after ``x = position(x)``, which adds to x.

    Args:
        dim: channels.
        attention: ``(B, C, H, W) -> (B, C, H, W)``.
        **kwargs: of :class:`Block`.
    """

    def __init__(self, dim: int, attention: nn.Module, **kwargs: Any) -> None:
        super().__init__(dim, attention, **kwargs)
        self.position = ResidualDepthwise(dim)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.position(x))


class PaleTransformer(Backbone):
    """The backbone of the Pale Transformer.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm; ``""`` keeps the map.
        depths: blocks a stage.
        dims: channels a stage.
        num_heads: heads a stage, in each half of the channels.
        pale_size: rows, and columns, of a group.
        mlp_ratio: hidden channels of the MLP over the stage's.
        qkv_bias: whether the convolutions that make q, k, v have biases.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout in the blocks.
        attn_drop_rate: dropout of the attention weights.
        drop_path_rate: stochastic depth, rising to this in the last block.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (2, 2, 16, 2),
        dims: Sequence[int] = (64, 128, 256, 512),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        pale_size: int = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        check_stages(depths=depths, dims=dims, num_heads=num_heads)
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)

        def block(level: int, rate: float) -> PaleBlock:
            attention = PaleAttention(
                dims[level],
                num_heads[level],
                pale_size,
                qkv_bias=qkv_bias,
                attn_drop=attn_drop_rate,
                proj_drop=proj_drop_rate,
            )
            return PaleBlock(
                dims[level], attention, mlp_ratio=mlp_ratio, drop=proj_drop_rate, drop_path=rate
            )

        stages = [
            Stage(
                [block(level, rate) for rate in rates[level]],
                PatchEmbed(dims[level - 1], dim, 2, kernel_size=3) if level else None,
            )
            for level, dim in enumerate(dims)
        ]
        super().__init__(
            PatchEmbed(in_chans, dims[0], 4, kernel_size=7),
            stages,
            dims=dims,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
        )
        init_trunc_normal(self, nn.Linear)

    def convert_published(self, state: State) -> State:
        """The port's names under ours; its MLPs' convolutions of one by one are linear here."""
        state = rename(
            state,
            [
                (r"^patch_merg_convs\.0\.", "stem.proj."),
                (r"^patch_merg_convs\.(\d)\.", r"stages.\1.downsample.proj."),
                (r"^ps_blocks\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
                (r"\.cpe\.", ".position."),
                (r"\.(norm\d)\.ln\.", r".\1."),
                (r"\.attn\.", ".attention."),
                (r"^proj\.", "head.fc."),
            ],
        )
        linear = (".mlp.fc1.weight", ".mlp.fc2.weight")
        state = {k: v.flatten(1) if k.endswith(linear) else v for k, v in state.items()}
        return convert_parts(self, state)


_SOURCE = "abstract of arXiv:2112.14000"
PUBLISHED = {
    "pale_tiny": Published("22M", top1=83.4, source=_SOURCE),
    "pale_small": Published("48M", top1=84.3, source=_SOURCE),
    "pale_base": Published("85M", top1=84.9, source=_SOURCE),
}

_CFG = cfg(first_conv="stem.proj", license="mit")
default_cfgs = generate_default_cfgs(
    {
        "pale_tiny.untrained": _CFG,
        "pale_small.untrained": _CFG,
        "pale_base.untrained": _CFG,
    }
)


@register_model
def pale_tiny(pretrained: bool = False, **kwargs: Any) -> PaleTransformer:
    """Pale-T: 22 M parameters."""
    return create(PaleTransformer, "pale_tiny", pretrained, **kwargs)


@register_model
def pale_small(pretrained: bool = False, **kwargs: Any) -> PaleTransformer:
    """Pale-S: 48 M parameters."""
    sizes = {"dims": (96, 192, 384, 768)}
    return create(PaleTransformer, "pale_small", pretrained, **{**sizes, **kwargs})


@register_model
def pale_base(pretrained: bool = False, **kwargs: Any) -> PaleTransformer:
    """Pale-B: 85 M parameters."""
    sizes = {"dims": (128, 256, 512, 1024), "num_heads": (4, 8, 16, 32)}
    return create(PaleTransformer, "pale_base", pretrained, **{**sizes, **kwargs})

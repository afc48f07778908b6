"""DS-Net: in every block half of the channels keep their resolution, half attend at a coarse one.

    x = x + depthwise3x3(x)                                             position
    [g, l] = project(norm(x)), half of the channels each; g is resized to 1/s
    l = l + depthwise3x3(norm(l)),      g = g + attention(norm(g))      within a scale
    l, g = l + cross(norm(l), norm(g)),  g + cross(norm(g), norm(l))    between the scales
    x = x + project([l, g resized back])
    x = x + mlp(norm(x))

The two steps are the paper's intra-scale propagation and inter-scale alignment (co-attention); s is
8, 4, 2, 2 in the four stages. Maps are batch-normalised, the tokens of g layer-normalised.

Shapes: images (B, in_chans, H, W), features (B, C_i, ceil(H / r), ceil(W / r)) with
r = 4, 8, 16, 32; g has max(1, floor(h / s)) x max(1, floor(w / s)) tokens.

Paper: Mao et al., "Dual-stream Network for Visual Recognition", NeurIPS 2021, arXiv:2105.14734.
Published code: the authors' never appeared. SteveTsui/DS-Net@c54585e, which calls itself
unofficial, and PaddlePaddle/PaddleClas (both Apache-2.0) agree in every layer; the former's weights
load. They decide what the paper does not: which norm stands where, bilinear resizing, widths and
depths, and that g is at 1/64 in the last stage, where the paper speaks of 1/32 throughout. Their
attentions drop a tenth of the weights in training, which here is ``attn_drop_rate=0.1`` and reaches
the attention within the scale only; stochastic depth, which starts anew in every stage there, rises
over the whole depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import optimization_hint
from torch.nn import functional as F

from foveate.attention.full.multi_head import MultiHeadAttention
from foveate.attention.full.multi_head_cross import MultiHeadCrossAttention
from foveate.contracts import OneStep
from foveate.layout import map_to_tokens
from foveate.models._backbone import Backbone, Published, Stage, State, cfg, create, rename
from foveate.models._layers import MapMlp, PatchEmbed, ResidualDepthwise, init_trunc_normal

__all__ = ["dsnet_base", "dsnet_small", "dsnet_tiny"]


_CONVOLUTIONS = ("mlp.fc1", "mlp.fc2", "to_local.q", "to_coarse.k", "to_coarse.v")
"""Linear layers that are 1x1 convolutions in the port, and start as these do."""


class DualStream(OneStep):
    """A stream at full resolution and one that attends at a coarse one, and their alignment.

    Args:
        dim: channels, half of them for each.
        num_heads: heads of the attentions.
        scale: how much coarser, s.
        attn_drop: dropout of its attention weights.
        proj_drop: dropout of what its attention gives.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        scale: int,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        half = dim // 2
        self.scale = scale
        self.enter = nn.Conv2d(dim, dim, 1)
        self.local_norm = nn.BatchNorm2d(half)
        self.local = nn.Conv2d(half, half, 3, padding=1, groups=half)
        self.coarse_norm = nn.LayerNorm(half)
        self.coarse = MultiHeadAttention(half, num_heads, attn_drop=attn_drop, proj_drop=proj_drop)
        self.coarse.proj = nn.Identity()  # heads are read by the alignment as they are
        self.align_local_norm = nn.BatchNorm2d(half)
        self.align_coarse_norm = nn.LayerNorm(half)
        self.to_local = MultiHeadCrossAttention(half, num_heads)
        self.to_coarse = MultiHeadCrossAttention(half, num_heads)
        self.leave = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        coarse, local = self.enter(x).chunk(2, 1)
        size = local.shape[2:]
        check_example(tuple(size), 2 * self.scale)
        grid = [torch.sym_max(1, side // self.scale) for side in size]
        coarse = map_to_tokens(F.interpolate(coarse, grid, mode="bilinear"))

        local = local + self.local(self.local_norm(local))
        coarse = coarse + self.coarse(self.coarse_norm(coarse))

        fine = map_to_tokens(self.align_local_norm(local))  # (B, h w, C / 2)
        rough = self.align_coarse_norm(coarse)
        local = local + self.to_local(fine, rough)[0].unflatten(1, size).permute(0, 3, 1, 2)
        coarse = coarse + self.to_coarse(rough, fine)[0]

        coarse = coarse.unflatten(1, grid).permute(0, 3, 1, 2)
        coarse = F.interpolate(coarse, size, mode="bilinear")
        return self.leave(torch.cat([local, coarse], 1))


def check_example(size: tuple[int, int], smallest: int) -> None:
    """Refuse to export free sizes from a map whose coarse stream has one position along an axis.

    One is a number to exporters: the program would be wrong at the sizes that have more.

    Raises:
        ValueError: if a side that is a symbol stands for less than ``smallest`` cells.
    """
    free = [side for side in size if isinstance(side, torch.SymInt)]
    if free and min(map(optimization_hint, free)) < smallest:
        raise ValueError(
            f"an example for free sizes must have maps of at least {smallest}x{smallest} cells "
            f"here, got {'x'.join(str(optimization_hint(side)) for side in size)}: take a larger "
            "image (97x97 pixels for the dsnet_* as published), or leave height and width fixed"
        )


class DualStreamBlock(nn.Module):
    """Position, both streams and an MLP, each beside the identity.

    Args:
        dim: channels.
        num_heads: heads of the attentions.
        scale: how much coarser the attention's stream is.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        proj_drop: dropout in the MLP and after the attention.
        attn_drop: dropout of the attention weights.
        drop_path: probability that a branch is left out for a sample.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        scale: int,
        mlp_ratio: float = 4.0,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.position = ResidualDepthwise(dim)
        self.norm1 = nn.BatchNorm2d(dim)
        self.streams = DualStream(dim, num_heads, scale, attn_drop, proj_drop)
        self.norm2 = nn.BatchNorm2d(dim)
        self.mlp = MapMlp(dim, int(dim * mlp_ratio), proj_drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.position(x)
        x = x + self.drop_path(self.streams(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class DSNet(Backbone):
    """Four stages of two streams each.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm; ``""`` keeps the map.
        depths: blocks a stage.
        dims: channels a stage, even.
        num_heads: heads a stage; they divide half of its channels.
        scales: how much coarser the attention's stream is, a stage.
        mlp_ratio: hidden channels of the MLP over the stage's.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout in the MLPs and after the attention.
        attn_drop_rate: dropout of the attention weights within the coarse stream.
        drop_path_rate: stochastic depth, rising to this in the last block.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        depths: Sequence[int] = (2, 2, 4, 1),
        dims: Sequence[int] = (64, 128, 320, 512),
        num_heads: Sequence[int] = (1, 2, 5, 8),
        scales: Sequence[int] = (8, 4, 2, 2),
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = [
            Stage(
                [
                    DualStreamBlock(
                        dim, heads, scale, mlp_ratio, proj_drop_rate, attn_drop_rate, rate
                    )
                    for rate in stage_rates
                ],
                PatchEmbed(dims[level - 1], dim, 2) if level else None,
            )
            for level, (dim, heads, scale, stage_rates) in enumerate(
                zip(dims, num_heads, scales, rates, strict=True)
            )
        ]
        super().__init__(
            PatchEmbed(in_chans, dims[0], 4),
            stages,
            dims=dims,
            reductions=[4 * 2**level for level in range(len(dims))],
            norm=nn.BatchNorm2d(dims[-1]),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
        )
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and not name.endswith(_CONVOLUTIONS):
                init_trunc_normal(module, nn.Linear)

    def convert_published(self, state: State) -> State:
        """The co-attention's joint projections fall apart between its two directions."""
        state = rename(
            state,
            [
                (r"^patch_embed1\.", "stem."),
                (r"^patch_embed(\d)\.", lambda m: f"stages.{int(m[1]) - 1}.downsample."),
                (r"^blocks(\d)\.(\d+)\.", lambda m: f"stages.{int(m[1]) - 1}.blocks.{m[2]}."),
                (r"\.pos_embed\.", ".position."),
                (r"\.conv1\.", ".streams.enter."),
                (r"\.conv2\.", ".streams.leave."),
                (r"\.conv\.", ".streams.local."),
                (r"\.norm_conv1\.", ".streams.local_norm."),
                (r"\.norm_sa1\.", ".streams.coarse_norm."),
                (r"\.norm_conv2\.", ".streams.align_local_norm."),
                (r"\.norm_sa2\.", ".streams.align_coarse_norm."),
                (r"\.channel_up\.", ".streams.coarse.qkv."),
                (r"\.fuse_channel_conv\.", ".streams.to_local.proj."),
                (r"\.fuse_channel_sa\.", ".streams.to_coarse.proj."),
                (r"^head\.", "head.fc."),
            ],
        )
        converted: State = {}
        for name, value in state.items():
            block, _, joint = name.rpartition(".cross_channel_up_")
            if block:
                stream, leaf = joint.split(".")
                asks, answers = ("to_local", "to_coarse")[:: 1 if stream == "conv" else -1]
                q, k, v = value.flatten(1).chunk(3) if leaf == "weight" else value.chunk(3)
                converted[f"{block}.streams.{asks}.q.{leaf}"] = q
                converted[f"{block}.streams.{answers}.k.{leaf}"] = k
                converted[f"{block}.streams.{answers}.v.{leaf}"] = v
            else:
                is_mlp = ".mlp." in name and value.dim() == 4
                converted[name] = value.flatten(1) if is_mlp else value
        return converted


_CFG = cfg(
    first_conv="stem.proj",
    license="apache-2.0",
    origin_url="https://github.com/SteveTsui/DS-Net",
)

default_cfgs = generate_default_cfgs(
    {f"dsnet_{size}.untrained": _CFG for size in ("tiny", "small", "base")}
)

_SOURCE = "DSNet.md in the documentation of PaddlePaddle/PaddleClas, top-1 as in the paper"
_OPEN = "the layers are the same; how the multiply-adds were counted is not said"

PUBLISHED = {
    "dsnet_tiny": Published("10.5M", "1.8G", 79.0, source=_SOURCE),
    "dsnet_small": Published("23M", "3.5G", 82.3, source=_SOURCE),
    "dsnet_base": Published("49.3M", "8.4G", 83.1, source=_SOURCE, note=_OPEN),
}


@register_model
def dsnet_tiny(pretrained: bool = False, **kwargs: Any) -> DSNet:
    """Nine blocks."""
    return create(DSNet, "dsnet_tiny", pretrained, **kwargs)


@register_model
def dsnet_small(pretrained: bool = False, **kwargs: Any) -> DSNet:
    """Eighteen blocks."""
    return create(DSNet, "dsnet_small", pretrained, **{"depths": (3, 4, 8, 3), **kwargs})


@register_model
def dsnet_base(pretrained: bool = False, **kwargs: Any) -> DSNet:
    """Thirty-eight blocks."""
    return create(DSNet, "dsnet_base", pretrained, **{"depths": (3, 4, 28, 3), **kwargs})

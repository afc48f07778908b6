"""Shuffle Transformer: windows of neighbours, then windows whose cells lie all over the map.

    stem /4, then four stages at 1/4, 1/8, 1/16, 1/32; a block is
    x = x + attention(norm(x))      inside windows, spread over the map in every second block
    x = x + local(norm(x))          depthwise, as wide as a window: joins neighbouring windows
    x = x + mlp(norm(x))

Norms are batch normalisations and activations ReLU6; nothing norms the last map.

Shapes: images (B, in_chans, H, W), features (B, C_i, ceil(H / r_i), ceil(W / r_i)), r = 4, 8, 16,
32. Where windows do not divide a map the rest is padded and masked; the published code refuses it.

Paper: Huang et al., "Shuffle Transformer: Rethinking Spatial Shuffle for Vision Transformer", 2021,
arXiv:2106.03650.
Published code: mulinmeng/Shuffle-Transformer@8ba81ea ``ShuffleTransformer``, MIT. The ``qkv_bias``
that its configurations ask for is the bias of the local convolution alone: ``local_bias`` here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from foveate.arguments import odd
from foveate.attention.window.shuffle import ShuffleAttention
from foveate.layout import in_format
from foveate.models._backbone import Backbone, Published, Stage, State, cfg, create, rename
from foveate.models._layers import MapMlp, PatchEmbed, init_trunc_normal

__all__ = ["ShuffleTransformer", "shuffle_base", "shuffle_small", "shuffle_tiny"]


class ShuffleBlock(nn.Module):
    """Attention in windows, a convolution over their borders, an MLP.

    Args:
        dim: channels.
        attention: ``(B, C, H, W) -> (B, C, H, W)``.
        window_size: side of the convolution, odd.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        local_bias: whether the convolution has a bias.
        drop: dropout in the MLP.
        drop_path: probability that attention or MLP is left out for a sample.
    """

    def __init__(
        self,
        dim: int,
        attention: nn.Module,
        window_size: int,
        mlp_ratio: float,
        local_bias: bool,
        drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(dim)
        self.attention = attention
        self.norm2 = nn.BatchNorm2d(dim)
        self.local = nn.Conv2d(
            dim, dim, window_size, padding=window_size // 2, groups=dim, bias=local_bias
        )
        self.norm3 = nn.BatchNorm2d(dim)
        self.mlp = MapMlp(dim, int(dim * mlp_ratio), drop, nn.ReLU6)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x)))
        x = x + self.local(self.norm2(x))
        return x + self.drop_path(self.mlp(self.norm3(x)))


class Stem(nn.Sequential):
    """Two convolutions that halve the image, and a linear map.

    Args:
        in_chans: channels of the images.
        hidden: channels between the two.
        dim: channels of the output.
    """

    def __init__(self, in_chans: int, hidden: int, dim: int) -> None:
        super().__init__(
            nn.Conv2d(in_chans, hidden, 3, stride=2, padding=1),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, dim, 3, stride=2, padding=1),
            nn.BatchNorm2d(dim),
            nn.ReLU6(),
            nn.Conv2d(dim, dim, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return in_format(super().forward(x), torch.channels_last)


class ShuffleTransformer(Backbone):
    """The Shuffle Transformer; a timm model in full.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm; ``""`` keeps the map.
        stem_dim: channels between the convolutions of the stem.
        dims: channels a stage.
        depths: blocks a stage.
        num_heads: heads a stage.
        window_size: side of a window, odd.
        mlp_ratio: hidden channels of an MLP over the stage's.
        shuffle: whether every second block's windows are spread.
        rel_pos_bias: whether logits get a learned bias per head and offset.
        local_bias: whether the convolutions over windows' borders have a bias.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout of attention's output and in the MLPs.
        attn_drop_rate: dropout of attention's weights.
        drop_path_rate: stochastic depth, one rate a stage, rising to this in the last.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        stem_dim: int = 32,
        dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int = 7,
        mlp_ratio: float = 4.0,
        shuffle: bool = True,
        rel_pos_bias: bool = True,
        local_bias: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        odd(window_size, "window_size")

        def block(level: int, index: int) -> nn.Module:
            attention = ShuffleAttention(
                dims[level],
                num_heads[level],
                window_size,
                shuffle=shuffle and index % 2 == 1,
                rel_pos_bias=rel_pos_bias,
                attn_drop=attn_drop_rate,
                proj_drop=proj_drop_rate,
            )
            drop_path = drop_path_rate * level / (len(dims) - 1)
            return ShuffleBlock(
                dims[level],
                attention,
                window_size,
                mlp_ratio,
                local_bias,
                proj_drop_rate,
                drop_path,
            )

        stages = [
            Stage(
                [block(level, index) for index in range(depth)],
                halve(dims[level - 1], dims[level]) if level else None,
            )
            for level, depth in enumerate(depths)
        ]
        super().__init__(
            Stem(in_chans, stem_dim, dims[0]),
            stages,
            dims=dims,
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
        )
        init_trunc_normal(self, nn.Linear, nn.Conv2d)

    def convert_published(self, state: State) -> State:
        """The published network's state: its blocks come in pairs, its linear maps as 1x1."""
        state = {
            key: value.flatten(1) if ".mlp." in key and key.endswith(".weight") else value
            for key, value in state.items()
        }
        return super().convert_published(rename(state, PUBLISHED_NAMES))


def halve(in_chans: int, dim: int) -> nn.Module:
    """A norm, then a convolution over patches of 2x2; a last patch is padded."""
    return nn.Sequential(nn.BatchNorm2d(in_chans), PatchEmbed(in_chans, dim, 2, bias=False))


PUBLISHED_NAMES = [
    (r"^to_token\.conv1\.(\d)", r"stem.\1"),
    (r"^to_token\.conv2\.0", "stem.3"),
    (r"^to_token\.conv2\.1", "stem.4"),
    (r"^to_token\.conv3", "stem.6"),
    (r"^stage(\d)\.", lambda found: f"stages.{int(found[1]) - 1}."),
    (r"\.patch_partition\.norm\.", ".downsample.0."),
    (r"\.patch_partition\.reduction\.", ".downsample.1.proj."),
    (r"\.layers\.(\d+)\.(\d)\.", lambda found: f".blocks.{2 * int(found[1]) + int(found[2])}."),
    (r"\.attn\.", ".attention."),
    (r"^head\.", "head.fc."),
]

PUBLISHED = {
    "shuffle_tiny": Published(
        "28M",
        "4.6G",
        82.4,
        source="README",
        note="the README rounds down: its code has 28.53M and 4.67G as well",
    ),
    "shuffle_small": Published("50M", "8.9G", 83.6, source="README"),
    "shuffle_base": Published("88M", "15.6G", 84.0, source="README"),
}

_CFG = cfg(
    first_conv="stem.0",
    license="mit",
    origin_url="https://github.com/mulinmeng/Shuffle-Transformer",
    paper_ids="arXiv:2106.03650",
)

default_cfgs = generate_default_cfgs({f"{name}.untrained": _CFG for name in PUBLISHED})


@register_model
def shuffle_tiny(pretrained: bool = False, **kwargs: Any) -> ShuffleTransformer:
    """Shuffle-T: 28 M parameters."""
    return create(ShuffleTransformer, "shuffle_tiny", pretrained, **kwargs)


@register_model
def shuffle_small(pretrained: bool = False, **kwargs: Any) -> ShuffleTransformer:
    """Shuffle-S: 50 M parameters."""
    sizes = {"depths": (2, 2, 18, 2)}
    return create(ShuffleTransformer, "shuffle_small", pretrained, **{**sizes, **kwargs})


@register_model
def shuffle_base(pretrained: bool = False, **kwargs: Any) -> ShuffleTransformer:
    """Shuffle-B: 88 M parameters."""
    sizes = {
        "dims": (128, 256, 512, 1024),
        "depths": (2, 2, 18, 2),
        "num_heads": (4, 8, 16, 32),
    }
    return create(ShuffleTransformer, "shuffle_base", pretrained, **{**sizes, **kwargs})

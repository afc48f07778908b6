"""Mobile-Former: a MobileNet beside a transformer of a few learned tokens, with a bridge each way.

    z = norm(z + project(gate(z) * attend(q(z), x, x)))                 Mobile to Former
    z = norm(z + project(attend(q(z), z, z))),  z = norm(z + mlp(z))    Former
    x = x + project(act(depthwise(act(expand(x)))))                     Mobile
    x = x + attend(x, k(z), v(z))                                       Former to Mobile

    act(x) = max(a x, b x),  [a, b] = 2 [hard_sigmoid(mlp(z_0)) - 1/2] + [1, 0]     dynamic ReLU

``attend`` is scaled dot-product attention whose keys and values are the map or the tokens
themselves wherever no projection is written: the map, whose positions are many, is never projected.
A block that halves the map is a depthwise expansion with stride 2, a projection, and then the
residual ``project(act(depthwise(x)))`` of the result, whose depthwise convolution expands. A last
bridge leads to the classifier, which reads the pooled map and the first token side by side.

Shapes: images (B, in_chans, H, W), map x (B, C_i, ceil(H / r), ceil(W / r)) with r = 4, 8, 16, 32,
tokens z (B, T, D). Features are the maps; ``forward_features`` gives the first token beside each
cell of the last map, (B, C_4 + D, h, w), which is all that the classifier reads.

Paper: Chen et al., "Mobile-Former: Bridging MobileNet and Transformer", CVPR 2022,
arXiv:2108.05895.
Published code: AAboys/MobileFormer@f447310, which states no license: the figures of its
configurations and the layout of its weights, which load, are used, nothing else. Beyond the paper
it has the gate of the first bridge, a hard sigmoid of each token, from 0 to 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import ConvNormAct, DropPath, Mlp, SelectAdaptivePool2d, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.attention._conv_norm import ConvNorm
from foveate.attention._dropout import Dropout
from foveate.attention._scaled_dot_product import scaled_dot_product
from foveate.attention._softmax import wide_product
from foveate.contracts import OneStep
from foveate.layout import in_format, map_to_tokens, merge_heads, split_heads
from foveate.models._backbone import Backbone, Published, Stage, State, cfg, create, rename
from foveate.models._beside import apart, beside_every_cell

__all__ = [
    "mobile_former_26m",
    "mobile_former_52m",
    "mobile_former_96m",
    "mobile_former_151m",
    "mobile_former_214m",
    "mobile_former_294m",
    "mobile_former_508m",
]

BRIDGE_HEADS, FORMER_HEADS = 2, 4

MapAndTokens = tuple[Tensor, Tensor]


def attend(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """Scaled dot-product attention of sequences ``(B, N, C)``, heads side by side."""
    q, k, v = (split_heads(x, num_heads).transpose(1, 2) for x in (query, key, value))
    return merge_heads(scaled_dot_product(q, k, v)[0].transpose(1, 2))


def attend_few(query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
    """:func:`attend` for few keys: the softmax goes down a column, many queries side by side."""
    q, k, v = (split_heads(x, num_heads).transpose(1, 2) for x in (query, key, value))
    weights = wide_product(q.shape[-1] ** -0.5 * k, q.mT).softmax(-2).to(v.dtype)  # (B, h, S, T)
    return merge_heads((weights.mT @ v).transpose(1, 2))


class MobileToFormer(OneStep):
    """The tokens read the map.

    Args:
        dim: channels of the map.
        token_dim: channels of the tokens.
        drop_path: probability that the branch is left out for a sample.
    """

    def __init__(self, dim: int, token_dim: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.q = nn.Linear(token_dim, dim)
        self.gate = nn.Linear(token_dim, dim)
        self.proj = nn.Linear(dim, token_dim)
        self.norm = nn.LayerNorm(token_dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        memory = map_to_tokens(x)
        read = attend(self.q(tokens), memory, memory, BRIDGE_HEADS)
        read = read * (2 * F.hardsigmoid(self.gate(tokens)))
        return self.norm(tokens + self.drop_path(self.proj(read)))


class Former(OneStep):
    """The tokens read each other, then an MLP.

    Args:
        dim: channels of the tokens.
        drop_path: probability that the attention is left out for a sample.
    """

    def __init__(self, dim: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.q = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 2 * dim)
        self.norm2 = nn.LayerNorm(dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        read = attend(self.q(tokens), tokens, tokens, FORMER_HEADS)
        tokens = self.norm1(tokens + self.drop_path(self.proj(read)))
        return self.norm2(tokens + self.mlp(tokens))


class FormerToMobile(OneStep):
    """The map reads the tokens.

    Args:
        dim: channels of the map.
        token_dim: channels of the tokens.
        drop_path: probability that the branch is left out for a sample.
    """

    def __init__(self, dim: int, token_dim: int, drop_path: float = 0.0) -> None:
        super().__init__()
        self.k = nn.Linear(token_dim, dim)
        self.v = nn.Linear(token_dim, dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        read = attend_few(map_to_tokens(x), self.k(tokens), self.v(tokens), BRIDGE_HEADS)
        return x + self.drop_path(read.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2))


class DynamicReLU(nn.Module):
    """The larger of two slopes a channel, both from a token.

    Args:
        dim: channels of the map.
        token_dim: channels of the token.
    """

    def __init__(self, dim: int, token_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(token_dim, token_dim // 4)
        self.fc2 = nn.Linear(token_dim // 4, 2 * dim)

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        slopes = F.hardsigmoid(self.fc2(self.fc1(token).relu()))
        first, second = (2 * slopes - 1)[..., None, None].chunk(2, 1)  # (B, C, 1, 1)
        larger, smaller = torch.maximum(first + 1, second), torch.minimum(first + 1, second)
        return smaller * x + (larger - smaller) * x.relu()  # the larger slope where x > 0


class Mobile(nn.Module):
    """An inverted residual with dynamic ReLUs.

    Args:
        in_chans: channels of the input.
        dim: channels of the output; the identity joins where they are as many.
        token_dim: channels of the token.
        expansion: hidden channels over ``in_chans``.
        groups: of the 1x1 convolutions, each followed by a shuffle of the channels.
        drop_path: probability that the branch is left out for a sample.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        token_dim: int,
        expansion: float,
        groups: int = 1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = round(in_chans * expansion)
        self.identity = in_chans == dim
        self.expand = ConvNorm(in_chans, hidden, groups=groups)
        self.act1 = DynamicReLU(hidden, token_dim)
        self.depthwise = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.act2 = DynamicReLU(hidden, token_dim)
        self.project = ConvNorm(hidden, dim, groups=groups)
        self.shuffle = nn.ChannelShuffle(groups) if groups > 1 else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        y = self.act1(self.shuffle(self.expand(x)), token)
        y = self.act2(self.depthwise(y), token)
        y = self.shuffle(self.project(y))
        return x + self.drop_path(y) if self.identity else y


class MobileDown(nn.Module):
    """Two depthwise-separable convolutions with dynamic ReLUs, the first of stride 2.

    Args:
        in_chans: channels of the input.
        dim: channels of the output.
        token_dim: channels of the token.
        expansion: channels of the first depthwise convolution over ``in_chans``; the second has
            four times ``dim``.
        groups: of the 1x1 convolutions; where there are any, the channels are shuffled before.
        drop_path: probability that the second is left out for a sample.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        token_dim: int,
        expansion: float,
        groups: int = 1,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        hidden = round(in_chans * expansion)
        self.depthwise1 = _depthwise(in_chans, hidden, 2, groups)
        self.act1 = DynamicReLU(hidden, token_dim)
        self.project1 = ConvNorm(hidden, dim, groups=groups)
        self.depthwise2 = _depthwise(dim, 4 * dim, 1, groups)
        self.act2 = DynamicReLU(4 * dim, token_dim)
        self.project2 = ConvNorm(4 * dim, dim, groups=groups)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, token: Tensor) -> Tensor:
        x = self.project1(self.act1(self.depthwise1(x), token))
        y = self.project2(self.act2(self.depthwise2(x), token))
        return x + self.drop_path(y)


def _depthwise(in_chans: int, dim: int, stride: int, groups: int) -> nn.Module:
    """Each channel to several, which lie apart before a convolution in groups."""
    conv = ConvNorm(in_chans, dim, 3, stride=stride, groups=in_chans)
    return nn.Sequential(conv, nn.ChannelShuffle(in_chans) if groups > 1 else nn.Identity())


class MobileFormerBlock(nn.Module):
    """Both branches and both bridges.

    Args:
        mobile: ``(map, first token) -> map``.
        in_chans: channels of the map.
        dim: channels of the map that ``mobile`` gives.
        token_dim: channels of the tokens.
        drop_path: probability that a branch is left out for a sample.
    """

    def __init__(
        self, mobile: nn.Module, in_chans: int, dim: int, token_dim: int, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.to_former = MobileToFormer(in_chans, token_dim, drop_path)
        self.former = Former(token_dim, drop_path)
        self.mobile = mobile
        self.to_mobile = FormerToMobile(dim, token_dim, drop_path)

    def forward(self, state: MapAndTokens) -> MapAndTokens:
        x, tokens = state
        tokens = self.former(self.to_former(x, tokens))
        x = self.mobile(x, tokens[:, 0])
        return self.to_mobile(x, tokens), tokens


class Stem(nn.Module):
    """Images to a map, by a convolution of stride 2 and a lite bottleneck; and the tokens.

    Args:
        in_chans: channels of the images.
        dim: channels of the convolution.
        lite: expansion, channels and stride of the depthwise and 1x1 convolution that follow.
        tokens: how many.
        token_dim: their channels.
        groups: of the 1x1 convolution.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        lite: tuple[int, int, int],
        tokens: int,
        token_dim: int,
        groups: int,
    ) -> None:
        super().__init__()
        expansion, out_chans, stride = lite
        self.identity = stride == 1 and dim == out_chans
        self.tokens = nn.Parameter(torch.randn(tokens, token_dim))
        self.conv = ConvNormAct(in_chans, dim, 3, 2, act_layer=nn.ReLU6)
        self.depthwise = _depthwise(dim, dim * expansion, stride, groups)
        self.act = nn.ReLU6()
        self.project = ConvNorm(dim * expansion, out_chans, groups=groups)

    def forward(self, images: Tensor) -> MapAndTokens:
        x = self.conv(in_format(images, torch.channels_last))
        y = self.project(self.act(self.depthwise(x)))
        tokens = self.tokens.repeat(x.shape[0], 1, 1)
        return (x + y if self.identity else y), tokens


class LastBridge(nn.Module):
    """The tokens read the last map.

    Args:
        dim: channels of the map.
        token_dim: channels of the tokens.
        drop_path: probability that the branch is left out for a sample.
    """

    def __init__(self, dim: int, token_dim: int, drop_path: float) -> None:
        super().__init__()
        self.to_former = MobileToFormer(dim, token_dim, drop_path)

    def forward(self, state: MapAndTokens) -> MapAndTokens:
        x, tokens = state
        return x, self.to_former(x, tokens)


class MergedHead(nn.Module):
    """The pooled map and the first token, side by side, through a hidden layer to the classes.

    Args:
        in_features: channels of the map.
        token_dim: channels of the token.
        hidden: features of the hidden layer.
        num_classes: classes; 0 gives these features.
        pool_type: of the map; ``""`` keeps the map, and leaves the rest out.
        drop_rate: dropout before the classifier.
        groups: of the 1x1 convolution before pooling.
    """

    def __init__(
        self,
        in_features: int,
        token_dim: int,
        hidden: int,
        num_classes: int,
        pool_type: str,
        drop_rate: float,
        groups: int,
    ) -> None:
        super().__init__()
        self.token_dim, self.hidden_features, self.groups = token_dim, hidden, groups
        self.shuffle = nn.ChannelShuffle(groups) if groups > 1 else nn.Identity()
        self.drop = Dropout(drop_rate)
        self.in_features = 0
        self.reset(num_classes, pool_type, in_features)

    def reset(
        self,
        num_classes: int,
        pool_type: str | None = None,
        in_features: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """A new classifier, and what lies before it where the map has other channels."""
        if pool_type is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=pool_type, flatten=bool(pool_type))
        if in_features not in (None, self.in_features):
            self.in_features = in_features
            wide = 6 * in_features
            self.conv = ConvNorm(in_features, wide, groups=self.groups)
            wide = wide * self.global_pool.feat_mult() + self.token_dim
            self.hidden = nn.Linear(wide, self.hidden_features)
            self.norm = nn.BatchNorm1d(self.hidden_features)
        self.fc = nn.Linear(self.hidden_features, num_classes) if num_classes else nn.Identity()
        self.to(device=device, dtype=dtype)

    def leave_out(self) -> None:
        """Drop all that a head which keeps the map does not run."""
        self.in_features = 0
        self.conv = self.hidden = self.norm = nn.Identity()

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The classes, from the map and the token beside each of its cells."""
        x, token = apart(x, x.shape[1] - self.token_dim)
        if not self.global_pool.pool_type:
            return x
        x = self.global_pool(F.relu6(self.conv(self.shuffle(x))))
        x = self.hidden(torch.cat([F.hardswish(x), token], 1))
        x = self.drop(F.hardswish(self.norm(x)))
        return x if pre_logits else self.fc(x)


class MobileFormer(Backbone):
    """A convolutional and a transformer branch; features are the first's.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives the classifier's hidden features.
        global_pool: of the map, as in timm; ``""`` keeps the map, and leaves the tokens out.
        stem_dim: channels of the first convolution.
        lite: expansion, channels and stride of the bottleneck after it.
        stages: expansion and channels of every block, a stage; the first block of a stage halves
            the map, but not that of the first stage where ``lite`` has done so.
        tokens: how many tokens T.
        token_dim: their channels D, a multiple of four.
        groups: of the 1x1 convolutions.
        hidden: features of the classifier's hidden layer.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth, rising to this in the last block.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        stem_dim: int = 16,
        lite: tuple[int, int, int] = (2, 16, 1),
        stages: Sequence[Sequence[tuple[float, int]]] = (
            ((6, 24), (4, 24)),
            ((6, 48), (4, 48)),
            ((6, 96), (4, 96), (6, 128), (6, 128)),
            ((6, 192), (6, 192), (6, 192)),
        ),
        tokens: int = 6,
        token_dim: int = 192,
        groups: int = 1,
        hidden: int = 1920,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        rates = calculate_drop_path_rates(drop_path_rate, [len(stage) for stage in stages], True)
        before, halved = lite[1], lite[2] == 2
        built = []
        for stage, stage_rates in zip(stages, rates, strict=True):
            blocks = []
            for (expansion, dim), rate in zip(stage, stage_rates, strict=True):
                kind = Mobile if blocks or (halved and not built) else MobileDown
                mobile = kind(before, dim, token_dim, expansion, groups, rate)
                blocks.append(MobileFormerBlock(mobile, before, dim, token_dim, rate))
                before = dim
            built.append(Stage(blocks))
        super().__init__(
            Stem(in_chans, stem_dim, lite, tokens, token_dim, groups),
            built,
            dims=[stage[-1][1] for stage in stages],
            reductions=[4 * 2**level for level in range(len(stages))],
            norm=LastBridge(before, token_dim, drop_path_rate),
            in_chans=in_chans,
            drop_rate=drop_rate,
        )
        self.num_classes = num_classes
        self.token_dim = token_dim
        self.num_features = before + token_dim
        self.head_hidden_size = hidden
        self.head = MergedHead(
            before, token_dim, hidden, num_classes, global_pool, drop_rate, groups
        )
        # A block gives both branches; its last bridge gives the map.
        for info, stage in zip(self.feature_info, built, strict=True):
            info["module"] += f".blocks.{len(stage.blocks) - 1}.to_mobile"
        _init_weights(self)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        take = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if not self.head.global_pool.pool_type:
            self.head.leave_out()
        self.num_features = self.map_channels + self.token_dim
        return take

    def as_map(self, x: MapAndTokens) -> Tensor:
        """The map of the two."""
        return x[0]

    def as_features(self, x: MapAndTokens) -> Tensor:
        """The map, and the first token beside each of its cells: ``(B, C + D, h, w)``."""
        return beside_every_cell(x[0], x[1][:, 0])

    def convert_published(self, state: State) -> State:
        blocks = [
            f"stages.{level}.blocks.{index}"
            for level, stage in enumerate(self.stages)
            for index in range(len(stage.blocks))
        ]

        def part(match: Any) -> str:
            """Ours of a numbered part of a block: its own depthwise, act or project."""
            block = blocks[int(match[1]) - 1]
            down = isinstance(self.get_submodule(f"{block}.mobile"), MobileDown)
            return f"{block}.mobile.{(_DOWN if down else _PLAIN)[match[2] + match[3]]}."

        return rename(
            state,
            [
                (r"^tokens\.weight$", "stem.tokens"),
                (r"^stem\.0\.", "stem.conv.conv."),
                (r"^stem\.1\.", "stem.conv.bn."),
                (r"^features\.0\.conv\.0\.", "stem.depthwise.0.conv."),
                (r"^features\.0\.conv\.1\.", "stem.depthwise.0.bn."),
                (r"^features\.0\.conv\.4\.", "stem.project.conv."),
                (r"^features\.0\.conv\.5\.", "stem.project.bn."),
                (r"^features\.(\d+)\.(conv|hyper)(\d)\.", part),
                (r"^features\.(\d+)\.", lambda match: f"{blocks[int(match[1]) - 1]}."),
                (r"^local_global\.", "norm.local_global."),
                (r"\.hyper\.0\.", ".fc1."),
                (r"\.hyper\.2\.", ".fc2."),
                (r"(\.mobile\..+)\.0\.(weight)$", r"\1.conv.\2"),
                (r"(\.mobile\..+)\.1\.", r"\1.bn."),
                (r"\.local_global\.alpha\.0\.", ".to_former.gate."),
                (r"\.local_global\.layer_norm\.", ".to_former.norm."),
                (r"\.local_global\.", ".to_former."),
                (r"\.global_block\.channel_mlp\.", ".former.proj."),
                (r"\.global_block\.layer_norm\.", ".former.norm1."),
                (r"\.global_block\.ffn_norm\.", ".former.norm2."),
                (r"\.global_block\.ffn\.0\.", ".former.mlp.fc1."),
                (r"\.global_block\.ffn\.2\.", ".former.mlp.fc2."),
                (r"\.global_block\.", ".former."),
                (r"\.global_local\.proj\.", ".to_mobile.v."),
                (r"\.global_local\.", ".to_mobile."),
                (r"^classifier\.conv\.1\.", "head.conv.conv."),
                (r"^classifier\.conv\.2\.", "head.conv.bn."),
                (r"^classifier\.fc\.0\.", "head.hidden."),
                (r"^classifier\.fc\.1\.", "head.norm."),
                (r"^classifier\.classifier\.1\.", "head.fc."),
            ],
        )


_PLAIN = {
    "conv1": "expand", "hyper1": "act1", "conv2": "depthwise", "hyper2": "act2", "conv3": "project",
}  # fmt: skip
_DOWN = {
    "conv1": "depthwise1.0", "hyper1": "act1", "conv2": "project1",
    "conv3": "depthwise2.0", "hyper3": "act2", "conv4": "project2",
}  # fmt: skip


def _init_weights(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


_CFG = cfg(
    interpolation="bilinear",
    origin_url="https://github.com/AAboys/MobileFormer",
    first_conv="stem.conv.conv",
    classifier="head.fc",
)

_SMALLEST: dict[str, Any] = {
    "stem_dim": 8,
    "lite": (3, 12, 2),
    "stages": (
        ((3, 12),),
        ((6, 24), (3, 24)),
        ((6, 48), (4, 48), (6, 64)),
        ((6, 96), (6, 96)),
    ),
    "tokens": 3,
    "token_dim": 128,
    "hidden": 1024,
}

_VARIANTS: dict[str, dict[str, Any]] = {
    "mobile_former_26m": {**_SMALLEST, "groups": 4},
    "mobile_former_52m": _SMALLEST,
    "mobile_former_96m": {
        "stem_dim": 12,
        "lite": (2, 12, 1),
        "stages": (
            ((6, 16),),
            ((6, 32), (3, 32)),
            ((6, 64), (4, 64), (6, 88)),
            ((6, 128), (6, 128)),
        ),
        "tokens": 4,
        "token_dim": 128,
        "hidden": 1280,
    },
    "mobile_former_151m": {
        "stem_dim": 12,
        "lite": (2, 12, 1),
        "stages": (
            ((6, 16), (3, 16)),
            ((6, 32), (3, 32)),
            ((6, 64), (4, 64), (6, 88), (6, 88)),
            ((6, 128), (6, 128), (6, 128)),
        ),
        "hidden": 1280,
    },
    "mobile_former_214m": {
        "stem_dim": 12,
        "lite": (2, 12, 1),
        "stages": (
            ((6, 20), (3, 20)),
            ((6, 40), (4, 40)),
            ((6, 80), (4, 80), (6, 112), (6, 112)),
            ((6, 160), (6, 160), (6, 160)),
        ),
        "hidden": 1600,
    },
    "mobile_former_294m": {},
    "mobile_former_508m": {
        "stem_dim": 24,
        "lite": (2, 24, 1),
        "stages": (
            ((6, 40), (3, 40)),
            ((6, 72), (3, 72)),
            ((6, 128), (4, 128), (6, 176), (6, 176)),
            ((6, 240), (6, 240), (6, 240)),
        ),
    },
}

default_cfgs = generate_default_cfgs({f"{name}.untrained": _CFG for name in _VARIANTS})

_SOURCE = "README of AAboys/MobileFormer@f447310, as in the paper"


def _published(params: str, multiply_adds: str, top1: float, more: str) -> Published:
    note = (
        f"{more} with the two products that a dynamic ReLU makes of every value, not counted here"
    )
    return Published(params, multiply_adds, top1, source=_SOURCE, note=note)


PUBLISHED = {
    "mobile_former_26m": _published("3.2M", "26M", 64.0, "25.2M"),
    "mobile_former_52m": _published("3.5M", "52M", 68.7, "50.9M"),
    "mobile_former_96m": _published("4.6M", "96M", 72.8, "94.5M"),
    "mobile_former_151m": _published("7.6M", "151M", 75.2, "149.9M"),
    "mobile_former_214m": _published("9.4M", "214M", 76.7, "212.9M"),
    "mobile_former_294m": _published("11.4M", "294M", 77.9, "292.5M"),
    "mobile_former_508m": _published("14.0M", "508M", 79.3, "506.3M"),
}


@register_model
def mobile_former_26m(pretrained: bool = False, **kwargs: Any) -> MobileFormer:
    """About 26 million multiply-adds."""
    return _create("mobile_former_26m", pretrained, kwargs)


@register_model
def mobile_former_52m(pretrained: bool = False, **kwargs: Any) -> MobileFormer:
    """About 52 million multiply-adds."""
    return _create("mobile_former_52m", pretrained, kwargs)


@register_model
def mobile_former_96m(pretrained: bool = False, **kwargs: Any) -> MobileFormer:
    """About 96 million multiply-adds."""
    return _create("mobile_former_96m", pretrained, kwargs)


@register_model
def mobile_former_151m(pretrained: bool = False, **kwargs: Any) -> MobileFormer:
    """About 151 million multiply-adds."""
    return _create("mobile_former_151m", pretrained, kwargs)


@register_model
def mobile_former_214m(pretrained: bool = False, **kwargs: Any) -> MobileFormer:
    """About 214 million multiply-adds."""
    return _create("mobile_former_214m", pretrained, kwargs)


@register_model
def mobile_former_294m(pretrained: bool = False, **kwargs: Any) -> MobileFormer:
    """About 294 million multiply-adds."""
    return _create("mobile_former_294m", pretrained, kwargs)


@register_model
def mobile_former_508m(pretrained: bool = False, **kwargs: Any) -> MobileFormer:
    """About 508 million multiply-adds."""
    return _create("mobile_former_508m", pretrained, kwargs)


def _create(variant: str, pretrained: bool, kwargs: dict[str, Any]) -> MobileFormer:
    return create(MobileFormer, variant, pretrained, **{**_VARIANTS[variant], **kwargs})

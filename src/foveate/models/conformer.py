"""Conformer: a convolutional branch and a transformer branch that exchange features in every block.

    images -> 7x7 convolution, max pooling -> map x at 1/4, tokens t of 4x4 patches of it
    hidden = conv3x3(reduce(x)),                x = relu(expand(hidden) + shortcut(x))
    t = block(t + [t_class, gelu(norm(project(pool(hidden))))])         map to tokens
    x = bottleneck(x), its 3x3 convolution reading reduce(x) + upsample(relu(norm(project(t))))

The map is a ResNet's of four levels, the tokens keep their number throughout; pooling and nearest
upsampling bring one to the resolution of the other. A class token and the pooled map have a
classifier each, and the logits are their sum; :meth:`Conformer.set_separate_logits` gives both in
training, for a loss each, as published. Features are the map's, and ``forward_features`` gives the
class token beside each cell of the last map, (B, C_4 + E, h, w); pooled, that is classified.

Shapes: map (B, C_i, ceil(H / r), ceil(W / r)) with r = 4, 8, 16, 32, the last from the last block,
whose second bottleneck has stride 2; tokens (B, 1 + ceil(H / 16) ceil(W / 16), E).

Paper: Peng et al., "Conformer: Local Features Coupling Global Representations for Visual
Recognition", ICCV 2021, arXiv:2105.03889.
Published code: pengzhiliang/Conformer@815aaad (Apache-2.0), whose weights load and whose pyramid
for detection this is. Here pooling comes before its projection, which is the same and cheaper.
Sides that the strides do not divide are padded for the tokens, and cropped.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import torch
from timm.layers import ConvNormAct, DropPath, Mlp, calculate_drop_path_rates, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.attention.full.multi_head import MultiHeadAttention
from foveate.contracts import OneStep
from foveate.layout import crop, map_to_tokens
from foveate.models._backbone import Backbone, Published, Stage, State, cfg, create, rename
from foveate.models._beside import apart, beside_every_cell
from foveate.models._layers import PatchEmbed, init_trunc_normal

__all__ = ["conformer_base", "conformer_small", "conformer_tiny"]

MapAndTokens = tuple[Tensor, Tensor]
"""The map and the tokens."""

_ConvNorm = partial(ConvNormAct, norm_kwargs={"eps": 1e-6})
_STEM = 64


class Bottleneck(nn.Module):
    """ResNet's bottleneck, into whose 3x3 convolution another map may be added.

    Args:
        in_chans: channels of the input.
        dim: channels of the output; a quarter of them inside.
        stride: of the 3x3 convolution.
        project: whether the shortcut is a convolution.
    """

    def __init__(self, in_chans: int, dim: int, stride: int = 1, project: bool = False) -> None:
        super().__init__()
        self.reduce = _ConvNorm(in_chans, dim // 4)
        self.conv = _ConvNorm(dim // 4, dim // 4, 3, stride)
        self.expand = _ConvNorm(dim // 4, dim, apply_act=False)
        self.shortcut = nn.Identity()
        if project:
            self.shortcut = _ConvNorm(in_chans, dim, 1, stride, apply_act=False)

    def forward(self, x: Tensor, joining: Tensor | None = None) -> Tensor:
        return self.leave(x, self.enter(x, joining))

    def enter(self, x: Tensor, joining: Tensor | None = None) -> Tensor:
        """The hidden map, from ``x`` and what joins it."""
        y = self.reduce(x)
        return self.conv(y if joining is None else y + joining)

    def leave(self, x: Tensor, hidden: Tensor) -> Tensor:
        """The output, from ``x`` and its hidden map."""
        return (self.expand(hidden) + self.shortcut(x)).relu()


class TokenBlock(nn.Module):
    """``t = t + attention(norm(t))``, then ``t = t + mlp(norm(t))``, on tokens ``(B, N, E)``.

    Args:
        dim: channels E.
        num_heads: heads.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        qkv_bias: whether q, k, v projections have a bias.
        proj_drop: dropout of the attention's output and in the MLP.
        attn_drop: dropout of the attention weights.
        drop_path: probability that a branch is left out for a sample.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = MultiHeadAttention(
            dim, num_heads, qkv_bias=qkv_bias, attn_drop=attn_drop, proj_drop=proj_drop
        )
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), drop=proj_drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        return tokens + self.drop_path(self.mlp(self.norm2(tokens)))


class MapToTokens(nn.Module):
    """``gelu(norm(project(pool(x))))``, row by row.

    Args:
        in_chans: channels of the map.
        dim: channels of the tokens.
        stride: cells of the map along the side of a token; at the border fewer are averaged.
    """

    def __init__(self, in_chans: int, dim: int, stride: int) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(stride, ceil_mode=True)
        self.project = nn.Conv2d(in_chans, dim, 1)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.norm(map_to_tokens(self.project(self.pool(x)))))


class TokensToMap(OneStep):
    """``upsample(relu(norm(project(t))))``, of a map of tokens.

    Args:
        dim: channels of the tokens.
        out_chans: channels of the map.
        stride: cells of the map along the side of a token.
    """

    def __init__(self, dim: int, out_chans: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.project = _ConvNorm(dim, out_chans, bias=True)

    def forward(self, tokens: Tensor, like: Tensor) -> Tensor:
        """The map of the tokens (B, N, E), in the size of the map ``like``."""
        height, width = like.shape[2:]
        # Not -(-n // stride): ONNX divides towards zero.
        grid = tuple((n + self.stride - 1) // self.stride for n in (height, width))
        y = self.project(tokens.unflatten(1, grid).permute(0, 3, 1, 2))
        if self.stride > 1:
            y = F.interpolate(y, scale_factor=self.stride)
        return crop(y.permute(0, 2, 3, 1), (height, width)).permute(0, 3, 1, 2)


class Exchange(nn.Module):
    """A block of both branches: map to tokens between two bottlenecks, then tokens to map.

    Args:
        in_chans: channels of the map.
        dim: channels of the map that it gives.
        embed_dim: channels of the tokens.
        stride: of the first bottleneck.
        token_stride: cells of its map along the side of a token.
        transformer: the block of the tokens.
        last: whether the second bottleneck halves the map.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        embed_dim: int,
        stride: int,
        token_stride: int,
        transformer: nn.Module,
        last: bool = False,
    ) -> None:
        super().__init__()
        self.conv = Bottleneck(in_chans, dim, stride, project=stride > 1)
        self.to_tokens = MapToTokens(dim // 4, embed_dim, token_stride)
        self.transformer = transformer
        self.to_map = TokensToMap(embed_dim, dim // 4, token_stride)
        self.fusion = Bottleneck(dim, dim, 2 if last else 1, project=last)

    def forward(self, state: MapAndTokens) -> MapAndTokens:
        x, tokens = state
        hidden = self.conv.enter(x)
        x = self.conv.leave(x, hidden)
        # The class token, which no cell of the map stands for, is added to itself, as published.
        joining = torch.cat([tokens[:, :1], self.to_tokens(hidden)], 1)
        tokens = self.transformer(tokens + joining)
        return self.fusion(x, self.to_map(tokens[:, 1:], hidden)), tokens


class Stem(nn.Module):
    """Images to both branches: ResNet's stem, then the first bottleneck and the first tokens.

    Args:
        in_chans: channels of the images.
        dim: channels of the map.
        embed_dim: channels of the tokens.
        patch_size: pixels along the side of a token.
        transformer: the block of the tokens.
    """

    def __init__(
        self, in_chans: int, dim: int, embed_dim: int, patch_size: int, transformer: nn.Module
    ) -> None:
        super().__init__()
        self.conv = ConvNormAct(in_chans, _STEM, 7, 2)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.bottleneck = Bottleneck(_STEM, dim, project=True)
        self.patches = PatchEmbed(_STEM, embed_dim, patch_size // 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.transformer = transformer

    def forward(self, images: Tensor) -> MapAndTokens:
        x = self.pool(self.conv(images))
        token = self.cls_token.expand(x.shape[0], -1, -1)
        tokens = torch.cat([token, map_to_tokens(self.patches(x))], 1)
        return self.bottleneck(x), self.transformer(tokens)


class Conformer(Backbone):
    """A convolutional and a transformer branch; features are the first's.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives both branches' pooled features side by side.
        global_pool: of the map, as in timm; ``""`` keeps the map, and leaves the tokens out.
        patch_size: pixels along the side of a token, a multiple of 16.
        base_channel: channels of the map before ``channel_ratio``.
        channel_ratio: channels of the map at 1/4 over ``base_channel``; they double twice.
        embed_dim: channels of the tokens.
        depth: blocks, a third of them at 1/4, 1/8 and 1/16 each.
        num_heads: heads of the tokens' attention.
        mlp_ratio: hidden channels of the tokens' MLP over ``embed_dim``.
        qkv_bias: whether q, k, v projections have a bias.
        drop_rate: dropout before the classifiers.
        proj_drop_rate: dropout of the attention's output and in the MLP.
        attn_drop_rate: dropout of the attention weights.
        drop_path_rate: stochastic depth of the transformer, rising to this in the last block.

    Raises:
        ValueError: if ``depth`` is not a multiple of three, or ``patch_size`` of sixteen.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        patch_size: int = 16,
        base_channel: int = 64,
        channel_ratio: float = 4,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        if depth % 3 or depth < 6:
            raise ValueError(f"depth must be a multiple of three, at least 6, got {depth}")
        if patch_size % 16 or patch_size < 16:
            raise ValueError(f"patch_size must be a multiple of 16, got {patch_size}")
        dims = [int(base_channel * channel_ratio) * 2**level for level in range(3)]
        rates = calculate_drop_path_rates(drop_path_rate, depth)
        transformers = [
            TokenBlock(
                embed_dim, num_heads, mlp_ratio, qkv_bias, proj_drop_rate, attn_drop_rate, rate
            )
            for rate in rates
        ]
        blocks = []
        for index in range(1, depth):
            level, first = divmod(index, depth // 3)
            halves = level > 0 and first == 0
            blocks.append(
                Exchange(
                    dims[level - halves],
                    dims[level],
                    embed_dim,
                    1 + halves,
                    patch_size // 4 // 2**level,
                    transformers[index],
                    last=index == depth - 1,
                )
            )
        cuts = (0, depth // 3 - 1, 2 * depth // 3 - 1, depth - 2, depth - 1)
        stages = [Stage(blocks[start:end]) for start, end in pairwise(cuts)]
        super().__init__(
            Stem(in_chans, dims[0], embed_dim, patch_size, transformers[0]),
            stages,
            dims=[*dims, dims[-1]],
            norm=nn.LayerNorm(embed_dim),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
        )
        self.embed_dim = embed_dim
        self.num_features = self.head_hidden_size = dims[-1] + embed_dim
        self.separate_logits = False
        self.token_head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        # A block gives both branches; its last bottleneck gives the map.
        for info, stage in zip(self.feature_info, stages, strict=True):
            info["module"] += f".blocks.{len(stage.blocks) - 1}.fusion"
        trunc_normal_(self.stem.cls_token, std=0.02)
        init_trunc_normal(self, nn.Linear)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def finish(self, x: MapAndTokens) -> MapAndTokens:
        """The map, and the tokens after their norm."""
        features, tokens = x
        return features, self.norm(tokens)

    def as_map(self, x: MapAndTokens) -> Tensor:
        """The map of the two."""
        return x[0]

    def as_features(self, x: MapAndTokens) -> Tensor:
        """The map, and the class token beside each of its cells: ``(B, C + E, h, w)``."""
        return beside_every_cell(x[0], x[1][:, 0])

    def set_separate_logits(self, enable: bool = True) -> None:
        """Give both branches' logits in training, as the published training has them.

        Its loss is the mean of the two branches' losses; in evaluation the logits are summed as
        ever.
        """
        self.separate_logits = enable

    def branch_logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the convolutional branch and of the transformer, from the features."""
        features, token = apart(x, self.map_channels)
        return self.head(features), self.token_head(self.head.drop(token))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        """The sum of both branches' logits, or both; the pooled features side by side before.

        Args:
            x: what ``forward_features`` gives.
            pre_logits: leave the classifiers out.
        """
        features, token = apart(x, self.map_channels)
        if not self.head.global_pool.pool_type:
            return self.head(features, pre_logits=pre_logits)
        if pre_logits or not self.num_classes:
            pooled = self.head(features, pre_logits=True)
            return torch.cat([pooled, self.head.drop(token)], 1)
        from_map, from_token = self.branch_logits(x)
        if self.training and self.separate_logits:
            return from_map, from_token
        return from_map + from_token

    def get_classifier(self) -> tuple[nn.Module, nn.Module]:
        """The classifiers of the map and of the class token."""
        return self.head.fc, self.token_head

    def reset_classifier(
        self,
        num_classes: int,
        global_pool: str | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().reset_classifier(num_classes, global_pool, device, dtype)
        like = next(self.parameters())
        self.token_head = nn.Identity()
        if num_classes > 0:
            self.token_head = nn.Linear(
                self.embed_dim, num_classes, device=device or like.device, dtype=dtype or like.dtype
            )

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        take = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        self.num_features = self.head_hidden_size = self.map_channels + self.embed_dim
        return take

    def convert_published(self, state: State) -> State:
        blocks = [
            f"stages.{level}.blocks.{index}"
            for level, stage in enumerate(self.stages)
            for index in range(len(stage.blocks))
        ]
        bottleneck = [
            (r"\.residual_conv\.", ".shortcut.conv."),
            (r"\.residual_bn\.", ".shortcut.bn."),
        ]
        for number, part in enumerate(("reduce", "conv", "expand"), 1):
            bottleneck += [
                (rf"\.conv{number}\.", f".{part}.conv."),
                (rf"\.bn{number}\.", f".{part}.bn."),
            ]
        return rename(
            state,
            [
                (r"^cls_token$", "stem.cls_token"),
                (r"^conv1\.", "stem.conv.conv."),
                (r"^bn1\.", "stem.conv.bn."),
                (r"^conv_1\.", "stem.bottleneck."),
                (r"^trans_1\.", "stem.transformer."),
                (r"^trans_patch_conv\.", "stem.patches.proj."),
                (r"^conv_trans_(\d+)\.", lambda match: f"{blocks[int(match[1]) - 2]}."),
                (r"\.squeeze_block\.conv_project\.", ".to_tokens.project."),
                (r"\.squeeze_block\.ln\.", ".to_tokens.norm."),
                (r"\.expand_block\.conv_project\.", ".to_map.project.conv."),
                (r"\.expand_block\.bn\.", ".to_map.project.bn."),
                (r"\.trans_block\.", ".transformer."),
                (r"\.cnn_block\.", ".conv."),
                (r"\.fusion_block\.", ".fusion."),
                *bottleneck,
                (r"^trans_norm\.", "norm."),
                (r"^trans_cls_head\.", "token_head."),
                (r"^conv_cls_head\.", "head.fc."),
            ],
        )


_CFG = cfg(
    origin_url="https://github.com/pengzhiliang/Conformer",
    license="apache-2.0",
    first_conv="stem.conv.conv",
    classifier=("head.fc", "token_head"),
)

default_cfgs = generate_default_cfgs(
    {f"conformer_{size}.untrained": _CFG for size in ("tiny", "small", "base")}
)

_SOURCE = "README of pengzhiliang/Conformer@815aaad"

_CHEAPER = "the same parameters; fewer multiply-adds because pooling comes before its projection"

PUBLISHED = {
    "conformer_tiny": Published("23.5M", "5.2G", 81.3, source=_SOURCE, note=_CHEAPER),
    "conformer_small": Published("37.7M", "10.6G", 83.4, source=_SOURCE, note=_CHEAPER),
    "conformer_base": Published("83.3M", "23.3G", 84.1, source=_SOURCE, note=_CHEAPER),
}


@register_model
def conformer_tiny(pretrained: bool = False, **kwargs: Any) -> Conformer:
    """A map of 64, 128 and 256 channels."""
    sizes = {"channel_ratio": 1, "embed_dim": 384, "num_heads": 6}
    return create(Conformer, "conformer_tiny", pretrained, **{**sizes, **kwargs})


@register_model
def conformer_small(pretrained: bool = False, **kwargs: Any) -> Conformer:
    """A map of ResNet-50's channels."""
    sizes = {"channel_ratio": 4, "embed_dim": 384, "num_heads": 6}
    return create(Conformer, "conformer_small", pretrained, **{**sizes, **kwargs})


@register_model
def conformer_base(pretrained: bool = False, **kwargs: Any) -> Conformer:
    """A map of half as many channels more, and wider tokens."""
    sizes = {"channel_ratio": 6, "embed_dim": 576, "num_heads": 9}
    return create(Conformer, "conformer_base", pretrained, **{**sizes, **kwargs})

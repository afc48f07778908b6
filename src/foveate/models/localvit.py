"""LocalViT: a vision transformer whose MLP is an inverted residual, with a depthwise convolution.

    images -> patches of 16x16, a class token, position embeddings
    x = x + attention(norm(x))
    patches = patches + project(gate(act(depthwise(act(expand(patches))))))    as a map

Every convolution is batch-normalised; the class token skips the second step, which has no norm of
its own. The rest is timm's ``VisionTransformer``, with images of any size: a last patch is padded
and the position embeddings are interpolated.

Shapes: images (B, in_chans, H, W), tokens (B, 1 + h w, C), features (B, C, h, w) with
h = ceil(H / 16) after every block.

Paper: Li et al., "LocalViT: Bringing Locality to Vision Transformers", arXiv:2104.05707; as
"Analyzing Locality in Vision Transformers", IROS 2023.
Published code: ofsoundof/LocalViT@f497260 (MIT), whose weights load. Its activations 1 to 5 are
``act_layer="relu6"``, then ``"hard_swish"`` with ``gate`` None, ``"se"``, ``"eca"`` and
``"eca_hard"``; ``reduction`` is the squeeze-and-excitation's. Its ``dp_first``, which no
configuration uses, and which fails there wherever the expansion is not one, is left out.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers import (
    ConvNormAct,
    DropPath,
    EcaModule,
    SqueezeExcite,
    calculate_drop_path_rates,
    get_act_layer,
    resample_abs_pos_embed,
    trunc_normal_,
)
from timm.models import checkpoint, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, fx, nn

from foveate.arguments import one_of
from foveate.attention.full.multi_head import MultiHeadAttention
from foveate.layout import map_to_tokens
from foveate.models._backbone import (
    Published,
    State,
    cfg,
    check_images,
    check_output_format,
    convert_parts,
    create,
    rename,
)
from foveate.models._synchronised import KeepsActivations

__all__ = ["localvit_small", "localvit_tiny", "localvit_tiny_se4"]

GATES = ("se", "eca", "eca_hard")


class LocalFeedForward(nn.Module):
    """``x + project(gate(act(depthwise(act(expand(x))))))`` on maps ``(B, C, h, w)``.

    Args:
        dim: channels.
        expansion: hidden channels over ``dim``.
        act_layer: timm's name of the activation, or its class.
        gate: ``"se"``, ``"eca"``, ``"eca_hard"`` (a hard sigmoid) or None.
        reduction: hidden channels over those of the bottleneck of ``"se"``.
        depthwise: whether there is a depthwise convolution.
    """

    def __init__(
        self,
        dim: int,
        expansion: float = 4.0,
        act_layer: str | type[nn.Module] = "hard_swish",
        gate: str | None = "se",
        reduction: int = 4,
        depthwise: bool = True,
    ) -> None:
        super().__init__()
        hidden = int(dim * expansion)
        act = get_act_layer(act_layer)
        self.expand = ConvNormAct(dim, hidden, act_layer=act)
        self.depthwise = nn.Identity()
        if depthwise:
            self.depthwise = ConvNormAct(hidden, hidden, 3, groups=hidden, act_layer=act)
        self.gate = nn.Identity() if gate is None else _gate(gate, hidden, reduction)
        self.project = ConvNormAct(hidden, dim, apply_act=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.gate(self.depthwise(self.expand(x))))

    def convert_published(self, state: State) -> State:
        """Names in place of numbers; the linear layers of the gate as 1x1 convolutions."""
        rules, at = [], 0
        for part, layers in (("expand", 3), ("depthwise", 3), ("gate", 1), ("project", 2)):
            if isinstance(getattr(self, part), nn.Identity):
                continue
            if part == "gate":
                rules += [
                    (rf"^conv\.{at}\.fc\.0\.", "gate.fc1."),
                    (rf"^conv\.{at}\.fc\.2\.", "gate.fc2."),
                    (rf"^conv\.{at}\.", "gate."),
                ]
            else:
                rules += [
                    (rf"^conv\.{at}\.", f"{part}.conv."),
                    (rf"^conv\.{at + 1}\.", f"{part}.bn."),
                ]
            at += layers
        state = rename(state, rules)
        return {
            name: value[..., None, None] if "gate.fc" in name and value.dim() == 2 else value
            for name, value in state.items()
        }


def _gate(name: str, dim: int, reduction: int) -> nn.Module:
    one_of(name, GATES, "gate")
    if name == "se":
        return SqueezeExcite(dim, rd_channels=dim // reduction, gate_layer="hard_sigmoid")
    return EcaModule(dim, gate_layer="sigmoid" if name == "eca" else "hard_sigmoid")


class LocalBlock(nn.Module):
    """Attention between all tokens, then the convolutional feed-forward on the patches.

    Args:
        dim: channels.
        num_heads: heads.
        feed_forward: ``(B, C, h, w) -> (B, C, h, w)``, with its own residual.
        qkv_bias: whether q, k, v projections have a bias.
        proj_drop: dropout of the attention's output.
        attn_drop: dropout of the attention weights.
        drop_path: probability that the attention is left out for a sample.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        feed_forward: nn.Module,
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
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.mlp = feed_forward

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        patches = x[:, 1:].unflatten(1, grid).permute(0, 3, 1, 2)  # (B, C, h, w)
        return torch.cat([x[:, :1], map_to_tokens(self.mlp(patches))], 1)


fx.wrap("resample_abs_pos_embed")


class LocalViT(KeepsActivations, VisionTransformer):
    """A vision transformer with convolutions between its attentions.

    Args:
        img_size: of the images that the position embeddings are made for; they are interpolated
            for any other, and those of a checkpoint made for another resampled.
        patch_size: side of a patch.
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm's ``VisionTransformer``.
        fc_norm: whether the norm follows the pooling; None for where ``global_pool`` puts it.
        embed_dim: channels C.
        depth: blocks.
        num_heads: heads.
        mlp_ratio: hidden channels of the feed-forward over ``embed_dim``.
        qkv_bias: whether q, k, v projections have a bias.
        act_layer: activation of the feed-forward.
        gate: after the depthwise convolution: ``"se"``, ``"eca"``, ``"eca_hard"`` or None.
        reduction: hidden channels over those of the bottleneck of ``"se"``.
        depthwise: whether the feed-forward has a depthwise convolution.
        drop_rate: dropout before the classifier.
        pos_drop_rate: dropout after the position embeddings.
        proj_drop_rate: dropout of the attention's output.
        attn_drop_rate: dropout of the attention weights.
        drop_path_rate: stochastic depth, rising to this in the last block.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        fc_norm: bool | None = None,
        embed_dim: int = 192,
        depth: int = 12,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        act_layer: str | type[nn.Module] = "hard_swish",
        gate: str | None = "se",
        reduction: int = 192,
        depthwise: bool = True,
        drop_rate: float = 0.0,
        pos_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(
            img_size,
            patch_size,
            in_chans,
            num_classes,
            global_pool,  # pyrefly: ignore[bad-argument-type]
            embed_dim,
            depth=0,
            fc_norm=fc_norm,
            drop_rate=drop_rate,
            pos_drop_rate=pos_drop_rate,
            dynamic_img_size=True,
            dynamic_img_pad=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        self.blocks = nn.Sequential(
            *(
                LocalBlock(
                    embed_dim,
                    num_heads,
                    LocalFeedForward(embed_dim, mlp_ratio, act_layer, gate, reduction, depthwise),
                    qkv_bias,
                    proj_drop_rate,
                    attn_drop_rate,
                    rate,
                )
                for rate in calculate_drop_path_rates(drop_path_rate, depth)
            )
        )
        # A block gives tokens; its feed-forward gives the map.
        self.feature_info = [
            {"module": f"blocks.{i}.mlp", "num_chs": embed_dim, "reduction": patch_size}
            for i in range(depth)
        ]
        trunc_normal_(self.cls_token, std=0.02)
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear) or ".gate.fc" in name:
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """``(B, in_chans, H, W) -> (B, 1 + h w, C)``, normalised."""
        x, grid = self._embed(x)
        for block in self.blocks:
            x = self._run(block, x, grid)
        return self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Any] | tuple[Tensor, list[Any]]:
        """The maps that the blocks give.

        Args:
            x: images (B, in_chans, H, W).
            indices: which blocks: the last n if an int, all if None.
            return_prefix_tokens: give each map with its class token (B, 1, C).
            norm: give all after the final norm.
            stop_early: stop after the last block asked for.
            output_fmt: ``"NCHW"``.
            intermediates_only: leave out the final tokens.

        Raises:
            ValueError: if another format is asked for.
        """
        check_output_format(output_fmt)
        take, last = feature_take_indices(len(self.blocks), indices)
        x, grid = self._embed(x)
        intermediates: list[Any] = []
        for index, block in enumerate(self.blocks[: last + 1] if stop_early else self.blocks):
            x = self._run(block, x, grid)
            if index in take:
                tokens = self.norm(x) if norm else x
                patches = tokens[:, 1:].unflatten(1, grid).permute(0, 3, 1, 2)
                intermediates.append((patches, tokens[:, :1]) if return_prefix_tokens else patches)
        return intermediates if intermediates_only else (self.norm(x), intermediates)

    def _embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The tokens of images, and how many patches lie along each side."""
        check_images(x, self.in_chans)
        x = self.patch_embed(x)  # (B, h, w, C)
        grid = x.shape[1], x.shape[2]
        # Named here and not left to timm's method, so that symbolic tracing takes it as one step.
        position = resample_abs_pos_embed(self.pos_embed, list(grid), self.patch_embed.grid_size)
        token = self.cls_token.expand(x.shape[0], -1, -1)
        return self.pos_drop(torch.cat([token, x.flatten(1, 2)], 1) + position), grid

    def _run(self, block: nn.Module, x: Tensor, grid: tuple[int, int]) -> Tensor:
        return checkpoint(block, x, grid) if self.grad_checkpointing else block(x, grid)

    def _load_from_state_dict(self, state_dict: State, prefix: str, *args: Any) -> None:
        """Position embeddings made for other (square) images are resampled."""
        name = f"{prefix}pos_embed"
        if name in state_dict and state_dict[name].shape[1] != self.pos_embed.shape[1]:
            grid = list(self.patch_embed.grid_size)
            state_dict[name] = resample_abs_pos_embed(state_dict[name], grid)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters, beside biases and norms, that weight decay should spare."""
        return {"pos_embed", "cls_token"}

    def convert_published(self, state: State) -> State:
        return convert_parts(self, rename(state, [(r"^(blocks\.\d+)\.conv\.", r"\1.mlp.")]))


def _weights(name: str) -> dict[str, Any]:
    return cfg(
        url=f"https://github.com/ofsoundof/LocalViT/releases/download/v1.0.0/{name}.pth",
        origin_url="https://github.com/ofsoundof/LocalViT",
        license="mit",
        pool_size=(14, 14),
        first_conv="patch_embed.proj",
        classifier="head",
    )


default_cfgs = generate_default_cfgs(
    {
        "localvit_tiny.in1k": _weights("localvit_t"),
        "localvit_tiny_se4.in1k": _weights("localvit_t_se4"),
        "localvit_small.in1k": _weights("localvit_s"),
    }
)

_SOURCE = "README of ofsoundof/LocalViT@f497260"
_ROUNDED = "the README gives DeiT-T's 5.7M; its own code has 5.91M, as here"

PUBLISHED = {
    "localvit_tiny": Published("5.7M", "", 74.84, source=_SOURCE, note=_ROUNDED),
    "localvit_tiny_se4": Published("9.4M", "", 75.74, source=_SOURCE),
    "localvit_small": Published("22.4M", "", 80.78, source=_SOURCE),
}


@register_model
def localvit_tiny(pretrained: bool = False, **kwargs: Any) -> LocalViT:
    """DeiT-T's width with four heads, and squeeze-and-excitation reduced by 192."""
    return _create("localvit_tiny", pretrained, {}, kwargs)


@register_model
def localvit_tiny_se4(pretrained: bool = False, **kwargs: Any) -> LocalViT:
    """The same with squeeze-and-excitation reduced by four."""
    return _create("localvit_tiny_se4", pretrained, {"reduction": 4}, kwargs)


@register_model
def localvit_small(pretrained: bool = False, **kwargs: Any) -> LocalViT:
    """DeiT-S's width with eight heads, and squeeze-and-excitation reduced by 384."""
    sizes = {"embed_dim": 384, "num_heads": 8, "reduction": 384}
    return _create("localvit_small", pretrained, sizes, kwargs)


def _create(
    variant: str, pretrained: bool, sizes: dict[str, Any], kwargs: dict[str, Any]
) -> LocalViT:
    options = {"out_indices": 3, **sizes, **kwargs}
    return create(LocalViT, variant, pretrained, **options)

"""What of a vision transformer of timm's is read: its blocks, and their attention step by step.

    x = x + scale1(attention(norm1(x))),   x = x + scale2(mlp(norm2(x)))

with the norms behind the branches in two of the five kinds of block. The attention of all of them
is ``finish(weigh(softmax(logits(q, k)), v))``, ``q, k, v = project(x)``; a reducer that needs only
a bias on the logits takes :func:`attend`, which is PyTorch's fused attention where there is one.

Shapes: x (B, N, C); q, k, v (B, h, N, D); logits and weights (B, h, N, N).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# By name, since timm need not be imported for what is no model of its.
_BLOCKS = (
    "timm.models.vision_transformer.Block",
    "timm.models.vision_transformer.ResPostBlock",
    "timm.models.eva.EvaBlock",
    "timm.models.eva.EvaBlockPostNorm",
    "timm.models.cait.LayerScaleBlock",
)
_ATTENTION = (
    "timm.layers.attention.Attention",
    "timm.layers.attention.AttentionRope",
    "timm.models.eva.EvaAttention",
    "timm.models.cait.TalkingHeadAttn",
)


class Vit(NamedTuple):
    """What is read of a vision transformer.

    Attributes:
        blocks: in order.
        container: class of the module that holds them.
        dim: channels C of a token.
        prefix: class, distillation and register tokens that stand before the patches' in the
            blocks; never dropped and never merged.
        reads_patches: whether what follows the blocks reads the patches' tokens, such as average
            pooling or class attention, and not the class token alone.
        class_token: whether the first of the prefix tokens is a class token.
        num_classes: of the model's head; 0 without one.
        grid: rows and columns of patches, where the model takes images of one size alone.
        drops_patches: whether some patches do not come to the blocks in training.
    """

    blocks: list[nn.Module]
    container: type[nn.Sequential] | type[nn.ModuleList]
    dim: int
    prefix: int
    reads_patches: bool
    class_token: bool
    num_classes: int
    grid: tuple[int, int] | None
    drops_patches: bool


def read(model: nn.Module) -> Vit:
    """The blocks and tokens of ``model``.

    Raises:
        TypeError: if ``model`` is no module.
        ValueError: if it has no tokens, or its blocks are of a kind that cannot be reduced.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module to reduce, got {type(model).__name__}")
    blocks: Any = getattr(model, "blocks", None)
    prefix = getattr(model, "num_prefix_tokens", None)
    container = type(blocks)
    known = container in (nn.Sequential, nn.ModuleList)
    if not known or prefix is None or not hasattr(model, "patch_embed"):
        raise ValueError(
            f"{type(model).__name__} is a model without tokens that could be fewer: reducers take "
            "timm's vision transformers (vit_*, deit_*, deit3_*, vit_*_dinov2, eva02_*, cait_*)"
        )
    if len(list(blocks.children())) < len(blocks):
        raise ValueError(
            f"one block stands at several places of this {type(model).__name__}, and reducers "
            "treat each place in its own way: give each a block of its own"
        )
    for name, block in blocks.named_children():
        _check_block(model, name, block)
    late = hasattr(model, "blocks_token_only")  # CaiT, whose class token joins behind the blocks
    return Vit(
        list(blocks.children()),
        container,
        dim=model.embed_dim,  # pyrefly: ignore
        prefix=0 if late else prefix,
        reads_patches=reads_patches(model),
        class_token=not late and getattr(model, "cls_token", None) is not None,
        num_classes=getattr(model, "num_classes", 0),
        grid=_only_grid(model),
        drops_patches=not isinstance(getattr(model, "patch_drop", None), nn.Identity | None),
    )


def _only_grid(model: Any) -> tuple[int, int] | None:
    grid = getattr(model.patch_embed, "grid_size", None)
    one_size = getattr(model.patch_embed, "strict_img_size", True)
    return tuple(grid) if grid is not None and one_size else None


def require_all_patches(vit: Vit, reducer: str) -> None:
    """Refuse a model that drops patches at random in training.

    Raises:
        ValueError: if it does.
    """
    if vit.drops_patches:
        raise ValueError(
            f"{reducer} goes by the place of each patch, and this model drops patches at random in "
            "training: build it without patch_drop_rate"
        )


def reads_patches(model: Any) -> bool:
    """Whether what follows the blocks of ``model`` reads the patches' tokens."""
    late = hasattr(model, "blocks_token_only")
    return late or getattr(model, "global_pool", "token") != "token"


def _check_block(model: nn.Module, name: str, block: nn.Module) -> None:
    """Refuse what is no plain block: a subclass may compute something else."""
    attention = getattr(block, "attn", block)
    for path, part, known in (
        (f"blocks.{name}", block, _BLOCKS),
        (f"blocks.{name}.attn", attention, _ATTENTION),
    ):
        kind = f"{type(part).__module__}.{type(part).__qualname__}"
        if kind not in known:
            raise ValueError(
                f"{path} of this {type(model).__name__} is a {kind}, which reducers do not know; "
                f"they know {', '.join(known)}"
            )
        if hooked(part):
            raise ValueError(
                f"something hangs on {path}, which a reduced model would not run: reduce the model "
                "first (what foveate.insert or foveate.replace put in: foveate.restore)"
            )


def hooked(module: nn.Module) -> bool:
    """Whether something is to be called with ``module``."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def plus_attention(block: Any, x: Tensor, attention: Callable[[Tensor], Tensor]) -> Tensor:
    """``x`` plus the attention branch of ``block``, with ``attention`` in place of its own."""
    return _plus(block, "1", x, attention)


def plus_mlp(
    block: Any, x: Tensor, mlp: Callable[[Tensor], Tensor] | None = None
) -> Tensor:  # fmt: skip
    """``x`` plus the MLP branch of ``block``, with ``mlp`` in place of its own if given."""
    return _plus(block, "2", x, mlp or block.mlp)


def _plus(block: Any, which: str, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
    norm = getattr(block, f"norm{which}")
    scale = getattr(block, f"ls{which}", None)
    gamma = getattr(block, f"gamma_{which}", None)
    if scale is not None:
        y = scale(branch(norm(x)))
    elif hasattr(block, "gamma_1"):
        y = branch(norm(x))
        y = y if gamma is None else gamma * y
    else:
        y = norm(branch(x))
    shared = getattr(block, "drop_path", None)  # CaiT has one for both branches
    drop_path = getattr(block, f"drop_path{which}") if shared is None else shared
    return x + drop_path(y)


def project(attention: Any, x: Tensor, rope: Tensor | None = None) -> tuple[Tensor, ...]:
    """Queries, keys and values of all heads (B, h, N, D), rotated where ``rope`` is given.

    Args:
        attention: of a block.
        x: tokens (B, N, C).
        rope: rotary embedding of the patches' tokens, as :func:`rope_of` gives it.
    """
    heads = attention.num_heads
    if getattr(attention, "qkv", None) is not None:
        # Values may be narrower than queries and keys.
        parts = _qkv(attention, x).split(widths(attention), -1)  # (B, N, h D) each
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
    else:
        q, k = (part(x) for part in (attention.q_proj, attention.k_proj))
        q, k = (part.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for part in (q, k))
        v = attention.v_proj(x).unflatten(-1, (k.shape[1], -1)).transpose(1, 2)
    if not _mixes_heads(attention):
        q, k = attention.q_norm(q), attention.k_norm(k)
    if rope is not None:
        q, k = (_rotated(attention, each, rope).type_as(v) for each in (q, k))
    groups = heads // k.shape[1]
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    return q, k, v


def values(attention: Any, x: Tensor) -> Tensor:
    """Values of all heads (B, h, N, D), of an attention after :func:`keep_values`."""
    if getattr(attention, "qkv", None) is None:
        v = attention.v_proj(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        return v.repeat_interleave(attention.num_heads // v.shape[1], dim=1)
    bias = getattr(attention, "v_bias", None)
    v = attention.qkv(x) if bias is None else F.linear(x, attention.qkv.weight, bias)
    return v.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)


def keep_values(attention: Any) -> None:
    """Drop what makes queries and keys, in place; ``qkv`` then makes values alone."""
    if getattr(attention, "qkv", None) is None:
        attention.q_proj = attention.k_proj = None
    else:
        rows = torch.arange(attention.qkv.out_features)[-widths(attention)[2] :]
        attention.qkv = take(attention.qkv, rows=rows)
        if getattr(attention, "q_bias", None) is not None:
            attention.q_bias = attention.k_bias = None
    for name in ("q_norm", "k_norm", "proj_l"):
        if hasattr(attention, name):
            setattr(attention, name, nn.Identity())


def take(
    layer: nn.Linear, rows: Tensor | None = None, columns: Tensor | None = None
) -> nn.Linear:  # fmt: skip
    """Some ``rows`` (outputs) and ``columns`` (inputs) of ``layer``, as a layer of its own."""
    weight, bias = layer.weight.detach(), layer.bias
    if columns is not None:
        weight = weight[:, columns.to(weight.device)]
    if rows is not None:
        rows = rows.to(weight.device)
        weight, bias = weight[rows], None if bias is None else bias[rows]
    like = {"device": weight.device, "dtype": weight.dtype}
    small = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, **like)
    with torch.no_grad():
        small.weight.copy_(weight)
        if bias is not None:
            small.bias.copy_(bias)
    small.requires_grad_(layer.weight.requires_grad)
    return small.train(layer.training)


def _mixes_heads(attention: Any) -> bool:
    """Whether it is CaiT's talking-heads attention."""
    return hasattr(attention, "proj_l")


def _qkv(attention: Any, x: Tensor) -> Tensor:
    if getattr(attention, "q_bias", None) is None:
        return attention.qkv(x)
    bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
    return F.linear(x, attention.qkv.weight, bias)


def _rotated(attention: Any, x: Tensor, rope: Tensor) -> Tensor:
    from timm.layers import apply_rot_embed_cat

    prefix = attention.num_prefix_tokens
    half = getattr(attention, "rotate_half", False)
    patches = apply_rot_embed_cat(x[:, :, prefix:], rope, half=half)
    return torch.cat([x[:, :, :prefix], patches], dim=2)


def rope_of(rope: Tensor | None, position: Tensor | None) -> Tensor | None:
    """The rotary embedding of the tokens that are left.

    Args:
        rope: of all patches: (N, E), of each head (h, N, E), or with the batch (B, 1 or h, N, E).
        position: patch at whose place each token stands (B, M); None while all are there.
    """
    if rope is None or position is None:
        return rope
    if rope.dim() < 4:
        rope = rope.view(1, -1, *rope.shape[-2:])
    rope = rope.expand(position.shape[0], -1, -1, -1)  # (B, 1 or h, N, E)
    index = position[:, None, :, None].expand(-1, rope.shape[1], -1, rope.shape[3])
    return rope.gather(2, index)


def attend(attention: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """``softmax(logits + bias) v``, (B, h, N, D); ``bias`` broadcasts to the logits."""
    if _mixes_heads(attention):
        scores = logits(attention, q, k)
        scores = scores if bias is None else scores + bias
        return weigh(attention, scores.softmax(-1), v)
    dropout_p = attention.attn_drop.p if attention.training else 0.0
    narrow = v.shape[-1]
    if narrow < q.shape[-1]:  # fused attention wants values as wide as queries
        v = F.pad(v, (0, q.shape[-1] - narrow))
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_p)
    return y[..., :narrow]


def attend_and_score(attention: Any, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`attend`, and the attention that each token gets from all heads and queries (B, N).

    Head by head, where heads do not mix: one map at a time is what a fused attention comes close to
    in time and memory.
    """
    if _mixes_heads(attention):
        weights = logits(attention, q, k).softmax(-1)
        return weigh(attention, weights, v), weights.sum((1, 2))
    outputs, scores = [], []
    for q_head, k_head, v_head in zip(q.unbind(1), k.unbind(1), v.unbind(1), strict=True):
        weights = logits(attention, q_head, k_head).softmax(-1)
        outputs.append(weigh(attention, weights, v_head))
        scores.append(weights.sum(1))
    return torch.stack(outputs, 1), torch.stack(scores).sum(0)


def logits(attention: Any, q: Tensor, k: Tensor) -> Tensor:
    """What the softmax is taken of, (B, h, N, N)."""
    scores = (q * attention.scale) @ k.transpose(-2, -1)
    if _mixes_heads(attention):
        scores = attention.proj_l(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return scores


def weigh(attention: Any, weights: Tensor, v: Tensor) -> Tensor:
    """The values' means by ``weights``, after what the attention does to these in training."""
    if _mixes_heads(attention):
        weights = attention.proj_w(weights.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return attention.attn_drop(weights) @ v


def finish(attention: Any, x: Tensor, y: Tensor) -> Tensor:
    """The attention's output (B, N, C) from what its heads give, ``y``, for the tokens ``x``."""
    y = y.transpose(1, 2).flatten(2)
    if not _mixes_heads(attention):
        y = attention.norm(y)
        gate = getattr(attention, "gate", None)
        y = y if gate is None else y * gate(x).sigmoid()
    return attention.proj_drop(attention.proj(y))


def attention_cost(attention: Any, tokens: int) -> int:
    """Multiply-adds of an attention over so many tokens."""
    mixers = (getattr(attention, name, None) for name in ("proj_l", "proj_w"))
    mixing = sum(each.weight.numel() for each in mixers if isinstance(each, nn.Linear))
    queries, _, values = widths(attention)
    projections = linear_cost(attention, 1) - mixing  # a token; mixing is a pair of tokens
    return projections * tokens + (queries + values + mixing) * tokens * tokens


def linear_cost(module: nn.Module, positions: int) -> int:
    """Multiply-adds of the linear layers inside ``module``, each at so many positions."""
    weights = sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))
    return weights * positions


def widths(attention: Any) -> tuple[int, int, int]:
    """Channels of queries, keys and values of all heads together."""
    width = attention.proj.in_features
    if getattr(attention, "qkv", None) is not None:
        each = (attention.qkv.out_features - width) // 2
    else:
        each = 0 if attention.q_proj is None else attention.q_proj.out_features
    return each, each, width

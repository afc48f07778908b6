"""A whole model: reduced, looked at, counted."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from foveate.arguments import nearest, one_of, pair
from foveate.contracts import Reducer
from foveate.reduction._blocks import ReducedBlocks, Watch
from foveate.reduction._vit import linear_cost
from foveate.registry import describe, list_reducers

_Model = TypeVar("_Model", bound=nn.Module)


def reduce(model: _Model, reducer: str | type[Reducer], **options: Any) -> nn.Module:
    """Make a vision transformer cheaper: fewer tokens, channels or attention maps.

    Where the reducer works between the model's own blocks, ``model`` is changed in place: it keeps
    its class, weights and their names, ``forward_features``, ``forward_head`` and
    ``reset_classifier``, and loads what it loaded before. Class, distillation and register tokens
    are never dropped or merged.

    Args:
        model: one of timm's vision transformers (``vit_*``, ``deit_*``, ``deit3_*``, DINOv2 with
            registers, EVA-02, CaiT), with its weights.
        reducer: a name of :func:`foveate.list_reducers`, or a class.
        **options: of the reducer; ``foveate.describe(reducer)`` says which there are.

    Returns:
        The reduced model; ``model`` itself unless the reducer makes a new one, as it then says.

    Raises:
        TypeError: if ``model`` is no module or ``reducer`` no name and no class.
        ValueError: if the reducer or an option is unknown or wrong, the model is without tokens,
            its blocks are of another kind, or it has been reduced before.
    """
    if isinstance(reducer, str):
        known = one_of(reducer, list_reducers(), "reducer")
        reducer = describe(known).cls
    if not (isinstance(reducer, type) and issubclass(reducer, Reducer)):
        raise TypeError(
            "expected the name of a reducer or a class derived from foveate.contracts.Reducer, got "
            f"{reducer!r}"
        )
    names = [name for name in inspect.signature(reducer).parameters if name != "vit"]
    for option in options:
        if option not in names:
            raise ValueError(f"{reducer.__name__} has no option {option!r}{nearest(option, names)}")
    before = reducer_of(model)
    if before is not None:
        raise ValueError(
            f"this {type(model).__name__} has been reduced by {type(before).__name__} already: "
            "reduce the model that it was made of"
        )
    reduced = reducer.reduce(model, **options)
    made = reducer_of(reduced)
    if made is not None:
        ranges = {name: list(value) for name, value in options.items() if isinstance(value, range)}
        made.options = {**options, **ranges}  # a recipe is JSON, which has no ranges
    return reduced


def reducer_of(model: nn.Module) -> Reducer | None:
    """What reduced ``model``; None where nothing did."""
    if isinstance(model, Reducer):
        return model
    blocks = getattr(model, "blocks", None)
    return blocks if isinstance(blocks, Reducer) else None


def finish(model: _Model) -> _Model:
    """End what only training needs of a reduced model, in place and for good.

    ``vtp`` removes the channels with the smallest scores; most reducers have nothing to end.

    Raises:
        ValueError: if nothing has reduced ``model``, or there is nothing learnt to go by.
    """
    _required(model).finish()
    return model


def _required(model: nn.Module) -> Reducer:
    """What reduced ``model``, which something must have."""
    reducer = reducer_of(model)
    if reducer is None:
        raise ValueError(
            f"this {type(model).__name__} has not been reduced: foveate.reduce(model, ...)"
        )
    return reducer


def sources(model: nn.Module, images: Tensor) -> dict[int, Tensor]:
    """Which token stands for each patch of ``images``, after each block that reduces.

    The model runs once, in the mode that it is in. Nothing of it stays on the model.

    Args:
        model: a model whose blocks were reduced.
        images: as the model takes them, (B, 3, H, W).

    Returns:
        By the number of the block, in order: (B, N) for the N patches, row by row. It is the number
        of the token among those of patches (class and other prefix tokens are not counted), and -1
        where the patch was dropped. It holds from that block's reduction to the next one; what
        holds behind the last block may be under the number of blocks. Empty where no block drops or
        merges anything.

    Raises:
        ValueError: if nothing has reduced the model's blocks.
    """
    with watching(model) as watch, torch.no_grad():
        model(images)
    return watch.layers


@contextmanager
def watching(model: nn.Module) -> Iterator[Watch]:
    """Within, a reduced model notes what becomes of its tokens, and what it decides in training.

    Raises:
        ValueError: if nothing has reduced the model.
    """
    reducer = _required(model)
    before = reducer.watch
    watch = reducer.watch = Watch(reducer.penalties)
    try:
        yield watch
    finally:
        reducer.watch = before


def multiply_adds(model: nn.Module, size: int | tuple[int, int]) -> int:
    """Multiply-adds of one image through a reduced model in eval mode, in closed form.

    Matrix products and convolutions count; softmax, normalization, sorting and gathering do not.

    Args:
        model: a model whose blocks were reduced.
        size: of the image, (H, W) in pixels.

    Raises:
        ValueError: if nothing has reduced the model's blocks, or what stands around these has no
            closed form here; :func:`foveate.count_flops` runs any model, and counts two a
            multiply-add.
    """
    size = pair(size, "size")
    if isinstance(model, Reducer):
        return model.image_multiply_adds(size)
    blocks = blocks_of(model)
    whole: Any = model
    embed = whole.patch_embed
    if type(embed).__name__ != "PatchEmbed" or getattr(whole, "attn_pool", None) is not None:
        raise ValueError(
            f"the {type(embed).__name__} or the pooling of this {type(model).__name__} has no "
            "closed form here: foveate.count_flops(model, image) // 2 counts any model"
        )
    height, width = embed.dynamic_feat_size(size)
    patches = height * width
    left = blocks.tokens_out(patches)
    heads = whole.get_classifier()
    heads = heads if isinstance(heads, tuple) else (heads,)
    return (
        embed.proj.weight.numel() * patches
        + blocks.multiply_adds(patches + blocks.prefix)
        + sum(_class_attention(block, left) for block in getattr(whole, "blocks_token_only", []))
        + sum(linear_cost(head, 1) for head in heads)
    )


def _class_attention(block: Any, patches: int) -> int:
    """Of CaiT's class token over itself and the patches' tokens that are left."""
    attention = block.attn
    tokens = patches + 1
    over_tokens = attention.k.weight.numel() + attention.v.weight.numel()
    each = attention.q.weight.numel() + attention.proj.weight.numel()
    pairs = 2 * tokens * attention.proj.in_features
    return over_tokens * tokens + each + pairs + linear_cost(block.mlp, 1)


def blocks_of(model: nn.Module) -> ReducedBlocks:
    """The blocks of ``model``, which have been reduced.

    Raises:
        ValueError: if they have not.
    """
    blocks = reducer_of(model)
    if not isinstance(blocks, ReducedBlocks):
        raise ValueError(
            f"the blocks of this {type(model).__name__} have not been reduced: "
            "foveate.reduce(model, ...)"
        )
    return blocks

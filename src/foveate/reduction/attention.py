"""Attention maps of a reduced model, on the grid of patches of the image.

A token that stands for several patches gives each an equal part of the weight that it gets; a patch
that was dropped gets none. Only the row of the query is computed beside the model's own attention,
so that no map of all pairs is held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from foveate._attention_rows import AttentionObserver, FusedAttention, picked
from foveate.reduction._blocks import Watch
from foveate.reduction.on_grid import grid_of, patches_of
from foveate.reduction.whole import blocks_of, watching


def attention_maps(
    model: nn.Module, images: Tensor, query: tuple[int, int] | None = None
) -> dict[int, Tensor]:
    """How much each patch counts for one query in the attention of every block, in eval mode.

    Weights are averaged over heads (CaiT's before they are mixed). What goes to class and register
    tokens is left out, so that a map sums to at most one.

    Args:
        model: a model whose blocks were reduced.
        images: as the model takes them, (B, 3, H, W).
        query: row and column of the patch that asks, which is the token that stands for it; by
            default the class token, and where the blocks have none the mean over all tokens.

    Returns:
        By the number of the block (B, rows, columns); NaN where the patch that asks was dropped
        before.

    Raises:
        ValueError: if nothing has reduced the model's blocks, or the query is outside of the grid.
    """
    blocks = blocks_of(model)
    rows, columns = grid_of(model, images)
    if query is not None and not (0 <= query[0] < rows and 0 <= query[1] < columns):
        raise ValueError(f"query {query} is outside the {rows}x{columns} grid of patches")
    patch = None if query is None else query[0] * columns + query[1]
    class_token = bool(blocks.prefix) and getattr(model, "cls_token", None) is not None
    maps: dict[int, Tensor] = {}

    def note(index: int, weights: Tensor | None, tokens: Tensor) -> None:
        if weights is None:  # a block that uses the map of the one before
            maps[index] = maps[index - 1]
        else:
            each = _spread(weights[:, blocks.prefix :], tokens)
            maps[index] = each.unflatten(1, (rows, columns))

    was = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with watching(model) as watch, torch.no_grad():
            everywhere = torch.arange(rows * columns, device=images.device)
            tokens = everywhere.expand(len(images), -1)
            asking = _Asking(watch, tokens, blocks.prefix, patch, class_token)
            with _ends(blocks.blocks, lambda index: note(index, *asking.end())), asking:
                model(images)
    finally:
        for module, training in was:
            module.training = training
    return maps


def _spread(weights: Tensor, tokens: Tensor) -> Tensor:
    """Weights of patches' tokens (B, M) as those of patches (B, N), by each one's token."""
    each = weights.gather(1, tokens.clamp_min(0)) / patches_of(tokens).clamp_min(1)
    return torch.where((tokens >= 0) | each.isnan(), each, 0.0)


class _Asking(AttentionObserver):
    """Keeps the query's row of every attention that is computed within, whoever computes it.

    Args:
        watch: notes what becomes of the tokens.
        tokens: of each patch before the first block (B, N).
        prefix: tokens before those of patches.
        patch: that asks; None for the class token.
        class_token: whether there is one; else all tokens ask.
    """

    def __init__(
        self, watch: Watch, tokens: Tensor, prefix: int, patch: int | None, class_token: bool
    ) -> None:
        super().__init__()
        self.watch, self.first, self.prefix = watch, tokens, prefix
        self.patch, self.all = patch, patch is None and not class_token
        self.heads: list[Tensor] = []

    def end(self) -> tuple[Tensor | None, Tensor]:
        """What a block's attention came to: the query's weights (B, P + M), if it computed any, and
        the token of each patch (B, N).
        """
        weights = torch.stack(self.heads).mean(0) if self.heads else None
        tokens = self._tokens()
        if weights is not None and self.patch is not None:
            weights = weights.masked_fill(tokens[:, self.patch, None] < 0, torch.nan)
        self.heads = []
        return weights, tokens

    def _tokens(self) -> Tensor:
        return next(reversed(self.watch.layers.values()), self.first)

    def fused(self, call: FusedAttention) -> None:
        # Head by head, so that one map of all pairs is the most that is there.
        heads, queries = range(call.query.shape[1]), self._queries()
        self.heads = [call.head(head).rows(queries).mean((1, 2)) for head in heads]

    def softmax(self, weights: Tensor) -> None:
        """Of one head (B, N, M), or of all (B, h, N, M)."""
        if weights.dim() not in (3, 4):
            return
        several = weights.dim() == 4
        if weights.shape[-2] == 1 and self.patch is not None:
            return  # of the class token alone, which is computed beside the attention
        each = weights if several else weights[:, None]  # (B, h, N, M)
        row = picked(each, self._queries()).mean((1, 2))
        self.heads = [row] if several else [*self.heads, row]

    def _queries(self) -> Tensor | None:
        """Tokens that ask, (1,) or (B, 1); None for all."""
        if self.all:
            return None
        if self.patch is None:
            return torch.zeros(1, dtype=torch.long, device=self.first.device)
        return self.prefix + self._tokens()[:, self.patch, None].clamp_min(0)


@contextmanager
def _ends(blocks: list[Any], at: Callable[[int], None]) -> Iterator[None]:
    """Within, ``at`` is told where the attention of a block, by its number, gives its output."""

    def hook(index: int) -> Callable[..., None]:
        return lambda *_: at(index)

    handles = [
        block.attn.proj.register_forward_pre_hook(hook(index)) for index, block in enumerate(blocks)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

"""Token merging (ToMe): in every block the r most similar pairs of tokens become one each.

    pairs: tokens alternate between two sets; each one of the first finds its most similar one of
           the second, by the cosine of keys averaged over heads; the r most similar pairs merge
    x_j = (s_i x_i + s_j x_j) / (s_i + s_j),   s_j = s_i + s_j            (s: patches in a token)
    attention = softmax(q k^T / sqrt(D) + log s) v                        (a token counts s times)

Merging stands between the attention and the MLP of a block, with that attention's keys. Nothing is
learnt: a trained model is merged as it is, or trained on with merging.

Shapes: x (B, N, C), s (B, N, 1), keys (B, h, N, D). Of N tokens, P of them class or register
tokens, at most (N - P) / 2 merge at once.
Cost: that of the blocks on fewer tokens, and ``N^2 D / 4`` multiply-adds a block for the
similarities.

Paper: Bolya et al., "Token Merging: Your ViT But Faster", ICLR 2023, arXiv:2210.09461.
Published code: facebookresearch/ToMe@af95e4b, CC-BY-NC 4.0; this is written from the paper and
from recorded numbers. As there, tokens that are left keep their order where there is a class token,
and stand in the order of their similarities where there is none. What the paper does not say:
registers are kept apart as the class token is; a merged token has the rotary position of the
token of the second set; where the head reads patches' tokens (average or attention pooling, CaiT's
class attention), each token is put back at all of its patches behind the last block, so that it
counts as often there as in the attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.arguments import flag
from foveate.reduction._blocks import ReducedBlocks
from foveate.reduction._clusters import sum_dtype
from foveate.reduction._options import is_whole, listed
from foveate.reduction._vit import (
    Vit,
    attend,
    finish,
    plus_attention,
    plus_mlp,
    project,
    rope_of,
)
from foveate.registry import register


class Merged(NamedTuple):
    """What the blocks hand on.

    Attributes:
        size: patches in each token (B, N, 1); None while nothing has merged.
        position: patch at whose place each patch's token stands (B, N - P); None likewise, and
            where the model has no rotary embedding.
        token: token of each patch (B, patches); None likewise, and where nobody reads it.
    """

    size: Tensor | None = None
    position: Tensor | None = None
    token: Tensor | None = None


@register(
    "tome",
    family="tokens",
    title="Token merging: similar tokens become one, block by block, without training (ToMe)",
    paper="Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023, arXiv:2210.09461",
    source="facebookresearch/ToMe@af95e4b1befa172dadccd8c81e223b10090f9579",
    license="CC-BY-NC-4.0",
    parity="the published way back to all tokens mistakes the distillation token's place; sources "
    "here are those of the merging itself",
)
class ToMe(ReducedBlocks):
    """Merge ``r`` pairs of tokens in every block.

    Args:
        vit: what is read of the model.
        r: pairs merged in a block; or how many in each block, in order. At most half of the tokens
            of patches merge at once, whatever is asked for.
        prop_attn: whether a token counts in the attention as often as it has patches.
    """

    unreduced = {"r": 0}  # noqa: RUF012

    def __init__(self, vit: Vit, r: int | Sequence[int] = 13, *, prop_attn: bool = True) -> None:
        super().__init__(vit)
        self.r = _each_block(r, len(self))
        self.prop_attn = flag(prop_attn, "prop_attn")

    def begin(self, x: Tensor) -> Merged:
        return Merged()

    def layer(
        self, index: int, block: Any, x: Tensor, state: Merged, rope: Tensor | None
    ) -> tuple[Tensor, Merged]:
        attention, merging = block.attn, None
        rope = rope_of(rope, state.position)

        def attended(x: Tensor) -> Tensor:
            nonlocal merging
            q, k, v = project(attention, x, rope)
            bias = None
            if self.prop_attn and state.size is not None:
                bias = state.size.log().to(q.dtype)[:, None, None, :, 0]
            r = min(self.r[index], (x.shape[1] - self.prefix) // 2)
            if r:
                merging = match(k.mean(1), r, self.prefix)
            return finish(attention, x, attend(attention, q, k, v, bias))

        x = plus_attention(block, x, attended)
        if merging is not None:
            size = state.size
            if size is None:
                size = x.new_ones(*x.shape[:2], 1, dtype=sum_dtype(x))
            x, size = merging.merge(x, size)
            position = None if rope is None else merging.position(state.position)
            state = Merged(size, position, self._token(index, state, merging))
        return plus_mlp(block, x), state

    def _token(self, index: int, state: Merged, merging: Matching) -> Tensor | None:
        """The token of each patch, where somebody reads it."""
        if self.watch is None and not self.reads_patches:
            return None
        moved = merging.moved()
        if self.watch is not None:
            self.watch.moved(index, moved)
        return moved if state.token is None else moved.gather(1, state.token)

    def end(self, x: Tensor, state: Merged) -> Tensor:
        return self.put_back(x, state.token) if self.reads_patches else x

    def counts(self, patches: int) -> list[tuple[int, int]]:
        counts = []
        for r in self.r[: len(self)]:  # some blocks may have been removed
            left = patches - min(r, patches // 2)
            counts.append((patches, left))
            patches = left
        return counts

    def own_multiply_adds(self, patches: int) -> int:
        total = 0
        for block, (before, after) in zip(self.blocks, self.counts(patches), strict=True):
            first = (before + (self.prefix + 1) % 2) // 2
            channels = block.attn.proj.in_features // block.attn.num_heads
            total += first * (before - first) * channels * (after < before)
        return total

    def tokens_out(self, patches: int) -> int:
        return patches if self.reads_patches else super().tokens_out(patches)


class Matching(NamedTuple):
    """Which tokens merge; all indices are within one of the two sets of patches' tokens.

    Attributes:
        prefix: tokens that stand apart.
        first: first token of each set, after those: 0 or 1.
        tokens: of patches, N - P.
        left: those of the first set that do not merge (B, L).
        source: those of the first set that merge (B, r).
        destination: what each of these merges into, of the second set (B, r).
    """

    prefix: int
    first: int
    tokens: int
    left: Tensor
    source: Tensor
    destination: Tensor

    def sets(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The patches' tokens of ``x`` (B, N - P, ...), taken in turn."""
        return x[:, self.first :: 2], x[:, 1 - self.first :: 2]

    def merge(self, x: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Means weighted by ``size``, with sizes: of what is left of the first set, the second."""
        dtype = x.dtype  # in half precision the sums of many tokens would overflow
        x, size = self._sum(x.to(size.dtype) * size), self._sum(size)
        return (x / size).to(dtype), size

    def _sum(self, x: Tensor) -> Tensor:
        apart, patches = x[:, : self.prefix], x[:, self.prefix :]
        first, second = self.sets(patches)
        channels = x.shape[2]
        sources = first.gather(1, _wide(self.source, channels))
        second = second.scatter_add(1, _wide(self.destination, channels), sources)
        return torch.cat([apart, first.gather(1, _wide(self.left, channels)), second], 1)

    def position(self, before: Tensor | None) -> Tensor:
        """The patch at whose place each token stands after merging, (B, L + second set)."""
        if before is None:
            numbers = torch.arange(self.tokens, device=self.left.device)
            before = numbers.expand(self.left.shape[0], -1)
        first, second = self.sets(before)
        return torch.cat([first.gather(1, self.left), second], 1)

    def moved(self) -> Tensor:
        """The token after merging of each one before, among those of patches (B, N - P)."""
        batch, left = self.left.shape
        device = self.left.device
        first = torch.zeros(batch, left + self.source.shape[1], dtype=torch.long, device=device)
        first = first.scatter(1, self.left, torch.arange(left, device=device).expand(batch, -1))
        first = first.scatter(1, self.source, left + self.destination)
        rest = self.tokens - first.shape[1]
        second = torch.arange(left, left + rest, device=device).expand(batch, -1)
        pairs = (first, second) if self.first == 0 else (second, first)
        return _in_turn(*pairs)


@torch.no_grad()
def match(metric: Tensor, r: int, prefix: int) -> Matching:
    """The ``r`` most similar pairs of tokens, one of each set.

    Args:
        metric: by whose cosine tokens are similar (B, N, D).
        r: pairs, at most half of the tokens of patches.
        prefix: tokens before those of patches, which stay as they are. They count in whose turn it
            is.
    """
    patches = F.normalize(metric[:, prefix:], dim=-1)
    odd = prefix % 2
    first, second = patches[:, odd::2], patches[:, 1 - odd :: 2]
    best, partner = (first @ second.transpose(1, 2)).max(-1)  # (B, first set)
    order = best.argsort(-1, descending=True)
    left, source = order[:, r:], order[:, :r]
    if prefix:
        left = left.sort(-1).values
    return Matching(prefix, odd, patches.shape[1], left, source, partner.gather(1, source))


def _wide(index: Tensor, channels: int) -> Tensor:
    return index[..., None].expand(-1, -1, channels)


def _in_turn(first: Tensor, second: Tensor) -> Tensor:
    """One of each in turn, beginning with ``first``, which may be one longer."""
    both = torch.stack([first[:, : second.shape[1]], second], 2).flatten(1)
    return torch.cat([both, first[:, second.shape[1] :]], 1)


def _each_block(r: int | Sequence[int], blocks: int) -> list[int]:
    what = "r must be a number of pairs of at least 0, or one a block"
    each = [r] * blocks if isinstance(r, int) else listed(r, what)
    if len(each) != blocks:
        raise ValueError(f"r says {len(each)} numbers of pairs, and the model has {blocks} blocks")
    if not all(is_whole(n) and n >= 0 for n in each):
        raise ValueError(f"{what}, got {r!r}")
    return each

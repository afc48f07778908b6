"""PSViT: attention maps that neighboring blocks share, and tokens that are pooled between blocks.

    sharing block l:   A_l = A_(l-1),  attention = A_l v_l      (A: after the softmax; v: its own)
    before block p:    x = maxpool(conv(x)),  kernel 3, then windows of 2

A sharing block has no queries and no keys; several in a row share one map. Pooling is over the
sequence of the patches' tokens (1-D), or over their map (2-D: 3x3, then windows of 2x2). Of an odd
number of tokens, the last window has one.

Shapes: x (B, P + N, C) with P prefix tokens, A (B, h, P + N, P + N).
Cost: a sharing block saves ``2 (P + N) C^2`` for queries and keys and ``(P + N)^2 C`` for their
product. A convolution is ``3 N C^2``, or ``9 N C^2`` in 2-D, and halves or quarters N.

Training: as the model is trained; the paper adds no loss.

Paper: Chen et al., "PSViT: Better Vision Transformer via Token Pooling and Attention Sharing",
2021, arXiv:2108.03428. No code was published. In the paper a search finds which blocks share and
where tokens are pooled, channels grow as tokens become fewer, and the 2-D form has no class token.
Here both are options, since a trained model is reduced and keeps its weights: channels stay, class
and register tokens pass beside the pooling in either form, and the convolution begins as the
identity. A sharing block keeps its values, and its queries and keys are dropped for good.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import pair
from foveate.reduction._blocks import ReducedBlocks
from foveate.reduction._options import is_whole, listed
from foveate.reduction._vit import (
    Vit,
    attend,
    finish,
    keep_values,
    logits,
    plus_attention,
    plus_mlp,
    project,
    require_all_patches,
    rope_of,
    values,
    weigh,
)
from foveate.registry import register

_DROPPED = ("q_bias", "k_bias", "q_proj", "k_proj", "q_norm", "k_norm", "proj_l")


class Passed(NamedTuple):
    """What the blocks hand on.

    Attributes:
        weights: attention map to share (B, h, P + N, P + N); None where the next block shares none.
        position: patch at whose place each token stands (B, N), the first of its window; None while
            nothing was pooled, and where the model has no rotary embedding.
        grid: rows and columns of the tokens; None in 1-D.
    """

    weights: Tensor | None = None
    position: Tensor | None = None
    grid: tuple[int, int] | None = None


@register(
    "psvit",
    family="maps",
    title="Attention maps shared between neighbouring blocks, and tokens pooled (PSViT)",
    paper="Chen et al., PSViT: Better Vision Transformer via Token Pooling and Attention Sharing, "
    "2021, arXiv:2108.03428",
    tags=["trained"],
    parity="no code was published; written from the paper's text, and a search is left out",
)
class PSViT(ReducedBlocks):
    """Share attention maps between blocks, and pool tokens before some of them.

    Args:
        vit: what is read of the model.
        pool: blocks, from 0, before which tokens are pooled; by default those at one and two thirds
            of the depth.
        share: blocks that use the attention map of the one before; by default every second one
            since tokens were last pooled.
        grid: rows and columns of patches, to pool over the map they make (2-D); the model then
            takes images of this size alone. By default over their sequence (1-D).

    Raises:
        ValueError: if a block is none of the model's, the first one shares, one shares a map of
            more tokens than it has, or the grid is not the model's or not all of it comes.
    """

    unreduced = {"pool": (), "share": ()}  # noqa: RUF012

    def __init__(
        self,
        vit: Vit,
        pool: Sequence[int] | None = None,
        share: Sequence[int] | None = None,
        *,
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(vit)
        require_all_patches(vit, self.name)
        depth = len(self)
        if pool is None:
            pool = sorted({depth // 3, 2 * depth // 3} - {0})
        self.pool = _blocks(pool, depth, "pool")
        if share is None:
            starts = [max((p for p in self.pool if p <= i), default=0) for i in range(depth)]
            share = [i for i in range(depth) if (i - starts[i]) % 2]
        self.share = _blocks(share, depth, "share")
        _check_shared(self.pool, self.share)
        self.grid = None if grid is None else pair(grid, "grid")
        if self.grid is not None and vit.grid is None:
            raise ValueError(
                f"grid={grid!r} needs a model that takes images of one size, since of any others "
                "blocks could not tell which grid their tokens are from: build it with "
                "dynamic_img_size=False, or pool in 1-D, with grid=None"
            )
        if self.grid is not None and vit.grid != self.grid:
            raise ValueError(
                f"this model has a grid of {vit.grid[0]} x {vit.grid[1]} patches, got grid={grid!r}"
            )
        for index in self.pool:
            self.add_to(index, TokenPool(self.dim, 1 if grid is None else 2))
        for index in self.share:
            keep_values(self.blocks[index].attn)
        self.register_load_state_dict_pre_hook(_values_of_plain_state)

    def undo(self, model: nn.Module) -> None:
        if self.share:
            raise ValueError("queries and keys of blocks that share have been dropped for good")
        super().undo(model)

    def begin(self, x: Tensor) -> Passed:
        patches = x.shape[1] - self.prefix
        if self.grid is not None and patches != math.prod(self.grid):
            raise ValueError(
                f"psvit pools a grid of {self.grid[0]} x {self.grid[1]} patches, and these images "
                f"have {patches}: reduce the model with their grid, or in 1-D without one"
            )
        return Passed(grid=self.grid)

    def layer(
        self, index: int, block: Any, x: Tensor, state: Passed, rope: Tensor | None
    ) -> tuple[Tensor, Passed]:
        if index in self.pool:
            x, state = self._pooled(index, block, x, state, rope is not None)
        attention, weights = block.attn, state.weights
        rope = rope_of(rope, state.position)

        def attended(x: Tensor) -> Tensor:
            nonlocal weights
            if index in self.share:
                assert weights is not None
                return finish(attention, x, weigh(attention, weights, values(attention, x)))
            q, k, v = project(attention, x, rope)
            if index + 1 not in self.share:
                return finish(attention, x, attend(attention, q, k, v))
            weights = logits(attention, q, k).softmax(-1)
            return finish(attention, x, weigh(attention, weights, v))

        x = plus_mlp(block, plus_attention(block, x, attended))
        return x, state._replace(weights=weights if index + 1 in self.share else None)

    def _pooled(
        self, index: int, block: Any, x: Tensor, state: Passed, rotary: bool
    ) -> tuple[Tensor, Passed]:
        prefix, patches = x[:, : self.prefix], x[:, self.prefix :]
        sides = (patches.shape[1],) if state.grid is None else state.grid
        halves = _halved(sides)
        pooled = self.own(block)(patches.mT.unflatten(2, sides)).flatten(2).mT
        if self.watch is not None:
            self.watch.moved(index, _window(sides, x.device).expand(x.shape[0], -1))
        position = None
        if rotary:
            first = _first_cells(sides, x.device).expand(x.shape[0], -1)
            position = first if state.position is None else state.position.gather(1, first)
        grid = None if state.grid is None else (halves[0], halves[1])
        return torch.cat([prefix, pooled], 1), Passed(None, position, grid)

    def counts(self, patches: int) -> list[tuple[int, int]]:
        return [(math.prod(sides),) * 2 for sides in self._sides(patches)]  # pyrefly: ignore

    def _sides(self, patches: int) -> list[tuple[int, ...]]:
        """The sequence or grid of tokens that each block gets."""
        sides: tuple[int, ...] = (patches,) if self.grid is None else self.grid
        found = []
        for index in range(len(self)):
            sides = _halved(sides) if index in self.pool else sides
            found.append(sides)
        return found

    def own_multiply_adds(self, patches: int) -> int:
        before = [patches, *(math.prod(sides) for sides in self._sides(patches))]
        return sum(self.own(self.blocks[i]).conv.weight.numel() * before[i] for i in self.pool)


class TokenPool(nn.Module):
    """Half as many cells a side: ``maxpool(conv(x))``, at first the maximum of two (or 2x2) cells.

    Args:
        dim: channels C.
        axes: 1 for sequences (B, C, N), 2 for maps (B, C, H, W).
    """

    def __init__(self, dim: int, axes: int) -> None:
        super().__init__()
        self.conv = (nn.Conv1d, nn.Conv2d)[axes - 1](dim, dim, 3, padding=1)
        nn.init.dirac_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # pyrefly: ignore

    def forward(self, x: Tensor) -> Tensor:
        pool = F.max_pool1d if x.dim() == 3 else F.max_pool2d
        return pool(self.conv(x), 2, ceil_mode=True)


def _halved(sides: Iterable[int]) -> tuple[int, ...]:
    return tuple(math.ceil(side / 2) for side in sides)


def _window(sides: Sequence[int], device: torch.device) -> Tensor:
    """The window that each token is pooled in, row by row (N,)."""
    window = torch.zeros((), dtype=torch.long, device=device)
    for side in sides:
        along = torch.arange(side, device=device) // 2
        window = (window[..., None] * math.ceil(side / 2) + along).flatten()
    return window


def _first_cells(sides: Sequence[int], device: torch.device) -> Tensor:
    """The first token of each window, row by row."""
    first = torch.zeros((), dtype=torch.long, device=device)
    for side in sides:
        first = (first[..., None] * side + torch.arange(0, side, 2, device=device)).flatten()
    return first


def _blocks(numbers: Iterable[int], depth: int, what: str) -> tuple[int, ...]:
    """``numbers`` in order, if each is that of a block."""
    numbers = tuple(listed(numbers, f"{what} must be several numbers of blocks"))
    wrong = [n for n in numbers if not is_whole(n)]
    wrong = wrong or [n for n in numbers if not 0 <= n < depth]
    if wrong or len(set(numbers)) < len(numbers):
        raise ValueError(
            f"{what} must be numbers of blocks, 0 to {depth - 1}, each once; got {numbers!r}"
        )
    return tuple(sorted(numbers))


def _check_shared(pool: Sequence[int], share: Sequence[int]) -> None:
    if 0 in share:
        raise ValueError("block 0 cannot share: there is no attention map before it")
    both = sorted(set(pool) & set(share))
    if both:
        raise ValueError(
            f"block {both[0]} cannot share the map of the block before it: tokens are pooled "
            "between the two, so that the map is of more tokens"
        )


def _values_of_plain_state(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Of a plain model's state, keep the values alone where a block shares."""
    assert isinstance(module, PSViT)
    for index in module.share:
        before = f"{prefix}{index}.attn."
        own = module.blocks[index].attn.state_dict(prefix=before)
        for key in [key for key in state if key.startswith(before)]:
            if key.removeprefix(before).split(".")[0] in _DROPPED:
                del state[key]
            elif ".qkv." in key and len(state[key]) == 3 * len(own[key]):
                state[key] = state[key][2 * len(own[key]) :]

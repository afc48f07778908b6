"""Vision Transformer Pruning (VTP): channels get scores, learnt to be small, and the smallest go.

    scored:  linear(x) becomes linear(x * a),  a number a for each channel;  loss + l1 * sum |a|
    pruned:  of all scores of the model the smallest go, and their channels leave the weights

Four inputs of a block are scored: of queries, keys and values together; of the attention's output
layer; of the MLP's first and second layer. A channel that leaves the second input of either also
leaves the layer before, which need not make it: there are fewer channels of values, and fewer
hidden units. The stream of tokens keeps its C channels: a pruned layer reads some of them.

Shapes: x (B, N, C); scores C, h D, C and M a block (M hidden units of the MLP).
Cost: with the shares c, v, m and u of them left, a block's multiply-adds are
``N (c C (2 + v) h D + v h D C + u M (m + 1) C) + N^2 (1 + v) h D``.

Training: from a trained model, first with scores and their penalty, which is among what
:class:`foveate.tasks.ReducedClassification` minimises; then :func:`foveate.reduction.finish`
prunes, and the model is trained on. Scores begin at one. Published for DeiT-B: 100 epochs with
scores, at a learning rate of 6.25e-6.

Paper: Zhu et al., "Vision Transformer Pruning", 2021, arXiv:2104.08500, with l1 = 1e-4. No code was
published. What the paper does not say, or does otherwise: a score counts by its size, of whatever
sign; channels that stay keep their score, which goes into the weights (there they become one), so
that pruning changes nothing else; heads of a block stay equally wide, so each keeps its best
channels of values, as many as the block has left by rank divided by its heads; no layer loses its
last channel. What a share of channels saves depends on where the scores are small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from foveate.arguments import positive, probability
from foveate.layout import ceil_to_multiple
from foveate.reduction._blocks import ReducedBlocks, Watch
from foveate.reduction._options import is_number, is_whole, listed, shares
from foveate.reduction._vit import (
    Vit,
    attend,
    finish,
    plus_attention,
    plus_mlp,
    project,
    take,
    widths,
)
from foveate.registry import register

_PLACES = ("attention", "heads", "mlp", "hidden")


@register(
    "vtp",
    family="channels",
    title="Channels of the linear layers are scored in training, and the smallest pruned (VTP)",
    paper="Zhu et al., Vision Transformer Pruning, 2021, arXiv:2104.08500",
    tags=["trained"],
    parity="no code was published; written from the paper's text",
)
class VTP(ReducedBlocks):
    """Score the channels of every linear layer, to keep a share of them.

    The model computes with the scores, at its old cost, until :meth:`finish` prunes.

    Args:
        vit: what is read of the model.
        keep: share of all scored channels that :meth:`finish` keeps, in (0, 1]; with 1 there is
            nothing to score.
        l1: weight of the scores' penalty, of at least 0.
        scored: share of the epochs after which ``foveate train`` and ``foveate compare`` prune; the
            model is trained on for the rest. A loop of your own prunes by :meth:`finish`.
        multiple_of: what the channels that each layer keeps are rounded up to, since products of
            matrices of odd sizes take longer than those of a few channels more; 1 keeps ``keep``.
        kept: of a model that has been pruned, how many channels each block keeps for attention,
            heads, MLP and hidden units, as its recipe states them. The blocks have so many from the
            beginning, the first ones until the pruned weights are loaded.

    Raises:
        ValueError: if ``keep``, ``l1``, ``scored``, ``multiple_of`` or ``kept`` is out of range, or
            a block has a norm or a gate between layers, which sees all channels at once.
    """

    unreduced = {"keep": 1.0}  # noqa: RUF012

    def __init__(
        self,
        vit: Vit,
        keep: float = 0.6,
        *,
        l1: float = 1e-4,
        scored: float = 0.5,
        multiple_of: int = 8,
        kept: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__(vit)
        (keep,) = shares(keep, 1)
        if not is_number(l1) or not 0 <= l1 < float("inf"):
            raise ValueError(f"l1 must be a finite number of at least 0, got {l1!r}")
        self.keep, self.l1 = keep, l1
        self.scored = probability(scored, "scored")
        self.multiple_of = positive(multiple_of, "multiple_of")
        for index, block in enumerate(self.blocks):
            _check_between(index, block)
            channels = (self.dim, block.attn.proj.in_features, self.dim, block.mlp.fc2.in_features)
            all_kept = (torch.arange(count) for count in channels)
            self.add_to(index, Scores(*channels) if keep < 1 else Kept(*all_kept))
        if kept is not None:
            self._begin_pruned(kept)
        self.register_load_state_dict_pre_hook(_fit_state)

    def _begin_pruned(self, kept: Sequence[Sequence[int]]) -> None:
        """So many channels for each block, the first ones."""
        blocks = self.blocks
        what = f"kept must be {len(_PLACES)} numbers of channels for each of {len(blocks)} blocks"
        each_block = [listed(each, what) for each in listed(kept, what)]
        numbers = [number for counts in each_block for number in counts]
        fours = all(len(counts) == len(_PLACES) for counts in each_block)
        if len(each_block) != len(blocks) or not fours or not all(map(is_whole, numbers)):
            raise ValueError(f"{what}, got {kept!r}")
        for index, (block, counts) in enumerate(zip(blocks, each_block, strict=True)):
            own = self.own(block)
            most = [getattr(own, place).shape[0] for place in _PLACES]
            each = counts[1] // block.attn.num_heads
            fits = all(0 < count <= limit for count, limit in zip(counts, most, strict=True))
            if not fits or each * block.attn.num_heads != counts[1]:
                raise ValueError(
                    f"block {index} has {most} channels in {block.attn.num_heads} heads, of which "
                    f"it cannot keep {list(counts)}"
                )
            first = torch.arange(most[1]).view(block.attn.num_heads, -1)[:, :each].flatten()
            numbers = [torch.arange(count) for count in counts]
            self._prune(block, Kept(numbers[0], first, numbers[2], numbers[3]))

    @property
    def pruned(self) -> bool:
        """Whether channels have been removed."""
        return isinstance(self.own(self.blocks[0]), Kept)

    @property
    def prunes_after(self) -> float | None:
        return None if self.pruned else self.scored

    @property
    def steps(self) -> str:
        if self.pruned:
            return ""
        return (
            f"it learns with scores for {self.scored:g} of the epochs, is pruned to {self.keep:g} "
            "of its channels, and trained on, each part with a whole schedule of learning rates"
        )

    def layer(
        self, index: int, block: Any, x: Tensor, state: None, rope: Tensor | None
    ) -> tuple[Tensor, None]:
        chosen, attention = self.own(block), block.attn

        def attended(x: Tensor) -> Tensor:
            x = chosen.into_attention(x)
            y = attend(attention, *project(attention, x, rope))
            return finish(attention, x, chosen.into_output(y))

        x = plus_attention(block, x, attended)
        return plus_mlp(block, x, lambda x: chosen.run_mlp(block.mlp, x)), None

    def penalties(self, watch: Watch) -> dict[str, Tensor]:
        """``l1 * sum |a|``, until channels are removed."""
        return {} if self.pruned else {"l1": self.l1 * self._sizes().sum()}

    def _sizes(self) -> Tensor:
        """The size of every score of the model, block by block."""
        scores = [getattr(self.own(block), place) for block in self.blocks for place in _PLACES]
        return torch.cat([score.abs() for score in scores])

    @torch.no_grad()
    def finish(self) -> None:
        """Remove the channels with the smallest scores, in place, for good.

        Raises:
            ValueError: if all scores are equal, so that nothing was learnt to choose by, or one is
                not finite.
        """
        if self.pruned:
            return
        sizes = self._sizes()
        self._check_finite()
        if self.keep < 1 and bool((sizes == sizes[0]).all()):
            raise ValueError(
                "all scores are equal: train the model with its penalty first, so that there is "
                "something to choose channels by"
            )
        count = max(round(self.keep * len(sizes)), 1)
        threshold = sizes.sort(descending=True).values[count - 1]
        for block in self.blocks:
            heads = block.attn.num_heads
            self._prune(block, _kept(self.own(block), heads, threshold, self.multiple_of))
        self._note_kept()

    def _check_finite(self) -> None:
        for index, block in enumerate(self.blocks):
            for place in _PLACES:
                if not bool(getattr(self.own(block), place).isfinite().all()):
                    raise ValueError(
                        f"scores of blocks.{index}.{self.name}.{place} are NaN or infinite, so "
                        "that the smallest cannot be told: the training has failed before"
                    )

    @torch.no_grad()
    def _prune(self, block: Any, kept: Kept) -> None:
        """Take the layers of ``block`` down to ``kept``, with their scores in the weights."""
        own = self.own(block)
        kept.to(block.attn.proj.weight.device)
        for path, of, columns in _layers(block):
            old, numbers = block.get_submodule(path), getattr(kept, columns)
            layer = take(old, rows=_rows(of, old.out_features, block, kept), columns=numbers)
            if isinstance(own, Scores):
                layer.weight.mul_(getattr(own, columns)[numbers])
            parent, _, name = path.rpartition(".")
            setattr(block.get_submodule(parent), name, layer)
        if getattr(block.attn, "v_bias", None) is not None:
            block.attn.v_bias = nn.Parameter(block.attn.v_bias[kept.heads])
        setattr(block, self.name, kept)

    def _note_kept(self) -> None:
        """Have the recipe state how many channels are left, so that the model is built again."""
        own = [self.own(block) for block in self.blocks]
        kept = [[getattr(each, place).shape[0] for place in _PLACES] for each in own]
        self.options = {**self.options, "kept": kept}

    def undo(self, model: nn.Module) -> None:
        if "kept" in self.options:
            raise ValueError("channels have been removed, and cannot be given back")
        super().undo(model)

    def counts(self, patches: int) -> list[tuple[int, int]]:
        return [(patches, patches)] * len(self)


class Scores(nn.Module):
    """A factor for each channel that the linear layers of a block read.

    Args:
        attention: channels that queries, keys and values read.
        heads: channels of all heads together, that the attention's output layer reads.
        mlp: channels that the MLP's first layer reads.
        hidden: units of the MLP, that its second layer reads.
    """

    def __init__(self, attention: int, heads: int, mlp: int, hidden: int) -> None:
        super().__init__()
        self.attention = nn.Parameter(torch.ones(attention))
        self.heads = nn.Parameter(torch.ones(heads))
        self.mlp = nn.Parameter(torch.ones(mlp))
        self.hidden = nn.Parameter(torch.ones(hidden))

    def into_attention(self, x: Tensor) -> Tensor:
        return x * self.attention

    def into_output(self, y: Tensor) -> Tensor:
        """Of the heads' outputs (B, h, N, D)."""
        return y * self.heads.view(y.shape[1], 1, -1)

    def run_mlp(self, mlp: nn.Module, x: Tensor) -> Tensor:
        weight: Any = mlp.fc2.weight  # pyrefly: ignore
        return functional_call(mlp, {"fc2.weight": weight * self.hidden}, (x * self.mlp,))


class Kept(nn.Module):
    """Which channels the linear layers of a block still read, by number.

    Args:
        attention, heads, mlp, hidden: as of :class:`Scores`.
    """

    attention: Tensor
    mlp: Tensor

    def __init__(self, attention: Tensor, heads: Tensor, mlp: Tensor, hidden: Tensor) -> None:
        super().__init__()
        numbers = (attention, heads, mlp, hidden)
        for place, kept in zip(_PLACES, numbers, strict=True):
            self.register_buffer(place, kept)

    def into_attention(self, x: Tensor) -> Tensor:
        return x.index_select(-1, self.attention)

    def into_output(self, y: Tensor) -> Tensor:
        return y

    def run_mlp(self, mlp: nn.Module, x: Tensor) -> Tensor:
        return mlp(x.index_select(-1, self.mlp))


def _kept(scores: Scores, num_heads: int, threshold: Tensor, multiple_of: int) -> Kept:
    """The channels of a block whose scores reach ``threshold``, and each head's best."""
    each = scores.heads.detach().abs().view(num_heads, -1)  # (h, D)
    count = round(int((each >= threshold).sum()) / num_heads)
    best = _largest(each, count, multiple_of)
    first = torch.arange(num_heads, device=best.device)[:, None] * each.shape[1]
    others = {}
    for place in ("attention", "mlp", "hidden"):
        sizes = getattr(scores, place).detach().abs()
        others[place] = _largest(sizes, int((sizes >= threshold).sum()), multiple_of)
    return Kept(heads=(first + best).flatten(), **others)


def _largest(sizes: Tensor, count: int, multiple_of: int) -> Tensor:
    """Numbers of the ``count`` largest, or of a few more up to a multiple, in order (..., n)."""
    count = min(ceil_to_multiple(max(count, 1), multiple_of), sizes.shape[-1])
    return sizes.topk(count).indices.sort().values


class _Layer(NamedTuple):
    """A linear layer of a block: its path, and whose numbers its rows and columns have."""

    path: str
    rows: str | None
    columns: str


def _layers(block: Any) -> list[_Layer]:
    attention = [_Layer("attn.qkv", "values", "attention")]
    if getattr(block.attn, "qkv", None) is None:
        attention = [_Layer(f"attn.{each}_proj", None, "attention") for each in "qk"]
        attention.append(_Layer("attn.v_proj", "heads", "attention"))
    names = [name for name in ("fc1", "fc1_g", "fc1_x") if hasattr(block.mlp, name)]
    first = [_Layer(f"mlp.{name}", "hidden", "mlp") for name in names]
    outputs = [_Layer("attn.proj", None, "heads"), _Layer("mlp.fc2", None, "hidden")]
    return [*attention, *first, *outputs]


def _rows(of: str | None, count: int, block: Any, kept: Kept) -> Tensor | None:
    """Which of ``count`` rows of an unpruned layer stay; None for all."""
    if of is None:
        return None
    numbers: Any = getattr(kept, "heads" if of == "values" else of)
    if of == "values":  # behind all queries and keys
        before = sum(widths(block.attn)[:2])
        return torch.cat([torch.arange(before, device=numbers.device), before + numbers])
    if hasattr(block.mlp, "gate_last") and of == "hidden":  # rows of the gates, in the same layer
        return torch.cat([numbers, count // 2 + numbers])
    return numbers


def _fit_state(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Bring a state and the model together: one of the two, or both, may be pruned.

    A pruned state prunes the model, to its channels. Of a plain model's state a pruned model takes
    the channels that it has.
    """
    assert isinstance(module, VTP)
    for index, block in enumerate(module.blocks):
        before, own = f"{prefix}{index}.", module.own(block)
        given = [state.get(f"{before}{module.name}.{place}") for place in _PLACES]
        if any(each is None for each in given):
            continue
        if given[0] is own.attention:  # stood in for by the hook before: the state of a plain model
            if module.pruned:
                _take_of_plain_state(block, own, state, before)
        elif given[0].is_floating_point() and isinstance(own, Kept):
            raise ValueError(
                "the state dict has scores of channels, and this model's have been removed: reduce "
                "the plain model by 'vtp' anew, which then loads it"
            )
        elif not given[0].is_floating_point() and isinstance(own, Scores):
            module._prune(block, Kept(*(each.clone() for each in given)))
            if index == len(module) - 1:
                module._note_kept()


def _take_of_plain_state(block: Any, kept: Kept, state: dict[str, Any], before: str) -> None:
    for path, of, columns in _layers(block):
        weight, bias = f"{before}{path}.weight", f"{before}{path}.bias"
        if weight not in state:
            continue
        rows = _rows(of, len(state[weight]), block, kept)
        state[weight] = state[weight][:, getattr(kept, columns)]
        if rows is not None:
            state[weight] = state[weight][rows]
            if bias in state:
                state[bias] = state[bias][rows]
    if f"{before}attn.v_bias" in state:
        state[f"{before}attn.v_bias"] = state[f"{before}attn.v_bias"][kept.heads]


def _check_between(index: int, block: Any) -> None:
    """Refuse what stands between two layers and sees all channels that are to be removed."""
    attention, mlp = block.attn, block.mlp
    keys = getattr(attention, "k_proj", None)
    found = {
        "a norm between the layers of its attention": _does(attention, "norm"),
        "a norm between the layers of its MLP": _does(mlp, "norm"),
        "a gate in its attention": _does(attention, "gate"),
        "one key for several heads": keys is not None
        and keys.out_features != attention.proj.in_features,
    }
    for what, there in found.items():
        if there:
            raise ValueError(f"block {index} has {what}, so vtp cannot remove single channels")


def _does(module: nn.Module, name: str) -> bool:
    part = getattr(module, name, None)
    return part is not None and not isinstance(part, nn.Identity)

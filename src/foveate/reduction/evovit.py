"""Evo-ViT: blocks update the patches that the class token looks at; the others wait, or move along.

    g = sum over heads of the class token's attention to each patch         (before the first stage)
    g = (1 - t) g + t (the same, of this block)                        for patches that are updated
    chosen: the int(keep N) patches of largest g; a stage's blocks are for these and the class token
    at the stage's end all N are together again, the others as they were (placeholders)
    representative: r = sum_i g_i x_i / sum_i g_i over the others goes through the stage's blocks as
        one token more, and what they add to it is added to each of the others

A stage is several blocks (stage-wise) or each block (layer-wise, as in the first two thirds of the
published training, which is ``layerwise=2/3``). No patch is lost, so that a model may train like
this from its first step, and what follows finds the whole map.

Shapes: x (B, P + N, C), P class and register tokens; g (B, N).
Cost: that of the blocks on fewer tokens, and ``(P + N) C`` multiply-adds in a block for its g.

Paper: Xu et al., "Evo-ViT: Slow-Fast Token Evolution for Dynamic Vision Transformer", AAAI 2022,
arXiv:2108.01390. Published code: YifanXu74/Evo-ViT@4c5d9b3 ``deit/evo_deit.py`` (MIT), whose
checkpoints load into timm's DeiT with ``global_pool="avg"``: they are classified by the mean of the
patches, and while they learn by a second head on the class token too, ``blocks.LAST.evovit`` here,
whose loss counts as much (:class:`foveate.tasks.ReducedClassification` minimises it; otherwise that
head learns nothing). That code has no representative token, the paper has one, as this has with
``representative=True``. What neither says: registers are kept apart as the class token is; where
the blocks have no class token, g is the mean over all queries; the representative has the rotary
position of the first of the others.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from foveate.arguments import flag, probability
from foveate.published import rename
from foveate.reduction._blocks import ReducedBlocks
from foveate.reduction._clusters import gather
from foveate.reduction._options import each_stage, is_number, listed, shares
from foveate.reduction._vit import (
    Vit,
    attend,
    attend_and_score,
    finish,
    logits,
    plus_attention,
    plus_mlp,
    project,
    rope_of,
)
from foveate.registry import register

_NO_ATTENTION = 1e-20  # the gradient of a share of less would overflow


class Evolving(NamedTuple):
    """What the blocks hand on.

    Attributes:
        attention: to each patch, g (B, N); None before the first that is needed.
        patches: all of them as the stage found them (B, N, C); None outside of one.
        chosen: those that the stage updates (B, K); None likewise.
        start: representative token as the stage began (B, 1, C); None without one.
        position: patch at whose place each token stands (B, K or K + 1); None outside of a stage.
    """

    attention: Tensor | None = None
    patches: Tensor | None = None
    chosen: Tensor | None = None
    start: Tensor | None = None
    position: Tensor | None = None


@register(
    "evovit",
    family="tokens",
    title="Blocks update the patches that the class token looks at, the others wait (Evo-ViT)",
    paper="Xu et al., Evo-ViT: Slow-Fast Token Evolution, AAAI 2022, arXiv:2108.01390",
    source="YifanXu74/Evo-ViT@4c5d9b30b0a3c9b1e7b8687a9490555bd9d714ca",
    license="MIT",
    tags=("published",),
    parity="the published code for DeiT, which has no representative token; patches keep the order "
    "of the image here, there they are sorted",
)
class EvoViT(ReducedBlocks):
    """Update the patches that the class token looks at, and keep the others.

    Args:
        vit: what is read of the model.
        keep: share of the patches that a stage's blocks update; or one a stage.
        stages: blocks before which patches are chosen, counted from 1; after each third of them by
            default.
        layerwise: whether every block from the first stage on chooses, with the share of its stage.
            A number does so while that share of a training is not over, and not afterwards; a loop
            of your own calls ``model.blocks.progress(done)`` as each epoch begins.
        representative: whether one token, the mean of the others by g, is updated in their place.
        tradeoff: weight t of a block's own attention in g; or one a block. A number is for blocks
            from the first stage on, before which it is 1.
        prune: whether those that the last stage did not update are dropped behind it.
    """

    unreduced = {"keep": 1.0}  # noqa: RUF012

    def __init__(
        self,
        vit: Vit,
        keep: float | Sequence[float] = 0.5,
        stages: Sequence[int] | None = None,
        *,
        layerwise: bool | float = False,
        representative: bool = False,
        tradeoff: float | Sequence[float] = 0.5,
        prune: bool = False,
    ) -> None:
        super().__init__(vit)
        if len(self) == 1:
            raise ValueError("evovit chooses by the attention of the blocks before: one is too few")
        third = len(self) // 3
        default = [third, 2 * third] if third else [1]
        self.stages = each_stage(default if stages is None else stages, len(self))
        if self.stages[0] == 0:
            raise ValueError(
                "stages begin at block 1: patches are chosen by the attention of the blocks before"
            )
        each = [keep] * len(self.stages) if is_number(keep) else keep
        self.keep = shares(each, len(self.stages))
        self.tradeoff = _tradeoffs(tradeoff, self.stages[0], len(self))
        self.layerwise = layerwise is True
        scheduled = not isinstance(layerwise, bool)
        self.until = probability(layerwise, "layerwise") if scheduled else None
        self.representative = flag(representative, "representative")
        self.prune = flag(prune, "prune")
        self.class_token = vit.class_token
        self._class_head(vit.num_classes)

    def _class_head(self, num_classes: int) -> None:
        """Give the class token a head of its own where the patches are classified; else none."""
        before: Any = self.blocks[-1]._modules.pop(self.name, None)
        if not (self.class_token and self.reads_patches and num_classes):
            return
        made = class_head(self.dim, num_classes)
        if before is not None:
            made.norm = before.norm
        self.add_to(len(self) - 1, made)

    def classified_anew(self, model: Any) -> None:
        super().classified_anew(model)
        self._class_head(model.num_classes)

    def progress(self, done: float) -> None:
        if self.until is not None:
            self.layerwise = done < self.until

    def begin(self, x: Tensor) -> Evolving:
        return Evolving()

    def layer(
        self, index: int, block: Any, x: Tensor, state: Evolving, rope: Tensor | None
    ) -> tuple[Tensor, Evolving]:
        if self._chooses(index):
            x, state = self._choose(index, x, state)
        rope = rope_of(rope, state.position)
        if self._observes(index):
            x, seen = self._observed(block, x, rope)
            state = state._replace(attention=self._evolved(index, state, seen))
        else:
            x = block(x) if rope is None else block(x, rope=rope)
        if index + 1 == len(self) or self._chooses(index + 1):
            x, state = self._join(index, x, state)
        return x, state

    def _chooses(self, index: int) -> bool:
        return index in self.stages or (self.layerwise and index > self.stages[0])

    def _observes(self, index: int) -> bool:
        """Whether g is needed of a block: some later one chooses by it, and none replaces it."""
        first, last = self.stages[0], len(self) - 1 if self.layerwise else self.stages[-1]
        replaced = any(t == 1 for t in self.tradeoff[index + 1 : first])
        return index < last and not replaced and min(self.keep) < 1

    def _choose(self, index: int, x: Tensor, state: Evolving) -> tuple[Tensor, Evolving]:
        apart, patches = x[:, : self.prefix], x[:, self.prefix :]
        batch, count = patches.shape[:2]
        kept = self._count(index, count)
        if kept == count or state.attention is None:
            self._note(index, torch.arange(count, device=x.device).expand(batch, -1))
            return x, state
        position = state.attention.topk(kept + self.representative, 1).indices
        chosen, start = position[:, :kept], None
        tokens = [apart, gather(patches, chosen)]
        if self.representative:
            weight = _weights_of_others(state.attention, chosen)
            start = (weight[..., None].to(x.dtype) * patches).sum(1, keepdim=True)
            tokens.append(start)
        self._note(index, _numbers(chosen, count, kept if self.representative else -1))
        return torch.cat(tokens, 1), Evolving(state.attention, patches, chosen, start, position)

    def _observed(self, block: Any, x: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor]:
        """The output of ``block``, and the attention to each patch, summed over heads."""
        attention, seen = block.attn, x

        def attended(x: Tensor) -> Tensor:
            nonlocal seen
            q, k, v = project(attention, x, rope)
            if self.class_token:
                seen = logits(attention, q[:, :, :1], k).softmax(-1).sum((1, 2))
                return finish(attention, x, attend(attention, q, k, v))
            y, seen = attend_and_score(attention, q, k, v)
            seen = seen / x.shape[1]
            return finish(attention, x, y)

        x = plus_mlp(block, plus_attention(block, x, attended))
        return x, seen[:, self.prefix :]

    def _evolved(self, index: int, state: Evolving, seen: Tensor) -> Tensor:
        """What g is after a block in which the patches that it updates got ``seen``."""
        seen = seen if self.representative else seen.detach()  # else it only chooses
        before, t = state.attention, self.tradeoff[index]
        if before is None:
            return seen
        if state.chosen is None:
            return (1 - t) * before + t * seen
        seen = seen[:, : state.chosen.shape[1]]
        return before.scatter(1, state.chosen, (1 - t) * before.gather(1, state.chosen) + t * seen)

    def _join(self, index: int, x: Tensor, state: Evolving) -> tuple[Tensor, Evolving]:
        """All patches together again where a stage ends behind block ``index``."""
        if state.chosen is None or state.patches is None:
            return x, state
        chosen, waiting = state.chosen, state.patches
        kept = chosen.shape[1]
        apart, updated, rest = x.tensor_split([self.prefix, self.prefix + kept], 1)
        if self.prune and index + 1 == len(self):
            self._note(index + 1, _numbers(chosen, waiting.shape[1], -1))
            return torch.cat([apart, updated], 1), state
        if state.start is not None:
            waiting = waiting + (rest - state.start)
        patches = waiting.scatter(1, chosen[..., None].expand_as(updated), updated)
        if index + 1 == len(self):
            number = torch.arange(patches.shape[1], device=x.device)
            self._note(index + 1, number.expand(x.shape[0], -1))
        return torch.cat([apart, patches], 1), Evolving(state.attention)

    def _note(self, index: int, token: Tensor) -> None:
        """Note the token of each patch, whatever stood for it before: none is lost."""
        if self.watch is not None:
            self.watch.layers[index] = token

    def end(self, x: Tensor, state: Evolving) -> Tensor:
        last = self.blocks[-1]
        if self.training and self.watch is not None and self.name in last._modules:
            self.watch.logits.append(self.own(last)(x[:, 0]))
        return x

    def _count(self, index: int, patches: int) -> int:
        """Patches that block ``index``, within a stage, updates."""
        stage = max(n for n, first in enumerate(self.stages) if first <= index)
        return max(1, int(patches * self.keep[stage]))

    def counts(self, patches: int) -> list[tuple[int, int]]:
        counts = []
        for index in range(len(self)):
            kept = patches if index < self.stages[0] else self._count(index, patches)
            kept += self.representative * (kept < patches)
            counts.append((kept, kept))
        return counts

    def own_multiply_adds(self, patches: int) -> int:
        if not self.class_token:
            return 0
        each = enumerate(zip(self.blocks, self.counts(patches), strict=True))
        return sum(
            (count + self.prefix) * block.attn.proj.in_features
            for index, (block, (count, _)) in each
            if self._observes(index)
        )

    def tokens_out(self, patches: int) -> int:
        return self._count(len(self) - 1, patches) if self.prune else patches

    def convert_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published state under the names of the model here."""
        state = dict(state)
        for index in range(len(self)):
            for kind in ("weight", "bias"):
                parts = (state.pop(f"{part}.{index}.{part[:-1]}.{kind}") for part in ("qks", "vs"))
                state[f"blocks.{index}.attn.qkv.{kind}"] = torch.cat(list(parts))
        own = f"blocks.{len(self) - 1}.{self.name}"
        return rename(
            state,
            [
                (r"^norms\.(\d+)\.", r"blocks.\1.norm1."),
                (r"^projs\.(\d+)\.", r"blocks.\1.attn.proj."),
                (r"^norm\.", "fc_norm." if self.reads_patches else "norm."),
                (r"^(norm|head)_cls\.", rf"{own}.\1."),
            ],
        )


def _weights_of_others(attention: Tensor, chosen: Tensor) -> Tensor:
    """Of each patch its share of the attention to those not ``chosen`` (B, N), equal where it is 0.

    A sharp softmax leaves the others zeros, whose shares would be NaN.
    """
    others = torch.ones_like(attention).scatter(1, chosen, 0)
    weight = attention.scatter(1, chosen, 0)
    none = weight.sum(1, keepdim=True) < _NO_ATTENTION
    weight = torch.where(none, others, weight)
    return weight / weight.sum(1, keepdim=True)


def _numbers(chosen: Tensor, patches: int, other: int) -> Tensor:
    """Of each patch the number of its token (B, N): where it stands in ``chosen``, or ``other``."""
    batch, kept = chosen.shape
    number = torch.arange(kept, device=chosen.device).expand(batch, -1)
    return chosen.new_full((batch, patches), other).scatter(1, chosen, number)


def class_head(dim: int, num_classes: int) -> nn.Module:
    """What the class token is classified by while the model learns: (B, C) to (B, classes)."""
    head = nn.Linear(dim, num_classes)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return nn.Sequential(OrderedDict(norm=nn.LayerNorm(dim, eps=1e-6), head=head))


def _tradeoffs(tradeoff: float | Sequence[float], first: int, blocks: int) -> list[float]:
    what = "tradeoff must be from 0 to 1"
    if is_number(tradeoff):
        each = [1.0] * first + [float(tradeoff)] * (blocks - first)
    else:
        each = listed(tradeoff, what)
    if len(each) != blocks:
        raise ValueError(
            f"tradeoff has {len(each)} weights for {blocks} blocks: give one, or one a block"
        )
    if not all(is_number(t) and 0 <= t <= 1 for t in each):
        raise ValueError(f"{what}, got {tradeoff!r}")
    return [float(t) for t in each]

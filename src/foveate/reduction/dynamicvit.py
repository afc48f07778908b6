"""DynamicViT: small networks decide, at a few depths, which patches the blocks from there on see.

    local = f(x)[:C/2],   global = mean of f(x)[C/2:] over the patches kept so far; 0 of none
    log pi = log softmax(g([local, global])): keep or drop, for each patch
    eval:     the int(rho_s N) patches of highest pi_keep go on, and no other
    training: m = m * gumbel_softmax(log pi)_keep in {0, 1}; all patches go on, and the attention is
              a_ij = (e_ij G_ij + eps/n) / (sum_j e_ij G_ij + eps),  G_ij = m_j, or 1 where i = j

e are the exponentials of the logits less their row's maximum. With the share ``keep`` = rho,
``rho_s = rho^s`` of the N patches are left at stage s = 1, 2, ... In training the mean of m over an
image is drawn to rho_s by ``2 mean_s (mean(m) - rho_s)^2``, which is among what
:class:`foveate.tasks.ReducedClassification` minimises; without it any number is kept.

Shapes: x (B, P + N, C), P class and register tokens; m (B, N, 1).
Cost: that of the blocks on fewer tokens, and about ``1.6 C^2`` multiply-adds a patch that a network
looks at.

Paper: Rao et al., "DynamicViT: Efficient Vision Transformers with Dynamic Token Sparsification",
NeurIPS 2021, arXiv:2106.02034. Published code: raoyongming/DynamicViT@1322e626 (MIT), whose
checkpoints load; there N is 196 whatever the image, here it is that of the image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.reduction._blocks import ReducedBlocks, Watch
from foveate.reduction._options import each_stage, left, shares
from foveate.reduction._vit import (
    Vit,
    finish,
    linear_cost,
    logits,
    plus_attention,
    plus_mlp,
    project,
    require_all_patches,
    rope_of,
    weigh,
)
from foveate.registry import register

_EPS = 1e-6
_RATIO_WEIGHT = 2.0  # published


class Kept(NamedTuple):
    """What the blocks hand on.

    Attributes:
        patches: of the image, N.
        position: in eval mode the patches that are left (B, M); None while all are.
        policy: in training 1 where a patch is kept and 0 where it is not (B, N, 1); None likewise.
    """

    patches: int
    position: Tensor | None = None
    policy: Tensor | None = None


@register(
    "dynamicvit",
    family="tokens",
    title="Patches dropped by small networks that learn which matter (DynamicViT)",
    paper="Rao et al., DynamicViT, NeurIPS 2021, arXiv:2106.02034",
    source="raoyongming/DynamicViT@1322e626d1e9eca18cc150569908fb4af29e15f7",
    license="MIT",
    tags=("published", "trained"),
)
class DynamicViT(ReducedBlocks):
    """Drop patches at a few depths, by what a network there makes of them.

    The networks are new: until they are trained they drop at random.

    Args:
        vit: what is read of the model.
        keep: share rho of the patches that each stage leaves of those that came to it; or for each
            stage the share of all patches of the image.
        stages: blocks before which patches are dropped, counted from 0; after each quarter of them
            by default.
    """

    unreduced = {"keep": 1.0}  # noqa: RUF012

    def __init__(
        self,
        vit: Vit,
        keep: float | Sequence[float] = 0.7,
        stages: Sequence[int] | None = None,
    ) -> None:
        super().__init__(vit)
        require_all_patches(vit, self.name)
        self.stages = each_stage(stages, len(self))
        self.keep = shares(keep, len(self.stages))
        for stage in self.stages:
            self.add_to(stage, Predictor(vit.dim))

    def begin(self, x: Tensor) -> Kept:
        return Kept(x.shape[1] - self.prefix)

    def layer(
        self, index: int, block: Any, x: Tensor, state: Kept, rope: Tensor | None
    ) -> tuple[Tensor, Kept]:
        if index in self.stages and self.keep[self.stages.index(index)] < 1:
            x, state = (self._decide if self.training else self._drop)(index, block, x, state)
        rope = rope_of(rope, state.position)
        policy = state.policy
        if policy is None:
            return (block(x) if rope is None else block(x, rope=rope)), state
        policy = F.pad(policy, (0, 0, self.prefix, 0), value=1.0)
        x = plus_attention(block, x, lambda x: policy_attention(block.attn, x, policy, rope))
        return plus_mlp(block, x), state

    def _drop(self, index: int, block: Any, x: Tensor, state: Kept) -> tuple[Tensor, Kept]:
        """The patches of highest score, in the order of their scores."""
        apart, patches = x[:, : self.prefix], x[:, self.prefix :]
        score = self.own(block)(patches, None)[..., 0]
        kept = left(state.patches, self.stages, self.keep, index)
        chosen = score.topk(kept, dim=1).indices  # (B, M)
        patches = patches.gather(1, chosen[..., None].expand(-1, -1, x.shape[2]))
        if self.watch is not None:
            number = torch.full(score.shape, -1, device=x.device)
            to = torch.arange(kept, device=x.device).expand(x.shape[0], -1)
            self.watch.moved(index, number.scatter(1, chosen, to))
        position = chosen if state.position is None else state.position.gather(1, chosen)
        return torch.cat([apart, patches], 1), state._replace(position=position)

    def _decide(self, index: int, block: Any, x: Tensor, state: Kept) -> tuple[Tensor, Kept]:
        """All patches, and which of them count from here on."""
        chances = self.own(block)(x[:, self.prefix :], state.policy)
        policy = F.gumbel_softmax(chances, hard=True)[..., :1]
        policy = policy if state.policy is None else policy * state.policy
        if self.watch is not None:
            number = torch.arange(state.patches, device=x.device)
            self.watch.moved(index, torch.where(policy[..., 0] > 0.5, number, -1))
            self.watch.decided(index, policy[..., 0])
        return x, state._replace(policy=policy)

    def penalties(self, watch: Watch) -> dict[str, Tensor]:
        if not watch.decisions:
            return {}
        shares = [self.keep[self.stages.index(stage)] for stage in watch.decisions]
        ratio = ratio_loss(list(watch.decisions.values()), shares)
        return {"ratio": _RATIO_WEIGHT / len(shares) * ratio}

    def counts(self, patches: int) -> list[tuple[int, int]]:
        kept = (left(patches, self.stages, self.keep, index) for index in range(len(self)))
        return [(count, count) for count in kept]

    def own_multiply_adds(self, patches: int) -> int:
        total = 0
        for stage, share in zip(self.stages, self.keep, strict=True):
            before = left(patches, self.stages, self.keep, stage - 1)
            total += linear_cost(self.own(self.blocks[stage]), before) * (share < 1)
        return total

    def convert_published(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published state under the names of the model here."""

        def name(found: re.Match[str]) -> str:
            return f"blocks.{self.stages[int(found[1])]}.{self.name}."

        return {re.sub(r"^score_predictor\.(\d+)\.", name, key): v for key, v in state.items()}


class Predictor(nn.Module):
    """Log probabilities of keeping and dropping each patch, from it and from all that are kept.

    Args:
        dim: channels C of a patch.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.in_conv = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(dim, dim // 2),
            nn.GELU(),
            nn.Linear(dim // 2, dim // 4),
            nn.GELU(),
            nn.Linear(dim // 4, 2),
            nn.LogSoftmax(dim=-1),
        )
        for layer in (*self.in_conv, *self.out_conv):
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, policy: Tensor | None) -> Tensor:
        """``(B, N, C)`` to ``(B, N, 2)``: keep, drop.

        Args:
            x: patches.
            policy: 1 for those kept so far and 0 for others (B, N, 1); None where all are kept.
        """
        local, other = self.in_conv(x).tensor_split(2, dim=-1)
        if policy is None:
            mean = other.mean(1, keepdim=True)
        else:
            count = policy.sum(1, keepdim=True).clamp_min(0.5)  # whole, or 0: all are dropped
            mean = (other * policy).sum(1, keepdim=True) / count
        return self.out_conv(torch.cat([local, mean.expand(-1, x.shape[1], -1)], -1))


def ratio_loss(
    decisions: Sequence[Tensor], shares: Sequence[float], *, over_batch: bool = False
) -> Tensor:
    """The squared difference between the share that is kept and the one asked for, summed.

    Args:
        decisions: of each stage 1 where a patch is kept and 0 where it is not (B, N).
        shares: of each stage, what is asked for.
        over_batch: whether the share is that of all images together and not of each one, so that
            some may keep more than others.
    """
    kept = (each.mean() if over_batch else each.mean(1) for each in decisions)
    pairs = zip(kept, shares, strict=True)
    return torch.stack([(mean - share).square().mean() for mean, share in pairs]).sum()


def policy_attention(
    attention: Any, x: Tensor, policy: Tensor, rope: Tensor | None = None
) -> Tensor:
    """The output of ``attention`` where tokens see only themselves and those that are kept.

    Args:
        attention: of a block.
        x: tokens (B, N, C).
        policy: 1 for tokens that are kept and 0 for others (B, N, 1).
        rope: rotary embedding of the patches.
    """
    q, k, v = project(attention, x, rope)
    weights = policy_softmax(logits(attention, q, k), policy)
    return finish(attention, x, weigh(attention, weights, v))


def policy_softmax(scores: Tensor, policy: Tensor) -> Tensor:
    """The softmax of ``scores`` (B, h, N, N) over the keys that are kept, and each one's own."""
    count = scores.shape[-1]
    own = torch.eye(count, dtype=policy.dtype, device=policy.device)
    kept = policy[:, None, None, :, 0]  # (B, 1, 1, N)
    kept = kept + (1 - kept) * own
    exponentials = (scores - scores.amax(-1, keepdim=True)).float().exp() * kept
    weights = (exponentials + _EPS / count) / (exponentials.sum(-1, keepdim=True) + _EPS)
    return weights.to(scores.dtype)

"""Dynamic Vision Transformer (DVT): a cascade of transformers on ever finer grids, left early.

    stage k = 1..K, coarse to fine, each on a grid of its own and with a classifier: logits y_k
    an image leaves at the first stage whose max softmax(y_k) >= t_k, else at the last one
    relation reuse:  logits_l += up(mix(logits of all layers of stage k - 1))_l      (layer l)
    feature reuse:   MLP_l(norm([x, up(f_l(tokens of stage k - 1))]))

``mix`` is two linear layers over the maps of all heads of all layers, with a GELU between;
``f_l`` a norm and an MLP from C channels to 48; ``up`` brings the cells of one grid to a finer one,
by repeating and then averaging them, for relations along keys and then along queries. Relations are
the logits before the softmax, with what was reused in them. Prefix tokens keep their rows and
columns, and get zeros for features. The thresholds ``t_k`` are solved for a mean cost on images
that were not trained on (:func:`~foveate.reduction.early_exit.solve_budget`). Images that have left
are not computed further: the batch is narrowed.

Shapes: tokens (B, P + N, C), P of them prefix; relation (B, L h, P + N, P + N) for L layers.
Cost: that of the stages up to the image's exit; of a stage after the first, mixing is
``6 (L h)^2 (P + n)^2`` and features ``128 L n (C + 48)``, with n patches in the stage before, and
each MLP has 48 inputs more.

Training: all exits at once. The loss is the sum of their losses, of which
:class:`foveate.tasks.ReducedClassification` takes the mean.

Paper: Wang et al., "Not All Images are Worth 16x16 Words: Dynamic Transformers for Efficient Image
Recognition", NeurIPS 2021, arXiv:2105.15075. Published code:
blackfeather-wang/Dynamic-Vision-Transformer@22cc895, without a license: this is written from the
paper and from recorded numbers. There, stages begin from nothing; here, they begin as copies of the
model that is reduced, with its patch and position embeddings resampled, no relation reused (the
last layer of ``mix`` is zero) and no weight on the features.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from foveate.arguments import flag
from foveate.contracts import Reducer
from foveate.published import rename
from foveate.reduction._coarse import checked_grids, coarser, default_grids
from foveate.reduction._vit import (
    attend,
    attention_cost,
    finish,
    linear_cost,
    logits,
    plus_attention,
    project,
    read,
    weigh,
)
from foveate.reduction.early_exit import NEVER, solve_budget
from foveate.registry import register

_WIDTH, _HIDDEN = 48, 128  # of reused features, and of the MLP that makes them


class Upstream(NamedTuple):
    """What a stage hands to the next.

    Attributes:
        tokens: after its last block, before its norm (B, P + N, C).
        relation: logits of all its layers (B, L h, P + N, P + N); None where nobody reuses them.
        grid: its tokens of patches, rows and columns.
    """

    tokens: Tensor
    relation: Tensor | None
    grid: tuple[int, int]

    def of(self, images: Tensor) -> Upstream:
        """That of some ``images`` of the batch alone, given by number."""
        relation = None if self.relation is None else self.relation[images]
        return Upstream(self.tokens[images], relation, self.grid)


@register(
    "dvt",
    family="tokens",
    title="Cascade on ever finer grids, left as soon as a stage is confident (DVT)",
    paper="Wang et al., Not All Images are Worth 16x16 Words: Dynamic Transformers for Efficient "
    "Image Recognition, NeurIPS 2021, arXiv:2105.15075",
    source="blackfeather-wang/Dynamic-Vision-Transformer@22cc8951af0db59acdd414ba35dd87d6d793c868",
    license="none",
    tags=["trained"],
)
class DVT(Reducer):
    """A cascade of copies of a vision transformer, the coarser ones first.

    This is a new model and leaves ``model`` as it is. Until :meth:`set_thresholds` is called, every
    image goes through all stages; while training too.

    Args:
        model: one of timm's ``VisionTransformer``; the last stage is a copy of it.
        grids: rows of tokens of each stage before the last, ascending; at the model's own image
            size, and in square patches. By default a half and ``1 / sqrt(2)`` of the model's rows,
            7 and 10 for 14.
        relation_reuse: whether a stage adds the attention logits of the one before to its own.
        feature_reuse: whether the MLPs of a stage also see the tokens of the one before.
        budget: what an image may cost in the mean, as a share of the multiply-adds of the given
            model, for which ``foveate train`` and ``foveate compare`` solve the thresholds once the
            cascade is trained; None leaves them to :meth:`set_thresholds`.

    Attributes:
        stages: the transformers, coarse to fine.
        thresholds: confidence from which on an image leaves, of each stage but the last; 2 where
            none does. They are saved with the weights.

    Raises:
        ValueError: if ``model`` is of another kind, a grid is not between 1 and the model's, or the
            budget is less than the first exit costs, or more than the last.
    """

    unreduced = {"grids": ()}  # noqa: RUF012
    thresholds: Tensor

    def __init__(
        self,
        model: nn.Module,
        grids: Sequence[int] | None = None,
        *,
        relation_reuse: bool = True,
        feature_reuse: bool = True,
        budget: float | None = None,
    ) -> None:
        super().__init__()
        flag(relation_reuse, "relation_reuse")
        flag(feature_reuse, "feature_reuse")
        host = _host(model)
        rows = default_grids(host) if grids is None else checked_grids(host, grids)
        self.prefix = host.num_prefix_tokens
        self.stages = nn.ModuleList([*(coarser(host, each) for each in rows), copy.deepcopy(host)])
        maps = sum(block.attn.num_heads for block in host.blocks)
        reusing = range(len(rows))
        self.relation = nn.ModuleList(RelationReuse(maps) for _ in reusing if relation_reuse)
        self.features = nn.ModuleList()
        if feature_reuse:
            for stage in self.stages[1:]:
                self.features.append(nn.ModuleList(map(reuse_features, stage.blocks)))
        like = next(host.parameters())
        self.to(like.device, like.dtype).train(host.training)
        self.register_buffer("thresholds", torch.full((len(rows),), NEVER, device=like.device))
        self.leaves_early = False
        self.grad_checkpointing = False
        self.register_load_state_dict_post_hook(_note_thresholds)
        self.pretrained_cfg = self.default_cfg = getattr(host, "pretrained_cfg", {})
        self.budget = budget
        if budget is not None:
            self._check_budget(budget, host.patch_embed.img_size)

    @classmethod
    def reduce(cls, model: nn.Module, **options: Any) -> nn.Module:
        return cls(model, **options)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Thresholds stay float32, as the confidences are: in bfloat16 0.999 would be 1.
        before = self._buffers.get("thresholds")
        super()._apply(fn, recurse)
        if before is not None and self.thresholds.dtype != before.dtype:
            self.thresholds = before.to(self.thresholds.device)
        return self

    def _check_budget(self, budget: float, size: tuple[int, int]) -> None:
        whole = self.given_multiply_adds(size)
        least, *_, most = (cost / whole for cost in self.exit_multiply_adds(size))
        if not isinstance(budget, int | float) or not least <= budget <= most:
            raise ValueError(
                "budget is a share of the given model's multiply-adds, between those of the first "
                f"exit, {least:.3g}, and of the last, {most:.3g}; got {budget!r}"
            )

    @property
    def afterwards(self) -> str:
        """Where there is no budget, what lets images leave."""
        if self.settles:
            return ""
        return (
            "let images leave, by thresholds of foveate.reduction.solve_budget, or by a budget, as "
            "in dvt:budget=0.8"
        )

    @property
    def settles(self) -> bool:
        """Whether thresholds are to be solved for a budget."""
        return self.budget is not None

    @property
    def steps(self) -> str:
        """How thresholds are found, in words."""
        if self.budget is None:
            return ""
        return (
            f"once it is trained, thresholds are solved for {self.budget:g} of the whole model's "
            "multiply-adds, on a fifth of the training images, which it does not learn from"
        )

    # What timm's models have; the last stage answers.

    @property
    def _last(self) -> Any:
        return self.stages[-1]

    @property
    def num_classes(self) -> int:
        return self._last.num_classes

    @property
    def num_features(self) -> int:
        return self._last.num_features

    @property
    def head_hidden_size(self) -> int:
        return self._last.head_hidden_size

    @property
    def num_prefix_tokens(self) -> int:
        return self.prefix

    def get_classifier(self) -> nn.Module:
        """The classifier of the last stage."""
        return self._last.get_classifier()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give every exit a new classifier."""
        for stage in self.stages:
            stage.reset_classifier(num_classes, global_pool)  # pyrefly: ignore

    @property
    def dynamic_img_size(self) -> bool:
        return self._last.dynamic_img_size

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute blocks again for their gradients, in place of keeping what they computed."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay leaves alone."""
        return {
            f"stages.{k}.{name}"
            for k, stage in enumerate(self.stages)
            for name in stage.no_weight_decay()  # pyrefly: ignore
        }

    def forward_features(self, images: Tensor) -> Tensor:
        """Normed tokens of the last stage (B, P + N, C), whatever the thresholds."""
        upstream, last = None, len(self.stages) - 1
        for k in range(last + 1):
            upstream = self._run(k, images, upstream)
            if self.watch is not None and k < last:
                self.watch.logits.append(self._classify(k, upstream))
        assert upstream is not None
        return self._last.norm(upstream.tokens)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The classifier of the last stage."""
        return self._last.forward_head(x, pre_logits=pre_logits)

    # The cascade.

    def exits(self, images: Tensor) -> list[Tensor]:
        """Logits of every exit for all ``images``, whatever the thresholds."""
        upstream, all_logits = None, []
        for k in range(len(self.stages)):
            upstream = self._run(k, images, upstream)
            all_logits.append(self._classify(k, upstream))
        return all_logits

    def confidence(self, images: Tensor) -> Tensor:
        """Largest probability of a class at every exit (K, B), whatever the thresholds."""
        return torch.stack([y.float().softmax(-1).amax(-1) for y in self.exits(images)])

    def set_thresholds(self, thresholds: Sequence[float]) -> None:
        """Let images leave from these confidences on, in (0, 1]; above 1, no image does.

        Raises:
            ValueError: if they are not as many as there are stages before the last, or negative.
        """
        if len(thresholds) != len(self.thresholds) or any(not each >= 0 for each in thresholds):
            raise ValueError(
                f"thresholds must be {len(self.thresholds)} numbers of at least 0, one for each "
                f"stage but the last; got {thresholds!r}"
            )
        self.thresholds.copy_(torch.tensor([min(each, NEVER) for each in thresholds]))
        _note_thresholds(self)

    def settle(self, batches: Iterable[Tensor]) -> None:
        """Solve the thresholds for the budget, on images that were not trained on.

        Raises:
            ValueError: if there is no budget or no image.
        """
        images = iter(batches)
        first = next(images, None)
        if self.budget is None or first is None:
            raise ValueError("thresholds are solved for a budget, on at least one image")
        size = (first.shape[2], first.shape[3])
        found = [self.confidence(each) for each in chain([first], images)]
        budget = self.budget * self.given_multiply_adds(size)
        confidence, costs = torch.cat(found, 1), self.exit_multiply_adds(size)
        self.set_thresholds(solve_budget(confidence, costs, budget)[0])

    def forward(self, images: Tensor) -> Tensor:
        """Logits: of the last exit while training or without thresholds, else of each image's own.

        Raises:
            ValueError: if the model is exported and images could leave.
        """
        if self.training or not self.leaves_early:
            return self.forward_head(self.forward_features(images))
        if torch.compiler.is_exporting():
            raise ValueError(
                "which stages run depends on the image, which an exported program cannot: export "
                f"without exits, after set_thresholds({[NEVER] * len(self.thresholds)})"
            )
        return self.leave(images)[0]

    def leave(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of each image's own exit, and the number of that exit from 0, (B,)."""
        last = len(self.stages) - 1
        inside = torch.arange(len(images), device=images.device)
        taken = torch.full_like(inside, last)
        upstream, out = None, None
        for k in range(last + 1):
            upstream = self._run(k, images, upstream)
            y = self._classify(k, upstream)
            out = y if out is None else out.index_copy(0, inside, y)
            if k == last:
                break
            leaving = y.float().softmax(-1).amax(-1) >= self.thresholds[k]
            taken = taken.index_fill(0, inside[leaving], k)
            stay = (~leaving).nonzero()[:, 0]
            if not len(stay):
                break
            if len(stay) < len(inside):
                images, inside, upstream = images[stay], inside[stay], upstream.of(stay)
        assert out is not None
        return out, taken

    def _run(self, k: int, images: Tensor, upstream: Upstream | None) -> Upstream:
        """Stage ``k`` on ``images``."""
        stage: Any = self.stages[k]
        grid = stage.patch_embed.dynamic_feat_size(images.shape[-2:])
        x = stage.norm_pre(stage._pos_embed(stage.patch_embed(images)))
        relation: Tensor | None = None
        if upstream is not None and upstream.relation is not None:
            relation = self.relation[k - 1](upstream.relation, upstream.grid, grid)
        bias = [None] * len(stage.blocks) if relation is None else relation.unflatten(
            1, (len(stage.blocks), -1)
        ).unbind(1)  # fmt: skip
        wanted = bool(self.relation) and k < len(self.stages) - 1
        kept = []
        for index, block in enumerate(stage.blocks):
            feature = None
            if upstream is not None and self.features:
                feature = self.features[k - 1][index](upstream, grid)  # pyrefly: ignore
            args = (block, x, bias[index], feature, wanted)
            if self.grad_checkpointing and self.training:
                x, scores = checkpoint(layer, *args, use_reentrant=False)
            else:
                x, scores = layer(*args)
            kept.append(scores)
        return Upstream(x, torch.cat(kept, 1) if wanted else None, grid)

    def _classify(self, k: int, upstream: Upstream) -> Tensor:
        stage: Any = self.stages[k]
        return stage.forward_head(stage.norm(upstream.tokens))

    # What it costs.

    def image_multiply_adds(self, size: tuple[int, int]) -> int:
        """Multiply-adds of an image that leaves at the last exit without asking at the others."""
        asked = sum(_classifier_cost(stage) for stage in self.stages[:-1])
        return self.exit_multiply_adds(size)[-1] - asked

    def given_multiply_adds(self, size: tuple[int, int]) -> int:
        """Those of the model that this was made of."""
        height, width = self._last.patch_embed.dynamic_feat_size(size)
        patches = height * width
        cost = self._stage_multiply_adds(self._last, patches)
        if self.features:
            hidden = sum(block.mlp.fc1.out_features for block in self._last.blocks)
            cost -= _WIDTH * hidden * (patches + self.prefix)
        return cost

    def exit_multiply_adds(self, size: tuple[int, int]) -> list[int]:
        """Multiply-adds of an image of ``size`` (H, W) that leaves at each exit, in closed form.

        Raises:
            ValueError: if the model pools by attention, which has none here.
        """
        if getattr(self._last, "attn_pool", None) is not None:
            raise ValueError(
                f"the {type(self._last.attn_pool).__name__} of this {type(self._last).__name__} "
                "has no closed form here: foveate.count_flops(model, image) // 2 counts any model"
            )
        costs, total, before = [], 0, 0
        for k, stage in enumerate(self.stages):
            height, width = stage.patch_embed.dynamic_feat_size(size)  # pyrefly: ignore
            patches = height * width
            total += self._stage_multiply_adds(stage, patches)
            if k and self.relation:
                total += linear_cost(self.relation[k - 1], (before + self.prefix) ** 2)
            if k and self.features:
                total += linear_cost(self.features[k - 1], before)
            costs.append(total)
            before = patches
        return costs

    def _stage_multiply_adds(self, stage: Any, patches: int) -> int:
        tokens = patches + self.prefix
        blocks = sum(
            attention_cost(block.attn, tokens) + linear_cost(block.mlp, tokens)
            for block in stage.blocks
        )
        embedding = stage.patch_embed.proj.weight.numel() * patches
        return embedding + blocks + _classifier_cost(stage)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """From published names, of stages by their numbers of tokens."""
        last = len(self.stages) - 1
        names = ["less_less_token", "less_token", "normal_token"][2 - last :]
        rules = [
            rule
            for k, name in enumerate(names)
            for rule in (
                (rf"^{name}\.relation_reuse_conv\.", f"relation.{k - 1}.mix."),
                (rf"^{name}\.blocks\.(\d+)\.feature_resuse_mlp\.0", rf"features.{k - 1}.\1.norm"),
                (rf"^{name}\.blocks\.(\d+)\.feature_resuse_mlp\.1", rf"features.{k - 1}.\1.mlp"),
                (rf"^{name}\.", f"stages.{k}."),
            )
        ]
        ours = {"thresholds": self.thresholds} | rename(state, rules)
        # Published are convolutions of one pixel, here linear layers.
        return {k: v.flatten(1) if ".mix." in k and v.dim() > 2 else v for k, v in ours.items()}


def _classifier_cost(stage: Any) -> int:
    heads = stage.get_classifier()
    heads = heads if isinstance(heads, tuple) else (heads,)
    return sum(linear_cost(head, 1) for head in heads)


def _note_thresholds(cascade: DVT, *_: Any) -> None:
    """Note whether an image could leave: a number of Python's, which a compiler takes as given."""
    cascade.leaves_early = bool((cascade.thresholds <= 1).any())


def layer(
    block: Any, x: Tensor, bias: Tensor | None, feature: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor | None]:
    """A block with what it reuses.

    Args:
        block: timm's.
        x: tokens (B, P + N, C).
        bias: reused relation (B, h, P + N, P + N), added to the logits.
        feature: reused features (B, P + N, 48), which the MLP sees beside the tokens.
        keep: whether to give the logits too.

    Returns:
        The tokens, and the logits (B, h, P + N, P + N) with the bias in them.
    """
    attention, kept = block.attn, None

    def attended(x: Tensor) -> Tensor:
        nonlocal kept
        q, k, v = project(attention, x)
        if not keep:
            return finish(attention, x, attend(attention, q, k, v, bias))
        kept = logits(attention, q, k)
        kept = kept if bias is None else kept + bias
        return finish(attention, x, weigh(attention, kept.softmax(-1), v))

    x = plus_attention(block, x, attended)
    seen = x if feature is None else torch.cat([x, feature], -1)
    return x + block.drop_path2(block.ls2(block.mlp(block.norm2(seen)))), kept


class RelationReuse(nn.Module):
    """Attention logits of one stage as a bias for the next: ``up(mix(relation))``.

    Args:
        maps: heads of all layers together, L h.
    """

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(maps, 3 * maps), nn.GELU(), nn.Linear(3 * maps, maps))
        nn.init.zeros_(self.mix[2].weight)  # pyrefly: ignore
        nn.init.zeros_(self.mix[2].bias)  # pyrefly: ignore

    def forward(self, relation: Tensor, before: tuple[int, int], grid: tuple[int, int]) -> Tensor:
        """(B, L h, P + n, P + n) of the grid ``before`` to (B, L h, P + N, P + N) of ``grid``."""
        x = self.mix(relation.permute(0, 2, 3, 1))  # maps last: what is chosen then lies together
        x = _finer_behind(_finer_behind(x, before, grid, 2), before, grid, 1)
        return x.permute(0, 3, 1, 2).contiguous()


class FeatureReuse(nn.Module):
    """What a block of the next stage sees of a stage's tokens: ``up(mlp(norm(tokens)))``.

    Args:
        dim: channels C of a token.
        norm: makes a norm of so many channels.
    """

    def __init__(self, dim: int, norm: Any) -> None:
        from timm.layers import Mlp

        super().__init__()
        self.norm = norm(dim)
        self.mlp = Mlp(dim, _HIDDEN, _WIDTH)

    def forward(self, upstream: Upstream, grid: tuple[int, int]) -> Tensor:
        """(B, P + N, 48) for the patches of ``grid``, zeros for the prefix."""
        height, width = upstream.grid
        prefix = upstream.tokens.shape[1] - height * width
        features = self.mlp(self.norm(upstream.tokens[:, prefix:]))
        return F.pad(finer(features, upstream.grid, grid, 1), (0, 0, prefix, 0))


def reuse_features(block: Any) -> FeatureReuse:
    """Let the MLP of ``block`` see features beside its tokens, in place; what makes these features.

    The weights of features begin at zero. The norm is over both, and so moves what a trained MLP
    gets.
    """
    norm, first = block.norm2, block.mlp.fc1
    dim = first.in_features
    like = {"device": first.weight.device, "dtype": first.weight.dtype}
    eps = norm.eps
    wide = type(norm)(dim + _WIDTH, eps=eps).to(**like)
    linear = nn.Linear(dim + _WIDTH, first.out_features, first.bias is not None, **like)
    with torch.no_grad():
        wide.weight[:dim], wide.bias[:dim] = norm.weight, norm.bias
        linear.weight[:, :dim], linear.weight[:, dim:] = first.weight, 0.0
        if first.bias is not None:
            linear.bias.copy_(first.bias)
    block.norm2, block.mlp.fc1 = wide, linear
    return FeatureReuse(dim, lambda channels: type(norm)(channels, eps=eps))


def finer(
    x: Tensor, before: tuple[int, int], grid: tuple[int, int], dim: int = -1
) -> Tensor:  # fmt: skip
    """Cells (h w) of a grid, along ``dim``, as those of a finer one (H W).

    Cells are repeated until there are at least as many a side, and then averaged, as nearest
    upsampling and adaptive average pooling do. So each new cell is a mean of at most two a side.
    """
    axis = dim % x.dim()
    x = x.unflatten(axis, before)
    for side, (was, now) in enumerate(zip(before, grid, strict=True), axis):
        if was == now:
            continue
        first, last, share = (torch.tensor(each, device=x.device) for each in _means(was, now))
        share = share.to(x.dtype).view(-1, *[1] * (x.dim() - side - 1))
        x = torch.lerp(x.index_select(side, last), x.index_select(side, first), share)
    return x.flatten(axis, axis + 1)


def _means(was: int, now: int) -> tuple[list[int], list[int], list[float]]:
    """For each of ``now`` cells the first and last of ``was`` in it, and the first one's share."""
    times = math.ceil(now / was)
    first, last, share = [], [], []
    for cell in range(now):
        start, end = cell * times * was // now, -(-(cell + 1) * times * was // now)
        first.append(start // times)
        last.append((end - 1) // times)
        share.append(sum(n // times == first[-1] for n in range(start, end)) / (end - start))
    return first, last, share


def _finer_behind(
    x: Tensor, before: tuple[int, int], grid: tuple[int, int], dim: int
) -> Tensor:  # fmt: skip
    """:func:`finer` along ``dim``, whose first entries are of prefix tokens."""
    prefix = x.shape[dim] - before[0] * before[1]
    kept, cells = x.tensor_split([prefix], dim)
    return torch.cat([kept, finer(cells, before, grid, dim)], dim)


def _host(model: Any) -> Any:
    """``model`` if a cascade can be made of it."""
    from timm.layers import Mlp, PatchEmbed  # here and not above, since timm brings torchvision
    from timm.models.vision_transformer import Block, VisionTransformer

    read(model)
    if not isinstance(model, VisionTransformer):
        raise ValueError(
            f"dvt takes timm's VisionTransformer (vit_*, deit_*, deit3_*), not "
            f"{type(model).__name__}"
        )
    for index, block in enumerate(model.blocks):
        for part, known in ((block, Block), (block.mlp, Mlp)):  # pyrefly: ignore
            if type(part) is not known:
                raise ValueError(
                    f"dvt takes plain blocks with plain MLPs, and blocks.{index} has a "
                    f"{type(part).__name__}"
                )
    embed: Any = model.patch_embed
    if type(embed) is not PatchEmbed or embed.img_size is None:
        raise ValueError("dvt takes models with one convolution for patches and an image size")
    if not isinstance(model.patch_drop, nn.Identity):
        raise ValueError("dvt reuses relations of all patches: build the model without patch_drop")
    return model

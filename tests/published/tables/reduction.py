"""Rows of the reducers: what drops and merges tokens of a vision transformer."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

import foveate
from foveate.reduction import sources, watching
from foveate.reduction._clusters import gather, k_medoids_of_rows
from foveate.reduction._vit import plus_attention, plus_mlp
from foveate.reduction.dynamicvit import (
    Predictor,
    policy_attention,
    policy_softmax,
    ratio_loss,
)
from foveate.reduction.tome import match
from foveate.tasks.reduced_classification import divergence, tokens_loss
from tests.published.golden import Golden, Row


def _nothing(**kwargs: Any) -> nn.Module:
    return nn.Identity()


def _merged(module: nn.Module, golden: Golden) -> dict[str, Tensor]:
    """One merging, put back where it came from; a second one where the case has it."""
    metric, x = golden.inputs["metric"], golden.inputs["x"]
    prefix = golden.kwargs["class_token"] + golden.kwargs["distill_token"]
    r = golden.kwargs["r"]
    merging = match(metric, r, prefix)
    merged, size = merging.merge(x, torch.ones(*x.shape[:2], 1))
    token = merging.moved()[..., None].expand(-1, -1, x.shape[2])
    given = merged
    if prefix == 2:
        given = _as_published_puts_back(merged, merging.left.shape[1])
    back = torch.cat([given[:, :prefix], given[:, prefix:].gather(1, token)], 1)
    found = {"merged": merged, "size": size, "unmerged": back}
    if "merged2" in golden.outputs:
        metric, _ = merging.merge(metric, torch.ones(*x.shape[:2], 1))
        found["merged2"], found["size2"] = match(metric, r, prefix).merge(merged, size)
    return found


def _as_published_puts_back(merged: Tensor, left: int) -> Tensor:
    """Its way back takes the distillation token for the last one that is left of the first set."""
    cls, first, dist, second = merged.split([1, left, 1, merged.shape[1] - left - 2], 1)
    return torch.cat([cls, dist, first, second], 1)


def _merging_vit(r: int, prop_attn: bool, img_size: list[int], **kwargs: Any) -> nn.Module:
    vit = VisionTransformer(img_size=tuple(img_size), **kwargs)  # pyrefly: ignore
    return foveate.reduce(vit, "tome", r=r, prop_attn=prop_attn)


def _logits(model: nn.Module, golden: Golden) -> dict[str, Tensor]:
    return {"logits": model(golden.inputs["x"])}


def _logits_and_sources(model: nn.Module, golden: Golden) -> dict[str, Tensor]:
    x = golden.inputs["x"]
    token = list(sources(model, x).values())[-1] + 1  # the class token comes first
    token = F.pad(token, (1, 0))
    source = F.one_hot(token).transpose(1, 2).float()
    return {"logits": model(x), "size": source.sum(2, keepdim=True), "source": source}


def _dropping_vit(
    pruning_loc: list[int],
    rho: float,
    token_ratio: str,
    distill: bool,
    norm_eps: float,
    **kwargs: Any,
) -> nn.Module:
    vit = VisionTransformer(**kwargs)
    return foveate.reduce(vit, "dynamicvit", keep=rho, stages=pruning_loc)


def _with_and_without_policy(part: Any, golden: Golden) -> dict[str, Tensor]:
    x, policy = golden.inputs["x"], golden.inputs["policy"]
    if isinstance(part, Block):
        y = plus_attention(part, x, lambda x: policy_attention(part.attn, x, policy))
        return {"with_policy": plus_mlp(part, y), "without": part(x)}
    return {"with_policy": policy_attention(part, x, policy), "without": part(x)}


def _dropping_losses(module: nn.Module, golden: Golden) -> dict[str, Tensor]:
    """The published loss and its parts: labels, share kept (summed), teacher, tokens."""
    given, options = golden.inputs, golden.kwargs
    labels = F.cross_entropy(given["pred"], given["labels"].long())
    decisions = [given[f"s{stage}"] for stage in range(3)]
    ratio = ratio_loss(decisions, options["keep_ratio"], over_batch=options["dynamic"])
    taught = divergence(given["pred"], given["cls_t"])
    how = "mse" if options["mse_token"] else "kl"
    tokens = tokens_loss(given["token_pred"], given["token_t"], given["mask"][..., 0], how)
    total = (
        labels + options["ratio_weight"] * ratio / 3 + options["distill_weight"] * (taught + tokens)
    )
    return {"parts": torch.stack([total, labels, ratio, taught, tokens])}


def _clustered(module: nn.Module, golden: Golden) -> dict[str, Tensor]:
    x, weight = golden.inputs["x"], golden.inputs["token_weights"][..., 0]
    count, iterations, weighted = (
        golden.kwargs[name] for name in ("cluster_num", "iterations", "token_weight")
    )
    clusters = k_medoids_of_rows(x, weight if weighted else None, count, iterations)
    return {
        "centers": gather(x, clusters.place),
        "center_idx": clusters.place,
        "assignment": clusters.number,
    }


def _pooling_vit(
    reduction_loc: list[int],
    keep_rate: list[float],
    cluster_iters: int,
    equal_weight: bool,
    timm: str,
    **kwargs: Any,
) -> nn.Module:
    return foveate.reduce(
        VisionTransformer(**kwargs),
        "token_pooling",
        keep=keep_rate[0],
        stages=reduction_loc,
        iterations=cluster_iters,
        weighted=not equal_weight,
        clustering="rows",
        before="block",
    )


def _evolving_vit(
    tradeoff: list[float],
    prune_ratio: list[float],
    norm_eps: float,
    stage_wise_prune: bool = True,
    prunecls: bool = False,
    **kwargs: Any,
) -> nn.Module:
    return foveate.reduce(
        VisionTransformer(global_pool="avg", **kwargs),
        "evovit",
        keep=[prune_ratio[4], prune_ratio[8]],
        tradeoff=tradeoff,
        layerwise=not stage_wise_prune,
        prune=prunecls,
    )


def _two_logits(model: nn.Module, golden: Golden) -> dict[str, Tensor]:
    with watching(model) as watch:
        logits = model(golden.inputs["x"])
    return {"logits": logits, "logits_cls": watch.logits[0]}


ROWS = [
    *(
        Row(f"dynamicvit_loss_{case}", _nothing, _dropping_losses, mechanism="dynamicvit")
        for case in ("kl", "mse", "mse_dynamic")
    ),
    Row("dynamicvit_attention", Attention, _with_and_without_policy, mechanism="dynamicvit"),
    Row("dynamicvit_block", Block, _with_and_without_policy, mechanism="dynamicvit"),
    Row(
        "dynamicvit_softmax_policy",
        _nothing,
        lambda module, golden: {"p": policy_softmax(*golden.inputs.values())},
        mechanism="dynamicvit",
    ),
    Row(
        "dynamicvit_predictor",
        lambda embed_dim: Predictor(embed_dim),
        lambda module, golden: {"logp": module(*golden.inputs.values())},
        mechanism="dynamicvit",
    ),
    *(
        Row(f"dynamicvit_{case}_eval", _dropping_vit, _logits, mechanism="dynamicvit")
        for case in ("narrow", "deit_s")
    ),
    *(
        Row(f"evovit_narrow_{case}", _evolving_vit, _logits, mechanism="evovit")
        for case in ("layerwise", "layerwise_prunecls", "stagewise_prunecls")
    ),
    Row("evovit_narrow_train", _evolving_vit, _two_logits, train=True, mechanism="evovit"),
    *(
        Row(f"tokenpool_kmedoids_{case}", _nothing, _clustered, mechanism="token_pooling")
        for case in ("equal_it1", "equal_it5", "weighted_it1")
    ),
    Row("tokenpool_kmedoids_vit_narrow", _pooling_vit, _logits, mechanism="token_pooling"),
    *(
        Row(f"tome_match_{case}", _nothing, _merged, mechanism="tome")
        for case in ("cls", "distill", "plain_twice")
    ),
    *(
        Row(case, _merging_vit, _logits_and_sources, mechanism="tome")
        for case in ("tome_vit_narrow", "tome_vit_narrow_noprop")
    ),
]

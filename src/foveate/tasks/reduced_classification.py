"""Classification by a model that is reduced while it learns, with the unreduced one as its teacher.

    loss = cross entropy + what the reducer asks for
           + w KL(p || t) + w d(tokens kept, the teacher's)

p and t are what the model and the teacher make of an image; cross entropy is the mean over the
model's head and those that a reducer adds for training, as Evo-ViT does for the class token. What a
reducer asks for, such as the share of patches that DynamicViT is to keep, it says itself
(``penalties``). Tokens are compared where the reducer decides about them in training: by the mean
of squares, or as distributions by KL.

The weights are those of DynamicViT (w = 0.5), whose published loss this is
(raoyongming/DynamicViT@1322e626, MIT).
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import one_of
from foveate.reduction import watching
from foveate.tasks.classification import Classification, Evaluator


class ReducedClassification:
    """A task of classification, learnt by a model that :func:`foveate.reduce` gave.

    ::

        teacher = timm.create_model("deit_small_patch16_224", pretrained=True)
        model = foveate.reduce(copy.deepcopy(teacher), "dynamicvit", keep=0.7)
        task = ReducedClassification(Classification(1000), teacher=teacher)

    Args:
        task: labels, mixing and metrics.
        teacher: the model before it was reduced, with its weights; None learns from labels alone.
            It is copied, and does not learn.
        distill_weight: of what is learnt from the teacher.
        tokens: how tokens that are kept are compared with the teacher's: ``"mse"`` as published for
            DeiT, or ``"kl"`` as for LV-ViT.

    Raises:
        ValueError: if an option is out of its range.
    """

    def __init__(
        self,
        task: Classification,
        *,
        teacher: nn.Module | None = None,
        distill_weight: float = 0.5,
        tokens: Literal["mse", "kl"] = "mse",
    ) -> None:
        if not distill_weight >= 0:
            raise ValueError(f"distill_weight must be at least 0, got {distill_weight!r}")
        self.task = task
        self.name, self.metrics = task.name, task.metrics
        self.distill_weight = distill_weight
        self.tokens = one_of(tokens, ("mse", "kl"), "comparison of tokens")
        self.teacher: Any = None
        if teacher is not None:
            self.teacher = copy.deepcopy(teacher).eval().requires_grad_(False)

    def predict(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits (B, K), float32."""
        return self.task.predict(model, images)

    def evaluator(self) -> Evaluator:
        return self.task.evaluator()

    def losses(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        x, loss = self.task.mixed(batch)
        whole: Any = model
        with watching(model) as watch:
            features = whole.forward_features(x)
        logits = whole.forward_head(features)
        labels = torch.stack([loss(each) for each in (logits, *watch.logits)]).mean()
        parts = {"cross_entropy": labels, **watch.penalties()}
        if self.teacher is not None:
            theirs = self.teacher.to(x.device)
            with torch.no_grad():
                taught = theirs.forward_features(x)
                aim = theirs.forward_head(taught)
            parts["distillation"] = self.distill_weight * divergence(logits, aim)
            if watch.decisions:
                kept = list(watch.decisions.values())[-1]  # (B, N)
                mine, other = (tokens[:, -kept.shape[1] :] for tokens in (features, taught))
                compared = tokens_loss(mine, other, kept, self.tokens)
                parts["tokens"] = self.distill_weight * compared
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}


def divergence(logits: Tensor, aim: Tensor) -> Tensor:
    """The mean over images of ``KL(aim || logits)``, of softmaxes over the last axis."""
    inputs, targets = logits.log_softmax(-1), aim.log_softmax(-1)
    return F.kl_div(inputs, targets, reduction="batchmean", log_target=True)


def tokens_loss(mine: Tensor, other: Tensor, kept: Tensor, how: str = "mse") -> Tensor:
    """How far the tokens that are kept are from the teacher's at the same places; 0 of none.

    Args:
        mine: tokens (B, N, C).
        other: the teacher's.
        kept: above one half where a token is kept (B, N).
        how: ``"mse"`` or ``"kl"``.
    """
    chosen = kept > 0.5
    compare = F.mse_loss if how == "mse" else divergence
    mine, other = mine[chosen], other[chosen]
    return compare(mine, other) if len(mine) else mine.sum()

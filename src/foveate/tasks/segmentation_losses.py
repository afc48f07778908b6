"""Losses of a class for every pixel, in which ignored pixels count nowhere.

    cross entropy = -sum_i w_{t_i} log softmax(y_i)_{t_i} / sum_i w_{t_i}
    Dice = 1 - mean_k 2 sum_i p_ik [t_i = k] / (sum_i p_ik + sum_i [t_i = k]),   p = softmax(y)

over all pixels i of the batch that are not ignored; Dice's mean is over the classes k that some of
these pixels have. Where all are ignored both are zero, and so are their gradients. Where processes
train together the batch is that of all of them.

Mmsegmentation v1.2.2 divides its cross entropy by all pixels, the ignored ones too, unless
``avg_non_ignore=True``, and stops where classes are weighted and pixels ignored. This here is
PyTorch's ``F.cross_entropy``, but for batches that are ignored whole, of which that makes NaN.

Shapes: logits (B, K, H, W), labels (B, H, W) of integers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate._distributed import mean_over_processes, sum_over_processes

IGNORED = 255
"""The label of pixels that count nowhere, as in most data sets."""


def pixel_cross_entropy(
    logits: Tensor, labels: Tensor, class_weights: Tensor | None = None, ignored: int = IGNORED
) -> Tensor:
    """The mean cross entropy of the pixels that count, in float32.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W).
        class_weights: (K,), what a pixel of each class counts; all alike if None.
        ignored: label of pixels that do not count.

    Raises:
        ValueError: if shapes do not go together.
    """
    _check(logits, labels)
    if class_weights is None:
        class_weights = logits.new_ones(logits.shape[1], dtype=torch.float32)
    elif class_weights.shape != logits.shape[1:2]:
        raise ValueError(
            f"class_weights needs one for each of {logits.shape[1]} classes, "
            f"got {tuple(class_weights.shape)}"
        )
    weights = class_weights.to(logits.device, torch.float32)
    loss = F.cross_entropy(logits.float(), labels, weights, ignore_index=ignored, reduction="sum")
    counted = labels != ignored
    total = (weights[labels.where(counted, 0)] * counted).sum()
    total = mean_over_processes(total, like=total)
    return loss / total.clamp_min(torch.finfo(torch.float32).tiny)


def dice_loss(logits: Tensor, labels: Tensor, ignored: int = IGNORED) -> Tensor:
    """One minus the mean Dice coefficient of the classes that are there, in float32.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W).
        ignored: label of pixels that do not count.

    Raises:
        ValueError: if shapes do not go together.
    """
    _check(logits, labels)
    counted = (labels != ignored)[:, None]
    shares = logits.float().softmax(1) * counted
    found = labels.where(counted[:, 0], 0)[:, None]
    hits = shares.gather(1, found)  # (B, 1, H, W): what each pixel gives its own class
    classes = logits.shape[1]
    both = shares.new_zeros(classes).index_add(0, found.flatten(), hits.flatten())
    labelled = shares.new_zeros(classes).index_add(
        0, found.flatten(), counted.flatten().to(shares.dtype)
    )
    both, labelled, found_areas = sum_over_processes(
        torch.stack([both, labelled, shares.sum((0, 2, 3))])
    )
    present = labelled > 0
    dice = 2 * both / (found_areas + labelled).clamp_min(1e-12)
    return ((1 - dice) * present).sum() / present.sum().clamp_min(1)


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.dim() != 4 or labels.shape != logits[:, 0].shape:
        raise ValueError(
            "expected logits (B, K, H, W) and labels (B, H, W) of the same images, "
            f"got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )

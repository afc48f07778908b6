"""Where to leave a cascade: thresholds of confidence, from shares of images or from a mean cost.

An image leaves at the first exit whose confidence, the largest probability of a class, reaches that
exit's threshold. Thresholds are found on images that were not trained on: for a share of images at
each exit, or for a mean cost, with shares ``q, q^2, ..., q^K`` brought to a sum of one and ``q``
solved for.

Paper: Wang et al., NeurIPS 2021, arXiv:2105.15075 (DVT), which takes this from multi-scale dense
networks (Huang et al., ICLR 2018, arXiv:1703.09844).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

NEVER = 2.0
"""A threshold that no confidence reaches."""


def find_thresholds(confidence: Tensor, shares: Sequence[float]) -> list[float]:
    """Thresholds with which the given shares of images leave at each exit.

    Going through the exits in order, the most confident images that are still inside leave, until
    their share of all images has left; the threshold is the confidence of the last of them. Others
    as confident as that leave too.

    Args:
        confidence: max softmax of each exit (K, N).
        shares: of all images, of each exit (K,); what is said of the last one does not matter.

    Returns:
        K - 1 thresholds; 2, which none reaches, where none is to leave or too few are inside.

    Raises:
        ValueError: if there is not one share in [0, 1] for each exit, there is no image, or
            a confidence is not finite.
    """
    exits, images = confidence.shape
    if not bool(confidence.isfinite().all()):
        raise ValueError("the confidence of some image is NaN or infinite: the model has failed")
    if len(shares) != exits or not images or any(not 0 <= share <= 1 for share in shares):
        raise ValueError(
            f"expected a share in [0, 1] for each of {exits} exits of at least one image, got "
            f"{list(shares)} for {images} images"
        )
    inside = torch.ones(images, dtype=torch.bool, device=confidence.device)
    thresholds = []
    for scores, share in zip(confidence[:-1], shares[:-1], strict=True):
        count = math.floor(images * share)
        left = scores[inside].sort(descending=True).values
        threshold = float(left[count - 1]) if 0 < count <= len(left) else NEVER
        thresholds.append(threshold)
        inside &= scores < threshold
    return thresholds


def solve_budget(
    confidence: Tensor, costs: Sequence[float], budget: float
) -> tuple[list[float], float]:
    """Thresholds with which images cost ``budget`` in the mean, or the nearest below it.

    The shares of the exits are a geometric series, whose ratio is searched for by halving.

    Args:
        confidence: max softmax of each exit on images that were not trained on (K, N).
        costs: of an image that leaves at each exit (K,), such as
            :meth:`DVT.exit_multiply_adds`; in the unit of ``budget``.
        budget: mean cost of an image.

    Returns:
        K - 1 thresholds, for :meth:`DVT.set_thresholds`; and the mean cost on these images.

    Raises:
        ValueError: if the budget is below the first exit's cost or above the last one's.
    """
    if not costs[0] <= budget <= costs[-1]:
        raise ValueError(
            f"budget must be between the cost of the first exit, {costs[0]:g}, and that of the "
            f"last, {costs[-1]:g}; got {budget:g}"
        )
    low, high = -20.0, 20.0  # log2 of the ratio: all leave at the first exit, none before the last
    best = _everyone_at(0, confidence, costs)
    for _ in range(60):
        middle = (low + high) / 2
        thresholds = find_thresholds(confidence, geometric(2.0**middle, len(costs)))
        cost = mean_cost(confidence, thresholds, costs)
        if cost <= budget:
            low = middle
            best = max(best, (thresholds, cost), key=lambda found: found[1])
        else:
            high = middle
    return best


def _everyone_at(
    exit: int, confidence: Tensor, costs: Sequence[float]
) -> tuple[list[float], float]:
    thresholds = [NEVER] * (len(costs) - 1)
    if exit < len(thresholds):
        thresholds[exit] = 0.0
    return thresholds, mean_cost(confidence, thresholds, costs)


def geometric(ratio: float, exits: int) -> list[float]:
    """Shares of the exits that are ``ratio`` to ``ratio ** exits``, brought to a sum of one."""
    powers = [ratio**k for k in range(1, exits + 1)]
    return [power / sum(powers) for power in powers]


def exits_taken(confidence: Tensor, thresholds: Sequence[float]) -> Tensor:
    """The number of the exit, from 0, by which each image leaves (N,)."""
    limits = torch.tensor([*thresholds, 0.0], dtype=confidence.dtype, device=confidence.device)
    return (confidence >= limits[:, None]).int().argmax(0)


def mean_cost(confidence: Tensor, thresholds: Sequence[float], costs: Sequence[float]) -> float:
    """Mean cost of an image, from the confidence of each exit (K, N) and its costs (K,)."""
    left = torch.bincount(exits_taken(confidence, thresholds), minlength=len(costs))
    shares = left.tolist()
    return sum(n * cost for n, cost in zip(shares, costs, strict=True)) / sum(shares)

"""Clusters of tokens, each with one token that marks its place.

    l = sum_i w_i min_k ||x_i - c_k||^2

is made smaller in turn by the clusters for given centers c and the centers for given clusters
(Lloyd's algorithm). Both begin with the tokens of largest score as centers.

Shapes: x (B, N, C), w (B, N); K clusters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from foveate.attention._softmax import wide_product


class Clusters(NamedTuple):
    """Which tokens belong together.

    Attributes:
        number: of the cluster that each token is in (B, N).
        place: for each cluster the token that is its center, or of means that it began with (B, K).
    """

    number: Tensor
    place: Tensor


@torch.no_grad()
def k_medoids(x: Tensor, weight: Tensor, place: Tensor, iterations: int) -> Clusters:
    """Clusters around tokens: a center is the token of its cluster that makes ``l`` smallest.

    A center stays unless another is cheaper by a ten-thousandth: of two tokens of equal weight each
    is as good as the other, and rounding would decide.

    Args:
        x: tokens (B, N, C).
        weight: of each in the sum (B, N).
        place: tokens that are centers to begin with (B, K).
        iterations: of new clusters and new centers.
    """
    distance = squared_distances(x, x)
    weighted = distance * weight[:, None]
    for _ in range(iterations):
        number = _nearest(distance, place)
        together = number[:, :, None] == number[:, None, :]  # (B, N, N)
        cost = torch.where(together, weighted, 0).sum(2)  # of each as the center
        cost = cost.scatter(1, place, cost.gather(1, place) * (1 - 1e-4))
        place = _cheapest(cost, number, place.shape[1])
    return Clusters(_nearest(distance, place), place)


@torch.no_grad()
def k_means(x: Tensor, weight: Tensor, place: Tensor, iterations: int) -> Clusters:
    """Clusters around their means (:func:`means`); the arguments are those of :func:`k_medoids`."""
    centers = gather(x, place)
    for _ in range(iterations - 1):
        clusters = Clusters(squared_distances(x, centers).argmin(2), place)
        centers = means(x, weight, clusters)
    return Clusters(squared_distances(x, centers).argmin(2), place)


@torch.no_grad()
def k_medoids_of_rows(x: Tensor, weight: Tensor | None, count: int, iterations: int) -> Clusters:
    """K-medoids as Haurum et al. wrote it, which the published numbers are of.

    A center is the token of its cluster that makes ``w_i sum_j ||x_i - x_j||`` smallest, over *all*
    tokens j: neither are those of other clusters left out, nor is the weight that of the tokens to
    which the distances are. Without weights the first center is token 0 (there: any), and each next
    one the token farthest from that center which is farthest from it.

    Args:
        x: tokens (B, N, C).
        weight: of each (B, N); None for equal weights.
        count: of clusters, K.
        iterations: of new clusters and new centers.
    """
    distance = squared_distances(x, x).sqrt()
    if weight is None:
        place, cost = _far_apart(distance, count), distance.sum(2)
    else:
        place, cost = weight.topk(count, 1).indices, distance.sum(2) * weight
    for _ in range(iterations):
        place = _cheapest(cost, _nearest(distance, place), count)
    return Clusters(_nearest(distance, place), place)


def means(x: Tensor, weight: Tensor, clusters: Clusters) -> Tensor:
    """Weighted means of the clusters (B, K, C); of one that is empty, the token at its place.

    Sums are in float32 at least: in float16 those of many tokens overflow.
    """
    batch, count = clusters.place.shape
    dtype, x, weight = x.dtype, x.to(sum_dtype(x)), weight.to(sum_dtype(x))
    first = count * torch.arange(batch, device=x.device)[:, None]  # cluster of each image
    number = (first + clusters.number).flatten()  # index_add is many times faster than scatter_add
    share = x.new_zeros(batch * count).index_add(0, number, weight.flatten())
    total = x.new_zeros(batch * count, x.shape[2])
    total = total.index_add(0, number, (x * weight[..., None]).flatten(0, 1))
    share, total = share.view(batch, count, 1), total.view(batch, count, -1)
    some = share > 0
    mean = torch.where(some, total / torch.where(some, share, 1), gather(x, clusters.place))
    return mean.to(dtype)


def gather(x: Tensor, place: Tensor) -> Tensor:
    """The tokens (B, K, C) at ``place`` (B, K)."""
    return x.gather(1, place[..., None].expand(-1, -1, x.shape[2]))


def sum_dtype(x: Tensor) -> torch.dtype:
    """The precision of sums over many tokens like ``x``: float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """``(B, N, C)`` and ``(B, K, C)`` to ``(B, N, K)``, of one matrix product, in float32 at least.

    Distances are small differences of large numbers, of which half precision leaves nothing.
    """
    x, y = x.to(sum_dtype(x)), y.to(sum_dtype(y))
    lengths = x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None]
    return (lengths - 2 * wide_product(x, y.transpose(1, 2))).clamp_min(0)


def _nearest(distance: Tensor, place: Tensor) -> Tensor:
    """The number of the center nearest to each token; of a center its own."""
    batch, count = place.shape
    to_centers = distance.gather(2, place[:, None].expand(-1, distance.shape[1], -1))
    own = torch.arange(count, device=place.device).expand(batch, -1)
    return to_centers.argmin(2).scatter(1, place, own)


def _cheapest(cost: Tensor, number: Tensor, count: int) -> Tensor:
    """The token of smallest ``cost`` in each cluster, (B, N) to (B, K)."""
    inside = number[:, None] == torch.arange(count, device=cost.device)[:, None]  # (B, K, N)
    return torch.where(inside, cost[:, None], torch.inf).argmin(2)


def _far_apart(distance: Tensor, count: int) -> Tensor:
    """Token 0, then in turn the one whose largest distance to those chosen is largest."""
    chosen = distance.new_zeros(distance.shape[0], 1, dtype=torch.long)
    for _ in range(count - 1):
        to_chosen = distance.gather(2, chosen[:, None].expand(-1, distance.shape[1], -1))
        farthest = to_chosen.amax(2).scatter(1, chosen, 0).argmax(1, keepdim=True)
        chosen = torch.cat([chosen, farthest], 1)
    return chosen

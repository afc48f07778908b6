"""Clusters of tokens: the definition, and what the objective does."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import foveate
from foveate.reduction import sources
from foveate.reduction._clusters import Clusters, k_means, k_medoids, means, squared_distances


def tokens(count=24, dim=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, count, dim, generator=generator)
    return x, torch.rand(2, count, generator=generator) + 0.1


def medoids_by_definition(x, weight, place, iterations):
    """Of one image, cluster by cluster."""
    for _ in range(iterations):
        number = ((x[:, None] - x[place]) ** 2).sum(2).argmin(1)
        for k in range(len(place)):
            inside = (number == k).nonzero()[:, 0]
            cost = [(weight[inside] * ((x[inside] - x[i]) ** 2).sum(1)).sum() for i in inside]
            place[k] = inside[torch.stack(cost).argmin()]
    return ((x[:, None] - x[place]) ** 2).sum(2).argmin(1), place


def test_k_medoids_is_its_definition():
    x, weight = tokens()
    start = weight.topk(5, 1).indices
    number, place = k_medoids(x, weight, start, 3)
    for i in range(2):
        expected = medoids_by_definition(x[i], weight[i], start[i].clone(), 3)
        assert torch.equal(number[i], expected[0])
        assert torch.equal(place[i], expected[1])


@pytest.mark.parametrize("cluster", [k_medoids, k_means])
def test_more_iterations_never_make_the_objective_larger(cluster):
    x, weight = tokens()
    start = torch.arange(5).expand(2, -1)
    found = []
    for iterations in (1, 2, 4, 8):
        clusters = cluster(x, weight, start, iterations)
        centers = means(x, weight, clusters)
        if cluster is k_medoids:
            centers = x.gather(1, clusters.place[..., None].expand(-1, -1, 3))
        distance = torch.cdist(x, centers).square().amin(2)
        found.append((weight * distance).sum(1))
    for before, after in pairwise(found):
        assert (after <= before * 1.001).all()  # the thousandth for centers that stay in a tie
    assert (found[-1] < found[0]).any()


def test_a_cluster_that_is_empty_keeps_its_token():
    x, weight = tokens(4)
    clusters = Clusters(torch.tensor([[0, 0, 2, 2]] * 2), torch.tensor([[0, 1, 3]] * 2))
    centers = means(x, weight, clusters)
    torch.testing.assert_close(centers[:, 1], x[:, 1])
    expected = (x[:, :2] * weight[:, :2, None]).sum(1) / weight[:, :2].sum(1, keepdim=True)
    torch.testing.assert_close(centers[:, 0], expected)


@pytest.mark.parametrize("clustering", ["medoids", "means", "rows"])
@pytest.mark.parametrize("before", ["mlp", "block"])
def test_every_form_leaves_the_share_that_is_asked_for(clustering, before):
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3)
    model = foveate.reduce(
        vit, "token_pooling", keep=0.5, stages=(1, 3), clustering=clustering, before=before
    )
    found = sources(model.eval(), torch.randn(2, 3, 32, 32))
    assert {block: token.unique().tolist() for block, token in found.items()} == {
        1: list(range(8)),
        3: list(range(4)),
    }


def test_distances_are_computed_in_float32():
    x = (10 + 0.1 * tokens()[0]).bfloat16()
    expected = torch.cdist(x.double(), x.double()).square().float()
    torch.testing.assert_close(squared_distances(x, x), expected, rtol=0.01, atol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(squared_distances(x, x), expected, rtol=0.01, atol=1e-3)

"""Routing attention: clusters, means and masks."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from foveate.attention.full.multi_head import MultiHeadAttention
from foveate.attention.sequence._k_means import KMeansAttention, k_means_step
from foveate.attention.sequence._rotary_blocks import RotaryBlockAttention
from foveate.attention.sequence.routing import RoutingAttention


def test_one_cluster_of_everything_is_plain_attention() -> None:
    ours = RoutingAttention(16, 4, num_clusters=1).eval()
    full = MultiHeadAttention(16, 4, qkv_bias=False).eval()
    weights = [getattr(ours, f"to_{name}").weight for name in "qkv"]
    full.load_state_dict(
        {
            "qkv.weight": torch.cat(weights),
            "proj.weight": ours.to_out.weight,
            "proj.bias": torch.zeros(16),
        }
    )
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(ours(x), full(x), rtol=1e-4, atol=1e-5)


def test_training_moves_the_means_and_evaluation_does_not() -> None:
    module, x = RoutingAttention(16, 2, 3, ema_decay=0.5), torch.randn(2, 20, 16)
    before = module.global_attn.means.clone()
    module.eval()(x)
    assert torch.equal(module.global_attn.means, before)
    q, k, _ = module._project(x, None)
    nearest = k_means_step(F.normalize(torch.cat([q, k], 2), dim=-1), before)
    module.train()(x)
    torch.testing.assert_close(module.global_attn.means, (before + nearest) / 2)


def test_k_means_finds_clusters_that_are_there() -> None:
    centres = F.normalize(torch.randn(3, 8), dim=-1)
    tokens = F.normalize(centres[torch.arange(60) % 3] + 0.01 * torch.randn(60, 8), dim=-1)
    means = k_means_step(tokens[None, None], tokens[None, :3])[0]
    torch.testing.assert_close(means, centres, rtol=0, atol=0.05)


def test_a_mean_without_tokens_stays() -> None:
    means = torch.stack([torch.ones(4), -torch.ones(4)])[None]
    assert torch.equal(k_means_step(torch.rand(1, 1, 5, 4), means)[0, 1], means[0, 1])


@pytest.mark.parametrize("tokens", [2, 30])
def test_fit_sets_the_means(tokens: int) -> None:
    module = KMeansAttention(2, 8, 4)
    before = module.means.clone()
    module.fit(F.normalize(torch.randn(2, 2, tokens, 8), dim=-1))
    assert not torch.equal(module.means, before)
    assert torch.isfinite(module.means).all()


@pytest.mark.parametrize("shared_qk", [False, True])
def test_causal_routing_sees_no_later_token_in_its_clusters(shared_qk: bool) -> None:
    module = KMeansAttention(2, 8, 1, causal=True, shared_qk=shared_qk).eval()
    q, k, v = torch.randn(3, 2, 2, 10, 8).unbind(0)
    changed = v.clone()
    changed[:, :, 6:] += 1
    torch.testing.assert_close(module(q, k, changed)[:, :, :6], module(q, k, v)[:, :, :6])


@pytest.mark.parametrize("causal", [False, True])
def test_local_heads_see_their_block_and_those_beside_it(causal: bool) -> None:
    module, tokens = RotaryBlockAttention(4, 8, causal=causal), 11
    q, k = torch.randn(2, 1, 2, tokens, 8).unbind(0)
    positions = torch.eye(tokens).expand(1, 2, -1, -1)
    seen = module(q, k, positions)[0, 0] > 0  # (N, N)
    block = torch.arange(tokens) // 4
    apart = block[:, None] - block
    expected = (apart.abs() <= 1).tril() if causal else apart.abs() <= 1
    assert torch.equal(seen, expected)


def test_some_heads_must_be_routed() -> None:
    with pytest.raises(ValueError, match="local_heads must be from 0 to num_heads - 1, got 4"):
        RoutingAttention(16, 4, local_heads=4)
    with pytest.raises(ValueError, match="even number of channels, got 3"):
        RoutingAttention(12, 4, local_heads=2)

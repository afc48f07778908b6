"""Performer attention: what it approximates, and where the published form underflows."""

from __future__ import annotations

import pytest
import torch

import foveate
from foveate.attention.full.multi_head import MultiHeadAttention
from foveate.attention.full.performer import (
    PerformerAttention,
    TokenPerformer,
    linear_attention,
    orthogonal_rows,
    random_features,
)


def test_many_features_come_close_to_softmax_attention():
    torch.manual_seed(0)
    exact = MultiHeadAttention(16, 2).eval()
    x, errors = 0.5 * torch.randn(1, 20, 16), []
    for count in (64, 16384):
        ours = PerformerAttention(16, 2, num_features=count).eval()
        ours.load_state_dict({**exact.state_dict(), "w": ours.w})
        errors.append((ours.weights(x) - exact.weights(x)).abs().max().item())
    assert errors[1] < 0.005 < errors[0]


def test_rows_are_orthogonal_in_groups():
    rows = orthogonal_rows(7, 4)
    torch.testing.assert_close(rows[:4] @ rows[:4].mT, torch.eye(4))
    torch.testing.assert_close(rows[4:] @ rows[4:].mT, torch.eye(3))


def test_long_queries_and_keys_neither_underflow_nor_overflow():
    torch.manual_seed(0)
    q, k, v = 30 * torch.randn(3, 1, 9, 8)
    w = 8**0.5 * orthogonal_rows(8, 8)
    y = linear_attention(*random_features(q, k, w), v)
    wide = [t.double() for t in (q, k)]
    logits = [t @ w.double().mT - 0.5 * t.square().sum(-1, keepdim=True) for t in wide]
    pairs = (logits[0].unsqueeze(-2) + logits[1].unsqueeze(-3)).logsumexp(-1)  # (1, N, N)
    torch.testing.assert_close(y, (pairs.softmax(-1) @ v.double()).float(), rtol=1e-3, atol=1e-3)


def test_a_masked_token_is_as_if_it_were_not_there_however_long():
    torch.manual_seed(0)
    m, x = PerformerAttention(16, 2).eval(), torch.randn(1, 8, 16)
    x[:, 1] *= 100
    mask = torch.tensor([[True, False, True, True, False, True, True, True]])
    torch.testing.assert_close(m(x, mask)[:, mask[0]], m(x[:, mask[0]]))
    nothing = m(x, torch.zeros_like(mask))
    torch.testing.assert_close(nothing, m.proj.bias.expand_as(nothing))


def test_the_token_module_states_what_it_lacks():
    with pytest.raises(ValueError, match=r"kernel_ratio=0.05 of 8 channels leaves no feature"):
        TokenPerformer(27, 8, 0.05)
    with pytest.raises(ValueError, match="27"):
        TokenPerformer(27, 8)(torch.randn(1, 5, 26))


def test_it_is_one_of_the_library():
    assert foveate.describe("performer").cls is PerformerAttention

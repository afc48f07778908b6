"""Class attention: the first token alone changes, as a row of full attention."""

from __future__ import annotations

import torch

import foveate
from foveate.attention.full.class_attention import ClassAttention
from foveate.attention.full.multi_head import MultiHeadAttention


def test_class_attention_changes_the_first_token_only() -> None:
    x = torch.randn(2, 7, 16)
    y = ClassAttention(16, 4).eval()(x)
    assert torch.equal(y[:, 1:], x[:, 1:])
    assert not torch.allclose(y[:, 0], x[:, 0])


def test_class_attention_is_a_row_of_full_attention() -> None:
    full = MultiHeadAttention(16, 4).eval()
    ours = foveate.load_published(ClassAttention(16, 4).eval(), full.state_dict())
    x = torch.randn(2, 7, 16)
    torch.testing.assert_close(ours(x)[:, 0], full(x)[:, 0])


def test_masked_keys_have_no_say() -> None:
    module, x = ClassAttention(16, 4).eval(), torch.randn(2, 6, 16)
    mask = torch.tensor([True, True, True, True, False, False]).expand(2, 6)
    torch.testing.assert_close(module(x, mask)[:, :4], module(x[:, :4]))


def test_a_sample_without_keys_gets_the_bias_and_no_weights() -> None:
    module, x = ClassAttention(16, 4).eval(), torch.randn(2, 5, 16)
    mask = torch.tensor([[False] * 5, [True] * 5])
    weights = module.weights(x, mask)
    assert not weights[0, :, 0].any()
    torch.testing.assert_close(weights[1], module.weights(x)[1])
    torch.testing.assert_close(module.apply_weights(x, weights), module(x, mask))
    torch.testing.assert_close(module(x, mask)[0, 0], module.proj.bias)

"""Class attention and talking heads: what is theirs alone."""

from __future__ import annotations

import pytest
import torch

import foveate
from foveate.attention.full.class_attention import ClassAttention
from foveate.attention.full.multi_head import MultiHeadAttention
from foveate.attention.full.talking_heads import TalkingHeadsAttention


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


def test_talking_heads_that_do_not_talk_are_plain_attention() -> None:
    full = MultiHeadAttention(16, 4).eval()
    ours = TalkingHeadsAttention(16, 4, head_bias=False).eval()
    silent = {"proj_l.weight": torch.eye(4), "proj_w.weight": torch.eye(4)}
    foveate.load_published(ours, full.state_dict() | silent)
    x = torch.randn(2, 7, 16)
    torch.testing.assert_close(ours(x), full(x))


@pytest.mark.parametrize("cls", [ClassAttention, TalkingHeadsAttention])
def test_masked_keys_have_no_say(cls: type) -> None:
    module, x = cls(16, 4).eval(), torch.randn(2, 6, 16)
    mask = torch.tensor([True, True, True, True, False, False]).expand(2, 6)
    torch.testing.assert_close(module(x, mask)[:, :4], module(x[:, :4]))

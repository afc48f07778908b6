"""Talking heads: what is theirs alone."""

from __future__ import annotations

import torch

import foveate
from foveate.attention.full.multi_head import MultiHeadAttention
from foveate.attention.full.talking_heads import TalkingHeadsAttention


def test_talking_heads_that_do_not_talk_are_plain_attention() -> None:
    full = MultiHeadAttention(16, 4).eval()
    ours = TalkingHeadsAttention(16, 4, head_bias=False).eval()
    silent = {"proj_l.weight": torch.eye(4), "proj_w.weight": torch.eye(4)}
    foveate.load_published(ours, full.state_dict() | silent)
    x = torch.randn(2, 7, 16)
    torch.testing.assert_close(ours(x), full(x))


def test_masked_keys_have_no_say() -> None:
    module, x = TalkingHeadsAttention(16, 4).eval(), torch.randn(2, 6, 16)
    mask = torch.tensor([True, True, True, True, False, False]).expand(2, 6)
    torch.testing.assert_close(module(x, mask)[:, :4], module(x[:, :4]))

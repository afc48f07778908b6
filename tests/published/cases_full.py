"""Attention over the whole map, full or reduced."""

from __future__ import annotations

from foveate.attention.full.class_attention import ClassAttention
from foveate.attention.full.talking_heads import TalkingHeadsAttention
from tests.published.golden import Row

ROWS = [
    Row("cait_class_attention", ClassAttention, lambda m, g: {"cls": m(g.inputs["x"])[:, :1]}),
    Row("cait_class_attention_24", ClassAttention, lambda m, g: m(g.inputs["x"])[:, :1]),
    Row("xcit_class_attention", ClassAttention),
    Row("cait_talking_heads", TalkingHeadsAttention),
]

"""The profiler's numbers against what is known of small modules."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from foveate import create_attention, profile
from foveate.analysis.profile import peak_memory, quartiles


class Sum(nn.Module):
    def forward(self, a, b):
        return a.sum() + b.sum()


def test_counts_of_a_mechanism():
    mixer = create_attention("multi_head", 16, 4, role="mixer").train()
    result = profile(mixer, (16, 5, 6), batch_size=2, repeats=3)
    assert result.parameters == sum(p.numel() for p in mixer.parameters())
    assert result.multiply_adds == mixer.multiply_adds(5, 6)
    assert 0 < result.latency_p25_ms <= result.latency_ms <= result.latency_p75_ms
    assert result.threads == torch.get_num_threads()
    assert mixer.training
    assert json.loads(json.dumps(result.to_dict()))["input_size"] == [16, 5, 6]


def test_peak_memory_is_what_lives_at_once():
    x = torch.zeros(1000)

    def call():
        a = x + 1
        b = a + 1
        del a
        return b + 1

    assert peak_memory(call) == pytest.approx(2 * 4000, abs=256)


def test_several_inputs():
    result = profile(Sum(), [(3, 4), (5,)], repeats=2)
    assert result.input_size == ((3, 4), (5,))
    assert result.multiply_adds == 0


def test_half_precision_weights_get_half_precision_input():
    assert profile(nn.Linear(4, 4).bfloat16(), (4,), repeats=1).multiply_adds == 16


def test_quartiles():
    assert quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": (3, 0, 4)}, "input_size"),
        ({"batch_size": 0}, "batch_size"),
        ({"repeats": 0}, "repeats"),
        ({"device": "nonsense"}, "device 'nonsense' is not available"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        profile(nn.Identity(), **options)

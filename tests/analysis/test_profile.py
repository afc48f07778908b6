"""The profiler's numbers against what is known of small modules."""

from __future__ import annotations

import json
import random
import re
import time
from functools import partial

import pytest
import torch
from torch import nn

from foveate import create_attention, profile
from foveate.analysis.energy import EnergyCounter
from foveate.analysis.profile import interleaved, median_interval, peak_memory, quartiles


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


def test_calls_take_turns():
    """Every round makes each call once, and there are at least as many rounds as asked for."""
    made = []
    calls = {name: partial(made.append, name) for name in "abc"}
    found = interleaved(calls, 0.0, least=4)
    assert [len(found[name].ms) for name in "abc"] == [4, 4, 4]
    assert made[:3] == ["a", "b", "c"]  # to warm up
    rounds = [tuple(made[i : i + 3]) for i in range(3, len(made), 3)]
    assert [sorted(one) for one in rounds] == [["a", "b", "c"]] * 4
    assert len(set(rounds)) > 1  # not always in the same order


def test_rounds_go_on_until_the_time_is_over():
    start = time.perf_counter()
    found = interleaved({"a": partial(time.sleep, 0.002)}, 0.1, least=1)
    assert time.perf_counter() - start >= 0.1
    assert len(found["a"].ms) > 3
    assert min(found["a"].ms) >= 2


def test_interval_of_a_median_covers_it():
    """95 % of samples of 30 from a skew distribution, to within its own sampling error."""
    chance = random.Random(0)
    hits = 0
    for _ in range(1000):
        low, high = median_interval([chance.expovariate(1.0) for _ in range(30)])
        hits += low <= 0.6931 <= high
    assert 0.94 <= hits / 1000 <= 0.995
    assert median_interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def counter(root, *values: int, largest: int = 1000):
    """Packages of a processor whose counters stand at ``values``, and one that is none."""
    for index, value in enumerate(values):
        folder = root / f"intel-rapl:{index}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "energy_uj").write_text(f"{value}\n")
        (folder / "max_energy_range_uj").write_text(f"{largest}\n")
    core = root / "intel-rapl:0:0"
    core.mkdir(exist_ok=True)
    (core / "energy_uj").write_text("5\n")
    return root


def test_energy_is_the_sum_of_the_packages_and_goes_round(tmp_path):
    energy = EnergyCounter(counter(tmp_path, 100, 900))
    assert energy.available
    counter(tmp_path, 150, 950)
    assert energy.joules() == pytest.approx(100e-6)
    counter(tmp_path, 150, 20)
    assert energy.joules() == pytest.approx(170e-6)


def test_no_counter(tmp_path):
    energy = EnergyCounter(tmp_path)
    assert not energy.available
    assert energy.joules() == 0


def test_a_size_in_one_number_is_refused():
    with pytest.raises(ValueError, match="input_size is that of one sample without the batch"):
        profile(torch.nn.Conv2d(3, 4, 3), 224)


def test_printed_it_has_its_units():
    text = str(profile(torch.nn.Conv2d(3, 4, 3), (3, 8, 8), repeats=2))
    assert re.match(r"112 parameters, 0\.00 M multiply-adds, \d+\.\d\d ms \(", text)

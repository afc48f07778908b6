"""ACmix on windows: what is its own."""

from __future__ import annotations

import torch

from foveate.attention.window.acmix_window import ACmixWindowAttention

SHIFTS = ("learned", "fixed", "tensor")


def _same_start(build, **options) -> list:
    modules = []
    for shift in SHIFTS:
        torch.manual_seed(0)
        modules.append(build(shift=shift, **options).eval())
    return modules


def test_the_three_shifts_agree_on_windows() -> None:
    x = torch.randn(2, 16, 8, 10)
    learned, fixed, tensor = _same_start(lambda **o: ACmixWindowAttention(16, 4, 4, 2, **o))
    torch.testing.assert_close(fixed(x), learned(x))
    torch.testing.assert_close(tensor(x), learned(x))

"""ACmix: what is its own."""

from __future__ import annotations

import pytest
import torch

import foveate
from foveate.attention.local._patches import coordinates
from foveate.attention.local.acmix import ACmix

SHIFTS = ("learned", "fixed", "tensor")


def _same_start(build, **options) -> list:
    modules = []
    for shift in SHIFTS:
        torch.manual_seed(0)
        modules.append(build(shift=shift, **options).eval())
    return modules


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("conv_kernel_size", [3, 5])
def test_the_three_shifts_start_as_one_function(stride: int, conv_kernel_size: int) -> None:
    x = torch.randn(2, 16, 7, 10)
    options = {"conv_kernel_size": conv_kernel_size, "kernel_size": 5, "stride": stride}
    learned, fixed, tensor = _same_start(lambda **o: ACmix(16, 4, **o), **options)
    torch.testing.assert_close(fixed(x), learned(x))
    torch.testing.assert_close(tensor(x), learned(x))


def test_a_stride_keeps_every_other_position() -> None:
    whole = ACmix(16, 4, 3).eval()
    strided = foveate.load_published(ACmix(16, 4, 3, stride=2).eval(), whole.state_dict())
    x = torch.randn(2, 16, 7, 10)
    torch.testing.assert_close(strided(x), whole(x)[:, :, ::2, ::2])


def test_small_maps_are_reflected_as_large_ones_where_both_can_be() -> None:
    module, x = ACmix(8, 2, 7).eval(), torch.randn(2, 8, 4, 5)
    q, k, v = module._project(x).chunk(3, -2)
    expected = module._attend(q, k, v, 0.0)
    k = k - module.conv_p(coordinates(x).movedim(0, -1))[:, :, None]
    logits = module._products(q, k) * module.head_dim**-0.5
    ours = module._sum(logits.softmax(3), v)
    torch.testing.assert_close(ours, expected)


def test_a_term_that_all_neighbours_share_changes_nothing() -> None:
    module, x = ACmix(16, 4, 3).eval(), torch.randn(2, 16, 6, 5)
    before = module(x)
    torch.nn.init.normal_(module.conv_p.bias, std=5)
    torch.testing.assert_close(module(x), before)


def test_wrong_options_are_refused() -> None:
    for option in ("kernel_size", "conv_kernel_size"):
        with pytest.raises(ValueError, match=f"{option} must be odd"):
            ACmix(16, 4, **{option: 4})
    with pytest.raises(ValueError, match="unknown shift 'lerned'; did you mean 'learned'"):
        ACmix(16, 4, shift="lerned")
    with pytest.raises(ValueError, match="unknown attention 'window'"):
        ACmix(16, 4, attention="window")
    with pytest.raises(ValueError, match="weights are shown with"):
        ACmix(16, 4, attention="patchwise").weights(torch.randn(1, 16, 4, 4))

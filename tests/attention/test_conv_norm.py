"""A convolution with its norm: one in evaluation, and two steps where somebody looks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foveate.attention._conv_norm import ConvNorm


def trained(dtype: torch.dtype = torch.float32) -> ConvNorm:
    torch.manual_seed(0)
    module = ConvNorm(6, 8, 3, stride=2)
    with torch.no_grad():
        for _ in range(3):
            module(2 + 3 * torch.randn(4, 6, 9, 8))
        module.bn.weight.uniform_(0.5, 2)
        module.bn.bias.normal_()
    return module.eval().to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_evaluation_folds_the_norm_and_its_gradients(dtype):
    module, x = trained(dtype), torch.randn(2, 6, 9, 8, dtype=dtype, requires_grad=True)
    wrt = [x, *module.parameters()]
    y, expected = module(x), module.bn(module.conv(x))
    torch.testing.assert_close(
        y, expected, **({"atol": 0.1, "rtol": 0.05} if dtype.itemsize == 2 else {})
    )
    if dtype.itemsize > 2:
        got, want = (torch.autograd.grad(out.square().sum(), wrt) for out in (y, expected))
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_what_is_hooked_or_another_norm_is_called():
    module, x, seen = trained(), torch.randn(1, 6, 9, 8), []
    module.bn.register_forward_hook(lambda *call: seen.append(call))
    torch.testing.assert_close(module(x), module.bn(module.conv(x)))
    assert len(seen) == 2
    module.bn = nn.GroupNorm(2, 8)
    torch.testing.assert_close(module(x), module.bn(module.conv(x)))

"""Selective kernel: branches chosen by channel."""

from __future__ import annotations

import pytest
import torch
from timm.layers import SelectiveKernel as TimmSelectiveKernel
from torch.utils.flop_counter import FlopCounterMode

import foveate
from foveate.attention.gates.selective_kernel import SelectiveKernel

DIM = 24
FORMS = {
    "paper": {"groups": 8},
    "three": {"groups": (1, 2, 3), "dilations": (1, 2, 3), "min_width": 4},
    "split": {"groups": 1, "split_input": True},
}


@pytest.mark.parametrize("options", FORMS.values(), ids=FORMS)
def test_contract(options: dict) -> None:
    torch._dynamo.reset()
    module = SelectiveKernel(DIM, **options)
    module(torch.randn(4, DIM, 5, 5)).sum().backward()
    module.eval()
    with FlopCounterMode(display=False) as counter:
        module(torch.randn(1, DIM, 7, 10))
    assert module.multiply_adds(7, 10) * 2 == counter.get_total_flops()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="eager")
    for size in ((2, DIM, 5, 9), (1, DIM, 1, 1), (0, DIM, 4, 3)):
        x = torch.randn(size).contiguous(memory_format=torch.channels_last)
        y = module(x)
        assert y.shape == x.shape
        assert not len(x) or y.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(y, module(x.contiguous()))
        torch.testing.assert_close(y, compiled(x))
    assert module.to(torch.bfloat16)(x.to(torch.bfloat16)).dtype == torch.bfloat16


def test_equals_timm() -> None:
    theirs = TimmSelectiveKernel(64, groups=32, rd_divisor=32, split_input=False)
    ours = foveate.load_published(SelectiveKernel(64), theirs.state_dict())
    x = torch.randn(2, 64, 6, 7)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dilations": ()}, "one branch at least"),
        ({"groups": 5}, "24 channels do not divide into groups=5"),
        ({"groups": (1, 2, 3)}, "groups must be one number or 2"),
        ({"dilations": (1,) * 5, "split_input": True}, "does not split into 5"),
        ({"min_width": 0}, "min_width"),
    ],
)
def test_refuses_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectiveKernel(DIM, **options)

"""The forms that are exported: right at every size, from one program or from one a size."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foveate import ops
from foveate.ops._operator import Flags
from foveate.ops.local import api as local_api
from foveate.ops.local import operator as local_operator
from foveate.ops.window import api as window_api
from foveate.ops.window import operator as window_operator

FREE = torch.export.Dim.DYNAMIC
TRACED = (2, 29, 34)  # batch, height, width


class Call(nn.Module):
    """An operator's call as a module."""

    def __init__(self, function: Any, tensors: dict[str, Tensor], options: dict[str, Any]) -> None:
        super().__init__()
        self.function, self.options, self.names = function, options, list(tensors)
        for name, x in tensors.items():
            self.register_buffer(name, x)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tensors = {name: getattr(self, name) for name in self.names}
        return self.function(q, k, v, **tensors, **self.options)


def maps(size: tuple[int, int, int], heads: int = 2, dim: int = 4, values: int = 4) -> list[Tensor]:
    """q, k, v: views of one projection unless values are wider."""
    torch.manual_seed(0)
    qkv = torch.randn(*size, 3, heads, dim).unbind(3)
    return list(qkv) if values == dim else [*qkv[:2], torch.randn(*size, heads, values)]


def program(call: Call, traced: tuple[int, int, int] = TRACED) -> nn.Module:
    """Exported in core operators, free in batch, height and width."""
    free = ({0: FREE, 1: FREE, 2: FREE},) * 3
    exported = torch.export.export(call, tuple(maps(traced)), dynamic_shapes=free)
    return exported.run_decompositions().module()


LOCAL = [
    ({"kernel_size": 7}, True),
    ({"kernel_size": 3, "dilation": (2, 2)}, True),
    ({"kernel_size": (5, 4), "border": "zero"}, True),
    ({"kernel_size": 3, "dilation": 2, "border": "zero"}, False),
    ({"kernel_size": (1, 9), "border": "mask", "scale": 3.0}, False),
    ({"kernel_size": 5, "dilation": (1, 3), "border": "mask"}, True),
    ({"kernel_size": 5, "border": "reflect"}, True),
]
"""Options, and whether there is a table of biases."""
local_cases = pytest.mark.parametrize(("options", "table"), LOCAL, ids=[str(x) for x, _ in LOCAL])
SIZES = ((1, 7, 7), (3, 9, 50), (2, 14, 13), (1, 33, 8))


def local_table(options: dict[str, Any], table: bool) -> dict[str, Tensor]:
    if not table:
        return {}
    kernel = options["kernel_size"]
    high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
    return {"bias": torch.randn(2, 2 * high - 1, 2 * wide - 1)}


@local_cases
def test_local_attention_of_fixed_size(options, table):
    tensors = local_table(options, table)
    for size in (*SIZES, (1, 28, 41)):
        q, k, v = maps(size, values=3)
        call = {"dilation": 1, "bias": None, "scale": None, "border": "shift"} | options | tensors
        a = local_api._checked(q, k, v, **call, key_mask=None, dropout_p=0.0)
        actual = local_operator.local_attention.exported(a, Flags(True, False))
        expected = ops.local_attention(q, k, v, **tensors, **options, return_lse=True)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@local_cases
def test_local_attention_of_free_size(options, table):
    call = Call(partial(ops.local_attention, return_lse=True), local_table(options, table), options)
    exported = program(call)
    for size in SIZES:
        torch.testing.assert_close(exported(*maps(size)), call(*maps(size)), rtol=1e-4, atol=1e-5)


def test_local_attention_of_free_size_on_maps_smaller_than_its_window():
    for border in ("zero", "mask"):
        call = Call(ops.local_attention, {}, {"kernel_size": 5, "border": border, "dilation": 2})
        exported = program(call)
        for size in ((1, 1, 1), (2, 1, 3), (1, 4, 2)):
            torch.testing.assert_close(exported(*maps(size)), call(*maps(size)))


def test_a_bias_of_each_query_and_tap_is_exported():
    q, k, v = maps((2, 9, 11))
    bias = torch.randn(2, 9, 11, 2, 3, 3)
    call = Call(ops.local_attention, {"bias": bias}, {"kernel_size": 3, "border": "zero"})
    exported = torch.export.export(call, (q, k, v)).module()
    torch.testing.assert_close(exported(q, k, v), call(q, k, v), rtol=1e-4, atol=1e-5)


def test_local_attention_of_logits_far_apart():
    """Masked keys may have logits far above those that are seen."""
    q, k, v = maps((1, 12, 12))
    k = 100 * k
    call = Call(ops.local_attention, {}, {"kernel_size": 3, "border": "mask"})
    exported = torch.export.export(call, (q, k, v)).module()
    torch.testing.assert_close(exported(q, k, v), call(q, k, v), rtol=1e-3, atol=1e-3)


def test_local_attention_with_a_key_mask_is_exported():
    q, k, v = maps((2, 9, 11))
    seen = torch.rand(2, 9, 11) > 0.3
    call = Call(ops.local_attention, {"key_mask": seen}, {"kernel_size": 3, "border": "mask"})
    exported = torch.export.export(call, (q, k, v)).module()
    torch.testing.assert_close(exported(q, k, v), call(q, k, v), rtol=1e-4, atol=1e-5)


WINDOWS = [
    ({"window_size": 4}, True),
    ({"window_size": (5, 3), "shift_size": (2, 1)}, True),
    ({"window_size": (None, 4)}, False),
    ({"window_size": (4, 2), "spread": True}, False),
]
"""Options, and whether there is a bias."""


def window_bias(options: dict[str, Any], bias: bool) -> dict[str, Tensor]:
    if not bias:
        return {}
    side = options["window_size"]
    cells = side * side if isinstance(side, int) else side[0] * side[1]
    return {"bias": torch.randn(2, cells, cells)}


@pytest.mark.parametrize(("options", "bias"), WINDOWS, ids=[str(x) for x, _ in WINDOWS])
def test_window_attention_is_exported(options, bias):
    tensors = window_bias(options, bias)
    call = Call(ops.window_attention, tensors, options)
    for size in ((2, 8, 12), (1, 9, 7), (3, 5, 13)):
        q, k, v = maps(size, values=3)
        given = {"shift_size": 0, "spread": False, "bias": None, "scale": None} | options | tensors
        a = window_api._checked(q, k, v, **given, dropout_p=0.0)
        actual = window_operator.window_attention.exported(a, Flags(False, False))[0]
        torch.testing.assert_close(actual, call(q, k, v), rtol=1e-4, atol=1e-5)
    exported = program(call)
    for size in ((1, 9, 7), (3, 8, 12), (2, 6, 31)):
        torch.testing.assert_close(exported(*maps(size)), call(*maps(size)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kernel", [3, (2, 5)])
@pytest.mark.parametrize("shared", [True, False])
def test_slide_attention_is_exported(kernel, shared):
    torch.manual_seed(1)
    taps = 9 if kernel == 3 else 10
    tensors = {
        "key_weight": torch.randn(taps, taps, 4),
        "key_bias": torch.randn(2, taps, 4),
        "value_weight": torch.randn(taps, taps, 4),
        "value_bias": torch.randn(1 if shared else 2, taps, 4),
    }
    call = Call(ops.slide_attention, tensors, {"kernel_size": kernel})
    exported = program(call)
    for size in ((1, 1, 1), (3, 8, 12), (2, 2, 31)):
        torch.testing.assert_close(exported(*maps(size)), call(*maps(size)), rtol=1e-4, atol=1e-5)

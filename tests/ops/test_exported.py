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
    k = 1000 * k
    call = Call(ops.local_attention, {}, {"kernel_size": 3, "border": "mask"})
    exported = torch.export.export(call, (q, k, v)).module()
    torch.testing.assert_close(exported(q, k, v), call(q, k, v), rtol=1e-4, atol=1e-5)


def test_local_attention_with_a_key_mask_is_exported():
    q, k, v = maps((2, 9, 11))
    seen = torch.rand(2, 9, 11) > 0.3
    call = Call(ops.local_attention, {"key_mask": seen}, {"kernel_size": 3, "border": "mask"})
    exported = torch.export.export(call, (q, k, v)).module()
    torch.testing.assert_close(exported(q, k, v), call(q, k, v), rtol=1e-4, atol=1e-5)

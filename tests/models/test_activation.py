"""A linear layer behind an activation: the same gradients from half of what is kept."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from foveate.models._activation import linear_of


def kept(run, *args) -> int:
    """Bytes that a forward keeps, beside its arguments."""
    found = {}

    def pack(x):
        found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        run(*args)
    return sum(found.values())


@pytest.mark.parametrize("act", [F.gelu, F.relu6])
def test_gradients_of_both_orders(act):
    torch.manual_seed(0)
    linear = nn.Linear(5, 3).double()
    x = torch.randn(2, 4, 5, dtype=torch.double, requires_grad=True)

    def run(x, weight):
        return torch.func.functional_call(linear, {"weight": weight}, x)

    def ours(x, weight):
        return linear_of(act, x, lambda y: run(y, weight))

    given = (x, linear.weight)
    torch.testing.assert_close(ours(*given), run(act(x), linear.weight))
    assert gradcheck(ours, given)
    assert gradgradcheck(ours, given)


def test_activations_are_not_kept():
    x, linear = torch.randn(64, 256, requires_grad=True), nn.Linear(256, 256)
    y = linear_of(F.gelu, x, linear)
    saved = y.grad_fn._raw_saved_mat1
    with pytest.raises(RuntimeError, match="hooks"):
        saved.register_hooks(lambda x: x, lambda x: x)  # ours stand there
    y.sum().backward()
    assert kept(lambda: linear(F.gelu(x))) >= 2 * x.nbytes


def test_checkpoints_and_compilers_decide_for_themselves():
    torch.manual_seed(0)
    x, linear = torch.randn(4, 8, requires_grad=True), nn.Linear(8, 8)
    expected = torch.autograd.grad(linear(F.gelu(x)).square().sum(), x)
    again = checkpoint(linear_of, F.gelu, x, linear, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(again.square().sum(), x), expected)
    compiled = torch.compile(lambda x: linear_of(F.gelu, x, linear), backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(x).square().sum(), x), expected)
    y = torch.func.vmap(lambda row: linear_of(F.gelu, row, linear))(x)
    torch.testing.assert_close(y, linear(F.gelu(x)))

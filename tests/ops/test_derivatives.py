"""Derivatives of every operator, however asked for, and of inputs made of one tensor."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from foveate.ops import local_attention, slide_attention, use_backend, window_attention

SIZE = (1, 6, 7, 2, 4)


def _slide(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(9, 9, 4, generator=generator).to(q) / 9
    bias = torch.randn(q.shape[3], 9, 4, generator=generator).to(q)
    return slide_attention(q, k, v, weight, bias, weight.flip(0), bias.flip(0), 3)


OPERATORS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "local": lambda q, k, v: local_attention(q, k, v, 3),
    "slide": _slide,
    "window": lambda q, k, v: window_attention(q, k, v, 3, 1),
}

every_operator = pytest.mark.parametrize("attend", OPERATORS.values(), ids=OPERATORS)


def numbers(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@every_operator
@pytest.mark.parametrize("keys", [lambda x: x, lambda x: 2 * x, lambda x: x.flip(1)])
def test_inputs_made_of_one_tensor_count_once_each(attend, keys):
    x = numbers().requires_grad_()

    def gradient(again: bool) -> Tensor:
        out = attend(x, keys(x), x)
        return torch.autograd.grad(out.square().sum(), x, create_graph=again)[0]

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-4, atol=1e-5)


@every_operator
def test_second_derivatives_of_inputs_made_of_one_tensor(attend):
    x = numbers(dtype=torch.float64)[:, :4, :4, :1].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: attend(x, x.sin(), x), x, atol=1e-5)


@every_operator
def test_forward_mode(attend):
    q, k, v = (numbers(i) for i in range(3))
    direction = numbers(3)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(q, direction)
        tangent = forward_ad.unpack_dual(attend(dual, k, v)).tangent
    step = 1e-5
    q, k, v, direction = (x.double() for x in (q, k, v, direction))
    ahead, behind = (attend(q + s * direction, k, v) for s in (step, -step))
    assert tangent is not None
    torch.testing.assert_close(
        tangent.double(), (ahead - behind) / (2 * step), rtol=1e-3, atol=1e-4
    )


@every_operator
def test_transforms_of_functions(attend):
    q, k, v = (numbers(i, torch.float64) for i in range(3))

    def loss(q: Tensor) -> Tensor:
        return attend(q, k, v).square().sum()

    tangent = torch.func.jvp(lambda q: attend(q, k, v), (q,), (v,))[1]
    slope = (torch.func.grad(loss)(q) * v).sum()
    torch.testing.assert_close(2 * (attend(q, k, v) * tangent).sum(), slope)
    again = torch.func.grad(lambda q: (torch.func.grad(loss)(q) * v).sum())(q)
    _, product = torch.autograd.functional.vhp(loss, q, v)
    torch.testing.assert_close(again, product)
    with use_backend("native"), pytest.raises(RuntimeError, match=r"torch\.func transform"):
        torch.func.grad(loss)(q)


@every_operator
def test_many_gradients_at_once(attend):
    q, k, v = (numbers(i) for i in range(3))
    q.requires_grad_()
    out = attend(q, k, v)
    grads = torch.stack([numbers(4), numbers(5)])
    together = torch.autograd.grad(out, q, grads, is_grads_batched=True, retain_graph=True)[0]
    alone = [torch.autograd.grad(out, q, grad, retain_graph=True)[0] for grad in grads]
    torch.testing.assert_close(together, torch.stack(alone))


@pytest.mark.parametrize("operator", [local_attention, window_attention])
def test_dropout_in_compiled_code(operator):
    q, k, v = (numbers(i) for i in range(3))
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda q: operator(q, k, v, 3, dropout_p=0.5), fullgraph=True, backend="aot_eager"
    )
    torch.manual_seed(1)
    out = compiled(q)
    torch.manual_seed(1)
    torch.testing.assert_close(out, operator(q, k, v, 3, dropout_p=0.5))


@pytest.mark.slow
@every_operator
def test_forward_mode_in_compiled_code(attend):
    q, k, v = (numbers(i) for i in range(3))

    def tangent(q: Tensor) -> Tensor:
        return torch.func.jvp(lambda q: attend(q, k, v), (q,), (v,))[1]

    want = tangent(q)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(tangent)(q), want)

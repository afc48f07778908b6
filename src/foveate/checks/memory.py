"""The memory layout of the input changes nothing, and the input is not written to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from foveate.checks.running import check, outputs, require, require_close
from foveate.checks.subject import Subject


@check(roles=("mixer", "gate"))
def check_memory_format(subject: Subject) -> None:
    """A channels_last map gives a channels_last map, a contiguous one a contiguous one."""
    module = subject.build()
    (x,) = subject.inputs((6, 5))
    for memory_format in (torch.contiguous_format, torch.channels_last):
        with torch.no_grad():
            y = module(x.contiguous(memory_format=memory_format))
        require(
            y.is_contiguous(memory_format=memory_format),
            f"a {memory_format} map gives one of strides {y.stride()}",
        )


@check()
def check_strided_input(subject: Subject) -> None:
    """Views that are transposed, sliced, or expanded give what their copies give."""
    module = subject.build()
    for name, view in _VIEWS.items():
        inputs = tuple(view(x) for x in subject.inputs((6, 5)))
        with torch.no_grad():
            expected = outputs(module, tuple(x.contiguous() for x in inputs))
            require_close(outputs(module, inputs), expected, f"{name} input")


@check()
def check_strided_gradient(subject: Subject) -> None:
    """Gradients that arrive transposed or constant give what their copies give."""
    module = subject.build()
    inputs = tuple(x.requires_grad_() for x in subject.inputs((6, 5)))
    wanted = (*inputs, *module.parameters())
    result = outputs(module, inputs)
    for name in ("transposed", "constant"):
        view = _VIEWS[name]
        coming = tuple(view(y.detach().sin()) for y in result)
        plain = tuple(g.contiguous() for g in coming)
        expected = torch.autograd.grad(result, wanted, plain, retain_graph=True, allow_unused=True)
        actual = torch.autograd.grad(result, wanted, coming, retain_graph=True, allow_unused=True)
        for a, b in zip(actual, expected, strict=True):
            if b is not None:
                require_close(a, b, f"{name} gradient", tolerance=1e-4)


@check()
def check_input_untouched(subject: Subject) -> None:
    """Neither pass writes to the input, and a second run gives the same numbers."""
    module = subject.build()
    inputs = tuple(x.requires_grad_() for x in subject.inputs((6, 5)))
    before = tuple(x.detach().clone() for x in inputs)
    first = outputs(module, inputs)
    sum(y.square().sum() for y in first).backward()
    for x, copy in zip(inputs, before, strict=True):
        require(torch.equal(x, copy), "the input is modified")
    require_close(outputs(module, inputs), first, "a second run", tolerance=1e-6)
    with torch.inference_mode():
        require_close(outputs(module, inputs), first, "under inference_mode", tolerance=1e-6)


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(1, -1).contiguous().transpose(1, -1)


def _sliced(x: Tensor) -> Tensor:
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), float("nan"), dtype=x.dtype)
    view = wide[..., 1::2]
    view.copy_(x)
    return view


def _expanded(x: Tensor) -> Tensor:
    return x[:1].expand_as(x)


def _constant(x: Tensor) -> Tensor:
    return x.flatten()[0].expand_as(x)


_VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": _transposed,
    "sliced": _sliced,
    "expanded": _expanded,
    "constant": _constant,
}

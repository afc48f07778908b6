"""What the tests of the operators that gates are made of have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from foveate.layout import memory_format
from foveate.ops import use_backend

FORMATS = (torch.contiguous_format, torch.channels_last)


def values_and_gradients(
    function: Callable[..., Tensor | list[Tensor]], tensors: Sequence[Tensor]
) -> list[Tensor]:
    """The outputs and the gradient of every tensor."""
    out = function(*tensors)
    outs = out if isinstance(out, list) else [out]
    coming = [torch.cos(torch.arange(x.numel()).double()).view(x.shape).to(x) for x in outs]
    return [*outs, *torch.autograd.grad(outs, tensors, coming)]


def assert_equal(
    function: Callable[..., Tensor | list[Tensor]],
    meaning: Callable[..., Tensor | list[Tensor]],
    tensors: Sequence[Tensor],
    backend: str,
) -> None:
    """That a backend gives in float32 what ``meaning`` is in float64, and its gradients."""
    given = [x.detach().requires_grad_() for x in tensors]
    precise = [x.detach().double().requires_grad_() for x in tensors]
    with use_backend(backend):
        found = values_and_gradients(function, given)
    for ours, theirs in zip(found, values_and_gradients(meaning, precise), strict=True):
        assert ours.shape == theirs.shape
        scale = theirs.abs().amax().clamp_min(1) if theirs.numel() else 1
        torch.testing.assert_close(ours.double() / scale, theirs / scale, rtol=0, atol=2e-5)
    for x, gradient in zip(given, found[-len(given) :], strict=True):
        assert memory_format(gradient) is memory_format(x)

"""A linear layer behind an activation, which keeps the activation's input alone for its backward.

Autograd keeps ``x`` for the gradient of the activation and ``act(x)`` for that of the layer's
weight. The second is as large as the first and cheap to compute again, so it is: an MLP then keeps
half of what it would, at the cost of one more activation in training.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from foveate.ops._torch import in_transform, saving_is_hooked


def linear_of(act: Callable[[Tensor], Tensor], x: Tensor, linear: nn.Module) -> Tensor:
    """``linear(act(x))``.

    Everything is kept as usual where a graph is recorded (compilers decide for themselves), inside
    ``torch.func`` and where others decide what is kept, as checkpointing does.

    Args:
        act: an activation without randomness; not in place.
        x: what it takes.
        linear: what takes the activations.
    """
    y = act(x)
    if (
        not isinstance(y, Tensor)  # a symbol
        or not y.requires_grad
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or in_transform()
        or saving_is_hooked()
    ):
        return linear(y)
    given, memory = x.detach(), y.untyped_storage().data_ptr()

    def pack(saved: Tensor) -> Tensor | tuple[torch.Size, tuple[int, ...], int]:
        if saved.untyped_storage().data_ptr() != memory:
            return saved
        return saved.shape, saved.stride(), saved.storage_offset()

    def unpack(kept: Tensor | tuple[torch.Size, tuple[int, ...], int]) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        with torch.no_grad():
            return act(given).as_strided(*kept)

    with saved_tensors_hooks(pack, unpack):
        return linear(y)

"""PyTorch's private names that the operators need, in one place.

Each stands behind a function that says what it is for; the public API has nothing for these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor
from torch._library.triton import set_wrap_triton_enabled
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.autograd import forward_ad
from torch.fx import traceback
from torch.utils.checkpoint import CheckpointPolicy

__all__ = [
    "FunctionalTensorMode",
    "autograd_in_body",
    "below_autograd",
    "has_tangent",
    "in_backward",
    "in_transform",
    "saved_for_backward",
    "saving_is_hooked",
    "triton_outside_graphs",
    "watched",
]

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
with torch.inference_mode():
    _PLAIN_KEYS = {torch._C._dispatch_keys(torch.empty(0)).raw_repr()}
_PLAIN_KEYS.add(torch._C._dispatch_keys(torch.empty(0)).raw_repr())

below_autograd: type[AbstractContextManager] = torch._C._AutoDispatchBelowAutograd
"""Inside, calls of an operator skip its autograd kernel."""


def in_transform() -> bool:
    """Whether a ``torch.func`` transform (vmap, grad, jvp, ...) is under way."""
    if torch.compiler.is_compiling():  # the compiler would trace the question itself as True
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None


def in_backward() -> bool:
    """Whether autograd is computing gradients: what runs then is recomputed."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


def has_tangent(tensors: list[Tensor]) -> bool:
    """Whether forward-mode differentiation is under way for one of them."""
    if forward_ad._current_level < 0 and torch._C._functorch.peek_interpreter_stack() is None:
        return False
    return any(torch._VF._unpack_dual(x, 0)[1] is not None for x in tensors)


def saving_is_hooked() -> bool:
    """Whether somebody decides already how tensors are kept for the backward, as checkpoints do."""
    return torch._C._autograd._top_saved_tensors_default_hooks(False) is not None


def watched(tensors: Iterable[Tensor | None]) -> bool:
    """Whether a call must go through PyTorch's dispatcher, which takes longer than a small kernel.

    A mode, a tracer or a profiler may want to see it, autograd to record it, or a tensor be none of
    those that lie in memory as they are (another device, lazily negated, a subclass).
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._get_tracing_state() is not None
        or torch._C._autograd._profiler_enabled()
        or forward_ad._current_level >= 0
    ):
        return True
    recorded = torch.is_grad_enabled()
    for x in tensors:
        if x is None:
            continue
        if type(x) not in _PLAIN_TYPES or (recorded and x.requires_grad):
            return True
        if torch._C._dispatch_keys(x).raw_repr() not in _PLAIN_KEYS:
            return True
    return False


@contextmanager
def autograd_in_body() -> Iterator[None]:
    """Autograd inside an operator's body, where the dispatcher has switched it off."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor"):
        excluded = excluded.remove(getattr(torch._C.DispatchKey, key))
    included = torch._C._dispatch_tls_local_include_set()
    with torch._C._ForceDispatchKeyGuard(included, excluded), torch.enable_grad():
        yield


@contextmanager
def triton_outside_graphs() -> Iterator[None]:
    """Triton kernels started inside run at once, and not as part of a graph."""
    with set_wrap_triton_enabled(False):
        yield


@contextmanager
def saved_for_backward() -> Iterator[None]:
    """What is traced inside is kept for the backward and never computed again there."""
    meta = traceback.current_meta
    before = meta.get("recompute")
    meta["recompute"] = CheckpointPolicy.MUST_SAVE
    try:
        yield
    finally:
        meta["recompute"] = before
        if before is None:
            del meta["recompute"]

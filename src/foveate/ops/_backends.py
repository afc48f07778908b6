"""Which body of an operator runs: the portable one or a compiled one, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from foveate.arguments import one_of
from foveate.ops.native import library

Explainer = Callable[..., dict[str, str]]

BACKENDS = ("native", "portable")

_forced: ContextVar[str | None] = ContextVar("forced_backend", default=None)
_explainers: dict[str, Explainer] = {}


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the operators called inside by one backend: ``"portable"`` or ``"native"``.

    ``"native"`` raises where the compiled kernel cannot take the arguments, in place of falling
    back. Gradients computed inside obey it too.
    """
    token = _forced.set(one_of(name, BACKENDS, "backend"))
    try:
        yield
    finally:
        _forced.reset(token)


def choose(op: str, native_obstacle: str) -> str:
    """The backend that runs now, given why the native one cannot (empty: it can).

    Raises:
        RuntimeError: if the native backend was asked for and cannot run.
    """
    forced = _forced.get()
    if forced == "native" and native_obstacle:
        raise RuntimeError(f"{op} cannot run by the native backend: {native_obstacle}")
    return forced or ("portable" if native_obstacle else "native")


def native_obstacle(*tensors: Tensor | None, dtypes: tuple[torch.dtype, ...]) -> str:
    """Why compiled CPU kernels of ``dtypes`` cannot take these tensors; empty when they can."""
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.device.type != "cpu":
            return f"it computes on the CPU, and the tensors are on {tensor.device}"
        if tensor.is_floating_point() and tensor.dtype not in dtypes:
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            return f"it computes in {names}, and got {str(tensor.dtype).removeprefix('torch.')}"
    return library.why_not()


def explainable(
    op: str,
) -> Callable[[Callable[..., dict[str, str]]], Callable[..., dict[str, str]]]:
    """Register what tells, from an operator's arguments, why each backend cannot run.

    The decorated function maps each backend to its obstacle, empty where it can run.
    """

    def register(explainer: Explainer) -> Explainer:
        _explainers[op] = explainer
        return explainer

    return register


def explain(op_name: str, *args: Any, **kwargs: Any) -> str:
    """Which backend would run this call of an operator, and why not the others.

    Args:
        op_name: ``"local_attention"`` or ``"slide_attention"``.
        *args: the operator's arguments, as in a call.
        **kwargs: its keyword arguments.
    """
    obstacles = _explainers[one_of(op_name, _explainers, "operator")](*args, **kwargs)
    forced = _forced.get()
    chosen = forced or next(name for name in BACKENDS if not obstacles[name])
    lines = [f"{op_name} runs by the {chosen} backend" + (" (forced)" if forced else "")]
    for name in BACKENDS:
        state = f"cannot: {obstacles[name]}" if obstacles[name] else "can run"
        if name == "native" and not obstacles[name]:
            state += f" (instruction set {library.instruction_set()})"
        lines.append(f"  {name}: {state}")
    return "\n".join(lines)


def in_transform() -> bool:
    """Whether a ``torch.func`` transform (vmap, grad, jvp, ...) is under way."""
    if torch.compiler.is_compiling():  # the compiler would trace the question itself as True
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None


@contextmanager
def recording() -> Iterator[None]:
    """Autograd inside an operator's body, where PyTorch may have switched it off."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor"):
        excluded = excluded.remove(getattr(torch._C.DispatchKey, key))
    included = torch._C._dispatch_tls_local_include_set()
    with torch._C._ForceDispatchKeyGuard(included, excluded), torch.enable_grad():
        yield

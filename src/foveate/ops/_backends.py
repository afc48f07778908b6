"""Which body of an operator runs: the portable one or a compiled one, and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch._library.triton import set_wrap_triton_enabled
from torch.autograd import forward_ad

from foveate.arguments import one_of
from foveate.ops.native import library

Explainer = Callable[..., dict[str, str]]

BACKENDS = ("native", "triton", "portable")  # the first that can run does
COMPILED = (torch.float32, torch.bfloat16, torch.float16)  # dtypes of the compiled kernels

_WIDEST = 256  # channels of a head that the registers of a GPU hold

_forced: ContextVar[str | None] = ContextVar("forced_backend", default=None)
_explainers: dict[str, Explainer] = {}


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the operators called inside by one backend: "native", "triton" or "portable".

    A compiled one raises where its kernel cannot take the arguments, in place of falling back.
    Gradients computed inside obey it too, and so do, elsewhere, those of what was computed inside.
    In code that ``torch.compile`` made, each call obeys what holds where it runs, but Triton
    kernels that were traced stay. What is exported is portable, and so is window attention off
    the CPU.
    """
    token = _forced.set(one_of(name, BACKENDS, "backend"))
    try:
        yield
    finally:
        _forced.reset(token)


def told() -> str | None:
    """The backend that :func:`use_backend` asks for."""
    return _forced.get()


@contextmanager
def as_told(name: str | None) -> Iterator[None]:
    """What a forward was told, for its backward: PyTorch may run that in another thread."""
    if name is None or told():
        yield
    else:
        with use_backend(name):
            yield


def choose(op: str, obstacles: dict[str, str]) -> str:
    """The backend that runs now, given why each cannot (empty: it can).

    Raises:
        RuntimeError: if a backend was asked for and cannot run.
    """
    forced = _forced.get()
    if forced is None:
        return next(name for name in BACKENDS if not obstacles[name])
    if obstacles[forced]:
        raise RuntimeError(f"{op} cannot run by the {forced} backend: {obstacles[forced]}")
    return forced


def obstacles(q: Tensor, k: Tensor, v: Tensor, *others: Tensor | None) -> dict[str, str]:
    """Why each backend cannot take these tensors; empty where it can."""
    tensors = [x for x in (q, k, v, *others) if x is not None]
    wrong = next((x.dtype for x in tensors if x.is_floating_point() and x.dtype not in COMPILED), 0)
    if wrong:
        names = ", ".join(_name(dtype) for dtype in COMPILED)
        native = triton = f"it computes in {names}, and got {_name(wrong)}"
    else:
        native = _native_obstacle(q.device)
        triton = _triton_obstacle(q.device, q.dtype, max(q.shape[4], v.shape[4]))
    return {"native": native, "triton": triton, "portable": ""}


def in_transform_obstacles() -> dict[str, str]:
    """The same under a ``torch.func`` transform, which may ask for any derivative."""
    why = "a torch.func transform is under way, which needs the portable form"
    return {"native": why, "triton": why, "portable": ""}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _native_obstacle(device: torch.device) -> str:
    if device.type != "cpu":
        return f"it computes on the CPU, and the tensors are on {device}"
    return library.why_not()


def _triton_obstacle(device: torch.device, dtype: torch.dtype, channels: int) -> str:
    if device.type != "cuda" and not (device.type == "cpu" and _interpreted()):
        return f"it computes on CUDA and ROCm GPUs, and the tensors are on {device}"
    if _interpreted() and dtype is torch.bfloat16:
        return "Triton's interpreter takes bfloat16 for integers"
    if channels > _WIDEST:
        return f"it takes heads of up to {_WIDEST} channels, and got {channels}"
    return _no_triton(device)


def _interpreted() -> bool:
    """Whether Triton is told to interpret its kernels, which it then does on a CPU as well."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


@cache
def _no_triton(device: torch.device) -> str:
    if find_spec("triton") is None:
        return "Triton is not installed"
    if device.type == "cuda" and torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:
            return f"it needs a GPU of compute capability 8.0, and {device} has {major}.{minor}"
    return ""


@contextmanager
def launching_on(device: torch.device) -> Iterator[None]:
    """Triton kernels started inside run on this device, at once and not as part of a graph."""
    with set_wrap_triton_enabled(False):
        if device.type == "cuda":
            with torch.cuda.device(device):
                yield
        else:
            yield


def is_shown(backend: str) -> bool:
    """Whether the compiler is to see the kernels of this backend instead of one opaque operator."""
    return backend == "triton" and not _interpreted()


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
        op_name: ``"local_attention"``, ``"slide_attention"`` or ``"window_attention"``.
        *args: the operator's arguments, as in a call.
        **kwargs: its keyword arguments.
    """
    obstacles = _explainers[one_of(op_name, _explainers, "operator")](*args, **kwargs)
    forced = _forced.get()
    chosen = forced or next(name for name in BACKENDS if not obstacles[name])
    verb = "cannot run" if obstacles[chosen] else "runs"
    lines = [f"{op_name} {verb} by the {chosen} backend" + (" (forced)" if forced else "")]
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


def transformed(op: str) -> bool:
    """Whether a ``torch.func`` transform is under way, so that ``op`` must run its portable form.

    Raises:
        RuntimeError: if another backend was asked for.
    """
    if not in_transform():
        return False
    choose(op, in_transform_obstacles())
    return True


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether forward-mode differentiation is under way for one of them."""
    if forward_ad._current_level < 0 and torch._C._functorch.peek_interpreter_stack() is None:
        return False
    given = [x for x in tensors if x is not None]
    return any(torch._VF._unpack_dual(x, 0)[1] is not None for x in given)


def gradients_by_place(
    arguments: Sequence[Any],
    places: Sequence[int],
    differentiate: Callable[[list[Any], list[Tensor]], Sequence[Tensor]],
) -> dict[int, Tensor]:
    """What ``differentiate(arguments, wanted)`` gives for the arguments at ``places``.

    It gets these as views of their own, so that each gradient is that of the argument alone, though
    one tensor be given twice or be made from another.
    """
    arguments = list(arguments)
    for place in places:
        arguments[place] = arguments[place].view_as(arguments[place])
    grads = differentiate(arguments, [arguments[place] for place in places])
    return dict(zip(places, grads, strict=True))


@contextmanager
def recording() -> Iterator[None]:
    """Autograd inside an operator's body, where PyTorch may have switched it off."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in ("AutogradFunctionality", "AutogradOther", "AutogradNestedTensor"):
        excluded = excluded.remove(getattr(torch._C.DispatchKey, key))
    included = torch._C._dispatch_tls_local_include_set()
    with torch._C._ForceDispatchKeyGuard(included, excluded), torch.enable_grad():
        yield

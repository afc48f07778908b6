"""The backends of the operators: which are asked for, and why one cannot take given tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from foveate.arguments import one_of
from foveate.ops._torch import triton_outside_graphs
from foveate.ops.native import library

BACKENDS = ("native", "triton", "portable")  # the first that can run does
COMPILED = ("native", "triton")

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # of the compiled kernels
_WIDEST = 256  # channels of a head that the registers of a GPU hold

_requested: ContextVar[str | None] = ContextVar("requested_backend", default=None)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the operators called inside by one backend: "native", "triton" or "portable".

    A compiled one raises where its kernel cannot take the arguments, in place of falling back.
    Gradients computed inside obey it too, and so do, elsewhere, those of what was computed inside.
    In code that ``torch.compile`` made, each call obeys what holds where it runs, but Triton
    kernels that were traced stay. What is exported has a form of its own; in compiled code window
    attention off the CPU is portable.
    """
    token = _requested.set(one_of(name, BACKENDS, "backend"))
    try:
        yield
    finally:
        _requested.reset(token)


def requested_backend() -> str | None:
    """The backend that :func:`use_backend` asks for."""
    return _requested.get()


@contextmanager
def default_backend(name: str | None) -> Iterator[None]:
    """Run by ``name`` what is called inside, unless another backend is asked for there.

    A backward runs so by the backend requested for its forward: PyTorch may run it in another
    thread, where the request does not hold.
    """
    if name is None or requested_backend():
        yield
    else:
        with use_backend(name):
            yield


def choose(op: str, unsupported: Callable[[str], str]) -> str:
    """The backend that runs now.

    Args:
        op: the operator's name.
        unsupported: the reason why a backend cannot run; empty if it can. Asked of as few as it
            takes, in the order of ``BACKENDS``.

    Raises:
        RuntimeError: if the requested backend cannot run.
    """
    requested = _requested.get()
    for name in (requested,) if requested else BACKENDS:
        reason = unsupported(name)
        if not reason:
            return name
    raise RuntimeError(f"{op} cannot run by the {name} backend: {reason}")


def unsupported_in_transform(backend: str) -> str:
    """Why a backend cannot run under a ``torch.func`` transform, which may want any derivative."""
    if backend == "portable":
        return ""
    return "a torch.func transform is under way, which needs the portable form"


def unsupported_tensors(
    backend: str, maps: Sequence[Tensor], tensors: Iterable[Tensor | None]
) -> str:
    """Why a backend cannot take these tensors; empty if it can.

    Args:
        backend: its name.
        maps: those that the operator mixes, with channels in their last axis.
        tensors: all tensors of the call, the maps among them.
    """
    if backend == "portable":
        return ""
    for x in tensors:
        if x is not None and x.dtype not in _DTYPES and x.is_floating_point():
            names = ", ".join(_name(dtype) for dtype in _DTYPES)
            return f"it computes in {names}, and got {_name(x.dtype)}"
    if backend == "native":
        return _unsupported_by_native(maps[0].device)
    widest = max(x.shape[-1] for x in maps)
    return _unsupported_by_triton(maps[0].device, maps[0].dtype, widest)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _unsupported_by_native(device: torch.device) -> str:
    if device.type != "cpu":
        return f"it computes on the CPU, and the tensors are on {device}"
    return library.why_not()


def _unsupported_by_triton(device: torch.device, dtype: torch.dtype, channels: int) -> str:
    if device.type != "cuda" and not (device.type == "cpu" and interpreted()):
        return f"it computes on CUDA and ROCm GPUs, and the tensors are on {device}"
    if interpreted() and dtype is torch.bfloat16:
        return "Triton's interpreter takes bfloat16 for integers"
    if channels > _WIDEST:
        return f"it takes heads of up to {_WIDEST} channels, and got {channels}"
    return _no_triton(device)


def interpreted() -> bool:
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


def visible_to_compiler(backend: str) -> bool:
    """Whether the compiler sees the kernels of this backend instead of one opaque operator."""
    return backend == "triton" and not interpreted()


@contextmanager
def launching_on(device: torch.device) -> Iterator[None]:
    """Triton kernels started inside run on this device, at once and not as part of a graph."""
    with triton_outside_graphs():
        if device.type == "cuda":
            with torch.cuda.device(device):
                yield
        else:
            yield

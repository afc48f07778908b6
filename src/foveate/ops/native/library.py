"""Finds and loads the shared library of CPU kernels; says why when there is none.

The library knows nothing of Python or PyTorch. A kernel takes the address of one C struct of
64-bit integers (addresses, sizes, strides) and doubles; :func:`kernel` packs it.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from importlib import resources
from pathlib import Path

import torch  # noqa: F401  loaded first: the library then shares its OpenMP thread pool

_NAME = "libfoveate_ops" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


def available() -> bool:
    """Whether the compiled kernels are here and load."""
    return _load()[0] is not None


def why_not() -> str:
    """Why the compiled kernels cannot run; empty when they can."""
    return _load()[1]


def instruction_set() -> str:
    """The instruction set this machine's kernels are built for: v4, v3 or generic."""
    isa = _library().foveate_isa
    isa.restype = ctypes.c_char_p
    return isa().decode()


@cache
def kernel(name: str, layout: str, isa: str | None = None) -> Callable[..., None]:
    """A function that packs its arguments by ``layout`` (as for ``struct``) and calls ``name``.

    Args:
        name: the kernel without the suffix of its instruction set.
        layout: ``"12q2d"`` for a C struct of twelve int64 and two doubles, and so on.
        isa: the instruction set; this machine's best if None.

    Raises:
        RuntimeError: by the returned function, when the kernel finds no memory to work in.
    """
    function = getattr(_library(), f"{name}_{isa or instruction_set()}")
    function.argtypes, function.restype = [ctypes.c_char_p], ctypes.c_int
    pack = struct.Struct("=" + layout).pack

    def call(*arguments: float) -> None:
        if function(pack(*arguments)):
            raise RuntimeError(f"{name}: out of memory for the kernel's working space")

    return call


def _library() -> ctypes.CDLL:
    library, reason = _load()
    if library is None:
        raise RuntimeError(reason)
    return library


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    with ExitStack() as stack:
        for path in _places(stack):
            if path.is_file():
                try:
                    return ctypes.CDLL(str(path)), ""
                except OSError as error:
                    return None, f"{path.name} does not load: {error}"
    return None, f"{_NAME} was not built: the package was installed without a C compiler"


def _places(stack: ExitStack) -> list[Path]:
    """Beside this file, or where an installer that keeps sources and builds apart put it."""
    beside = Path(__file__).with_name(_NAME)
    resource = resources.files("foveate.ops.native").joinpath(_NAME)
    return (
        [beside, Path(stack.enter_context(resources.as_file(resource)))]
        if (resource.is_file())
        else [beside]
    )

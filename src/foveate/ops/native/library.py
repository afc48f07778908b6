"""Finds and loads the shared library of CPU kernels; says why when there is none.

The library knows nothing of Python or PyTorch; :mod:`foveate.ops.native.interface` says how it is
called.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from importlib import resources
from pathlib import Path

import torch  # noqa: F401  loaded first: the library then shares its OpenMP thread pool

from foveate.ops.native.interface import Arguments, Library

_NAME = "libfoveate_ops" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")


def available() -> bool:
    """Whether the compiled kernels are here and load."""
    return _load()[0] is not None


def why_not() -> str:
    """Why the compiled kernels cannot run; empty when they can."""
    return _load()[1]


def instruction_set() -> str:
    """The instruction set of the kernels that run here: v4, v3, generic, or neon on ARM."""
    return _library().instruction_set()


def instruction_sets() -> list[str]:
    """All instruction sets that the kernels were built for and that this machine can run."""
    return _library().instruction_sets()


def threads() -> str:
    """What is to be said of the kernels' threads: nothing, if these are PyTorch's."""
    return "one thread: built without OpenMP" if _library().one_thread() else ""


@cache
def kernel(name: str, isa: str | None = None) -> Callable[[Arguments | array[int]], None]:
    """A kernel, as a function of its arguments or their words.

    Args:
        name: the kernel without the suffix of its instruction set.
        isa: the instruction set; this machine's best if None.

    Raises:
        RuntimeError: by the returned function, when the kernel finds no memory to work in.
    """
    return _library().kernel(name, isa or instruction_set())


def _library() -> Library:
    library, reason = _load()
    if library is None:
        raise RuntimeError(reason)
    return library


@cache
def _load() -> tuple[Library | None, str]:
    """The library or why there is none.

    Raises:
        MismatchError: if it was built from other sources than this code goes with. That is told
            and not worked around: the portable form would run unnoticed, many times slower.
    """
    with ExitStack() as stack:
        for path in _places(stack):
            if path.is_file():
                try:
                    return Library(path), ""
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

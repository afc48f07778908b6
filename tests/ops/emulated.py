"""The kernels of another machine, called in an emulator through memory that both processes map.

QEMU runs one program (``emulated.c``) that loads the cross-compiled library and calls its kernels.
The memory that arguments point into is a file, mapped at one address here and there, so that
arguments are passed as they are, and what a kernel writes is here when it has returned.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

ADDRESS = 2**33  # below what systems give by themselves to either process
BYTES = 2**26
FIXED_NOREPLACE = 0x100000  # MAP_FIXED_NOREPLACE of Linux, on every processor
GAP = 64


class SharedMemory:
    """Arrays in a file that is mapped to ``ADDRESS``; fresh ones are full of NaN.

    Between arrays lie gaps that nobody may write to. Arrays begin at odd multiples of their
    elements' size, since kernels need no alignment beyond it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(b"\xff" * BYTES)
        self._arrays: list[tuple[int, int]] = []  # begin and end of each
        self._map(path)

    def _map(self, path: Path) -> None:
        function = ctypes.CDLL(None, use_errno=True).mmap
        function.restype = ctypes.c_void_p
        kinds = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
        function.argtypes = kinds
        file = os.open(path, os.O_RDWR)
        flags = mmap.MAP_SHARED | FIXED_NOREPLACE
        found = function(ADDRESS, BYTES, mmap.PROT_READ | mmap.PROT_WRITE, flags, file, 0)
        os.close(file)
        if found != ADDRESS:
            raise OSError(ctypes.get_errno(), f"no memory at {ADDRESS:#x}")
        self.buffer = (ctypes.c_char * BYTES).from_address(ADDRESS)

    def close(self) -> None:
        """Gives the address back; no array may be used any more."""
        function = ctypes.CDLL(None).munmap
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
        function(ADDRESS, BYTES)

    def empty(self, size: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
        item = np.dtype(dtype).itemsize
        count = math.prod(size) * item
        if not count:
            return np.empty(size, dtype)
        last = self._arrays[-1][1] if self._arrays else ADDRESS
        begin = (last + GAP + 15) // 16 * 16 + item
        if begin + count + GAP > ADDRESS + BYTES:
            raise MemoryError("the case is too large for the shared memory")
        self._arrays.append((begin, begin + count))
        return np.frombuffer((ctypes.c_char * count).from_address(begin), dtype).reshape(size)

    def copy(self, x: np.ndarray) -> np.ndarray:
        y = self.empty(x.shape, x.dtype.type)
        y[...] = x
        return y

    def free(self) -> None:
        """Fills the memory with NaN again.

        Raises:
            AssertionError: if something was written between arrays.
        """
        end = self._arrays[-1][1] + GAP if self._arrays else ADDRESS
        edges = [(ADDRESS, ADDRESS), *self._arrays, (end, end)]
        for (_, after), (before, _) in pairwise(edges):
            gap = ctypes.string_at(after, before - after)
            assert gap == b"\xff" * len(gap), "a kernel wrote beside what it was given"
        ctypes.memset(ADDRESS, 0xFF, end - ADDRESS)
        self._arrays.clear()


class EmulatedLibrary:
    """Stands for :class:`foveate.ops.native.interface.Library`, with its kernels in the emulator.

    Args:
        command: what runs ``emulated.c``.
        library: the cross-compiled library.
        memory: where all arguments of kernels point into.
        interface: the module that describes the arguments.
    """

    def __init__(
        self, command: list[str], library: Path, memory: SharedMemory, interface: Any
    ) -> None:
        self._interface = interface
        self._process = subprocess.Popen(
            [*command, library, memory.path, str(ADDRESS), str(BYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_WAIT_POLICY": "passive"},
        )
        self._isa = self._line()
        difference = next(interface._differences(self._table()), None)
        assert not difference, difference

    def instruction_set(self) -> str:
        return self._isa

    def kernel(self, name: str, isa: str) -> Callable[[Any], None]:
        packed = self._interface.packer(self._interface.KERNELS[name])

        def call(arguments: Any) -> None:
            data = packed(arguments)
            assert self._process.stdin
            self._process.stdin.write(f"{name}_{isa} {len(data)}\n".encode() + data)
            self._process.stdin.flush()
            assert self._line() == "0", f"{name}_{isa}: out of memory"

        return call

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(60)

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"the emulator ended with status {self._process.wait(60)}"
        return line.decode().rstrip("\n")

    def _table(self) -> dict[str, dict[str, Any]]:
        table: dict[str, dict[str, Any]] = {}
        while line := self._line():
            group, name, kind, offset, size = line.split("\t")
            field = self._interface.Field(kind, int(offset), int(size))
            table.setdefault(group, {})[name] = field
        return table

"""Dropout that every backend can repeat: a hash of (seed, query, key), not a stream of numbers.

One seed a call is drawn from PyTorch's generator; whether a weight is kept is then a function of
the seed, of the query's number and of the key's place among those that the query
may attend to (a tap, a shift channel, a cell of a window). ``native/dropout.h`` is the same hash in
C.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.ops._torch import FunctionalTensorMode, saved_for_backward

_WORD = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9


def draw_seed() -> Tensor:
    """A fresh 62-bit seed, a scalar on the CPU.

    In compiled code an operator draws it whose result is always kept for the backward: whatever
    else is computed again there, to save memory, drops what the first computation dropped. A memory
    budget of zero keeps nothing at all, PyTorch's own random numbers included.
    """
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
        return torch.ops.foveate.draw_seed()
    return _draw()


def _draw() -> Tensor:
    return torch.randint(2**62, (), dtype=torch.int64)


def _draw_kept(mode: Any, op: Any, types: Any, args: tuple, kwargs: dict) -> Tensor:
    with saved_for_backward():
        return mode.__torch_dispatch__(op, types, args, kwargs)


_library = torch.library.Library("foveate", "FRAGMENT")
_library.define("draw_seed() -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))
_library.impl("draw_seed", _draw, "CompositeExplicitAutograd")
torch.library.register_fake(
    "foveate::draw_seed", lambda: torch.empty((), dtype=torch.int64), lib=_library
)
torch.library.register_torch_dispatch(
    "foveate::draw_seed", FunctionalTensorMode, _draw_kept, lib=_library
)

_library.define(
    "draw_kept(Tensor like, float p) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,)
)
_library.impl("draw_kept", lambda like, p: torch.rand_like(like) >= p, "CompositeExplicitAutograd")
torch.library.register_fake(
    "foveate::draw_kept", lambda like, p: torch.empty_like(like, dtype=torch.bool), lib=_library
)
torch.library.register_torch_dispatch(
    "foveate::draw_kept", FunctionalTensorMode, _draw_kept, lib=_library
)


def dropout(x: Tensor, p: float) -> Tensor:
    """``x`` with each entry zero with probability p, and the others over 1 - p.

    As :func:`torch.nn.functional.dropout`, whose random numbers a compiler with a memory budget may
    draw anew when it computes a forward again: here the result of the draw is kept.
    """
    if p == 0:
        return x
    if not torch.compiler.is_compiling() or torch.compiler.is_exporting() or p == 1:
        return torch.nn.functional.dropout(x, p)
    kept = torch.ops.foveate.draw_kept(x.detach(), p)
    return x * kept.to(x.dtype) / (1 - p)


def threshold(p: float) -> int:
    """A weight is kept when its 32-bit hash is at least this."""
    return min(round(p * 2**32), _WORD)


def kept(seed: Tensor, query: Tensor, key: Tensor, p: float) -> Tensor:
    """True where a weight stays; ``query`` and ``key`` are int64 and broadcast."""
    word = _mix((query + (seed & _WORD)) & _WORD)
    return _mix((word + key * _GOLDEN + (seed >> 32)) & _WORD) >= threshold(p)


def _mix(x: Tensor) -> Tensor:
    x = x ^ (x >> 16)
    x = _times(x, 0x7FEB352D)
    x = x ^ (x >> 15)
    x = _times(x, 0x846CA68B)
    return x ^ (x >> 16)


def _times(x: Tensor, factor: int) -> Tensor:
    """``x * factor`` modulo 2^32 without leaving int64."""
    high = (x * (factor >> 16)) & 0xFFFF
    return (x * (factor & 0xFFFF) + (high << 16)) & _WORD

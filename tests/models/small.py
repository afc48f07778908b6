"""One small form of every family: what the default suite runs the common checks over.

The keyword arguments make a variant cheap (fewer blocks, narrower) without leaving out a kind of
layer. Every variant at its own size is checked in the slow sweep.
"""

from __future__ import annotations

from typing import Any

SMALL: dict[str, dict[str, Any]] = {
    "pyramid_pico": {},
}

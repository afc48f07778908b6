"""Options that reducers share: where in a model, and how much is kept there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard


def listed(value: Any, what: str) -> list[Any]:
    """``value`` as a list: a sequence, whose order is the user's.

    Args:
        value: as the user gave it.
        what: it must be, in the words of the error.

    Raises:
        ValueError: if it is not several.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{what}, got {value!r}")
    return list(value)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether ``value`` is a number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether ``value`` is an integer; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def each_stage(stages: Sequence[int] | None, blocks: int) -> list[int]:
    """The blocks where something happens, in order; after each quarter of ``blocks`` by default.

    Raises:
        ValueError: if one is no block of the model, or they are not in order.
    """
    if stages is None:
        quarter = blocks // 4
        stages = [quarter, 2 * quarter, 3 * quarter] if quarter else [0]
    what = f"stages must be numbers of blocks, of 0 to {blocks - 1} in this model"
    chosen = listed(stages, what)
    if not chosen or not all(map(is_whole, chosen)) or not all(0 <= n < blocks for n in chosen):
        raise ValueError(f"{what}, got {stages!r}")
    if sorted(set(chosen)) != chosen:
        raise ValueError(f"stages must be in order, each one once, got {stages!r}")
    return chosen


def shares(keep: float | Sequence[float], stages: int) -> list[float]:
    """The share of all patches that is left after each stage.

    A number is kept of those that come to each stage, so that the s-th leaves its s-th power.

    Raises:
        ValueError: if a share is not in (0, 1], or there is not one a stage.
    """
    what = "keep must be above 0 and at most 1"
    each = [keep] if is_number(keep) else listed(keep, what)
    if not each or not all(is_number(share) and 0 < share <= 1 for share in each):
        raise ValueError(f"{what}, got {keep!r}")
    if is_number(keep):
        return [float(keep) ** (stage + 1) for stage in range(stages)]
    if len(each) != stages:
        raise ValueError(f"keep has {len(each)} shares for {stages} stages: give one a stage")
    return [float(share) for share in each]


def left(patches: int, stages: Sequence[int], keep: Sequence[float], block: int) -> int:
    """Patches' tokens that are left once the stages up to ``block`` have done their work.

    At least one is, and a stage leaves no more than came to it.

    Args:
        patches: of the image.
        stages: numbers of blocks, in order.
        keep: of each stage the share of all patches that it leaves.
        block: its number; -1 for before the first one.
    """
    each = zip(stages, keep, strict=True)
    return min(
        [patches, *(max(1, int(patches * share)) for stage, share in each if stage <= block)]
    )

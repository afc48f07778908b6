"""Which images are learned from and which are held out, where the source does not say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foveate.data.sources.base import SPLITS, TEST, TRAIN, Item

HELD_OUT = 0.2
"""The part of a set in one tree that is not trained on."""


def stratified_split(
    labels: Sequence[int], held_out: float = HELD_OUT
) -> tuple[list[int], list[int]]:
    """Indices of two parts with each class in proportion; a function of the labels alone."""
    rng = np.random.default_rng(0)
    parts: tuple[list[int], list[int]] = ([], [])
    array = np.asarray(labels)
    for label in np.unique(array):
        members = rng.permutation(np.flatnonzero(array == label))
        count = max(1, round(len(members) * held_out))
        parts[0].extend(members[count:].tolist())
        parts[1].extend(members[:count].tolist())
    return sorted(parts[0]), sorted(parts[1])


def rows_of(items: Sequence[Item]) -> dict[str, list[int]]:
    """Indices of each split: as the source says, or stratified."""
    if any(item.split for item in items):
        splits = [split for split in SPLITS if split in {item.split for item in items}]
        return {s: [row for row, item in enumerate(items) if item.split == s] for s in splits}
    learning, held_out = stratified_split([item.label for item in items])
    return {TRAIN: learning, TEST: held_out}


def interleaved(labels: list[int]) -> list[int]:
    """Indices that take the classes in turn, each in an order that depends on the labels only."""
    rng = np.random.default_rng(0)
    turn = np.empty(len(labels))
    array = np.asarray(labels)
    for label in np.unique(array):
        members = np.flatnonzero(array == label)
        turn[rng.permutation(members)] = np.arange(len(members)) / len(members)
    return np.argsort(turn, kind="stable").tolist()

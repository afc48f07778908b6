"""How training images are varied, decided from the images.

``auto`` looks at up to 2,000 training images. They count as photographs if most are in color and
have no uniform ground; then timm's crops and color changes are used, else small shifts, turns and
changes of size. Images are mirrored only if the user says so or all of this holds:

* they are photographs, no class is called left, right or clockwise, and of each class at least 50
  images are in the sample;
* a linear classifier on 16x16 copies, trained on one half and tried on the other, tells every pair
  of classes apart (three standard errors above chance), for of classes that it confuses it cannot
  say whether mirroring turns one into the other;
* it recognizes mirrored images as well as upright ones: at most 5 points worse, two standard errors
  included, and no class is taken for one other class clearly more often once mirrored.

So small sets, fine distinctions and many classes are not mirrored: a loss of some accuracy for
every mechanism alike, where a wrong mirror makes the labels wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from foveate.data.moments import sample

Augment = Literal["auto", "none", "affine", "photo"]
SAMPLE = 2000
_SIDE = 16
_TOLERANCE = 0.05
_GROUND = 0.5
_COLOR = 8
_LEAST = 50
_SIDED = re.compile(r"(?:^|[^a-z])(left|right|(?:anti|counter)?clockwise|cw|ccw)(?:[^a-z]|$)", re.I)


class Augmentation(NamedTuple):
    """What was decided.

    Attributes:
        kind: affine (drawings) or photo (timm's transforms).
        mirror: whether images are mirrored left to right.
        reason: why, in a sentence.
    """

    kind: str
    mirror: bool
    reason: str


def choose_augmentation(
    images: Sequence[np.ndarray], labels: Sequence[int], classes: Sequence[str]
) -> Augmentation:
    """Decide from training images (uint8, (H, W) or (H, W, 3)); see the module for the rule."""
    rows = sample(len(images), SAMPLE)
    small = np.stack([_small(images[row]) for row in rows])
    kind, why = _kind(small)
    if kind == "affine":
        return Augmentation(
            kind, False, f"{why}: small shifts, turns and changes of size, no mirror"
        )
    mirror, reason = _mirror(small, np.asarray(labels)[rows], classes)
    what = "mirrored" if mirror else "not mirrored"
    return Augmentation(kind, mirror, f"{why}: crops and color changes; {what}, {reason}")


def choose_mirror(
    images: Sequence[np.ndarray], labels: Sequence[int], classes: Sequence[str]
) -> tuple[bool, str]:
    """Whether images are mirrored, and why; see the module for the rule.

    Args:
        images: uint8, (H, W) or (H, W, 3): of objects, the parts of images inside their boxes.
        labels: the class of each.
        classes: their names.
    """
    rows = sample(len(images), SAMPLE)
    small = np.stack([_small(images[row]) for row in rows])
    return _mirror(small, np.asarray(labels)[rows], classes)


def choose_pixel_augmentation(images: Sequence[np.ndarray], classes: Sequence[str]) -> Augmentation:
    """The same where classes are of pixels: a mirrored image has a mirrored mask.

    So photographs are mirrored unless a class is called left, right or clockwise.
    """
    small = np.stack([_small(images[row]) for row in sample(len(images), SAMPLE)])
    kind, why = _kind(small)
    if kind == "affine":
        return Augmentation(kind, False, f"{why}: changes of size and crops, no mirror")
    sided = next((name for name in classes if _SIDED.search(name)), None)
    how = "mirrored with their masks" if sided is None else (
        f"not mirrored, because a class is called {sided!r}"
    )  # fmt: skip
    return Augmentation(
        kind, sided is None, f"{why}: changes of size, crops and color changes; {how}"
    )


def _small(image: np.ndarray) -> np.ndarray:
    """(16, 16, 3), floating point."""
    colored = Image.fromarray(image).convert("RGB")
    reduced = colored.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(reduced, dtype=np.float32)


def _kind(small: np.ndarray) -> tuple[str, str]:
    colored = np.mean(np.ptp(small, axis=3).mean((1, 2)) > _COLOR)
    if colored < 0.5:
        return "affine", "the images are gray"
    levels = (small.mean(3) / 8).astype(int).reshape(len(small), -1)
    ground = np.median([np.bincount(row).max() / row.size for row in levels])
    if ground > _GROUND:
        return "affine", "the images have a uniform ground, as drawings have"
    return "photo", "the images are photographs"


def _mirror(small: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> tuple[bool, str]:
    sided = next((name for name in classes if _SIDED.search(name)), None)
    if sided is not None:
        return False, f"because a class is called {sided!r}"
    count = len(classes)
    fewest = np.bincount(labels, minlength=count)
    if fewest.min() < _LEAST:
        few = classes[int(fewest.argmin())]
        return False, (
            f"because the test of mirroring needs {_LEAST} images a class and looks at "
            f"{fewest.min()} of {few!r}"
        )
    upright, mirrored = _probe(small, labels, count)
    truth = np.arange(len(labels))
    for one, other in combinations(range(count), 2):
        both = (labels == one) | (labels == other)
        if not _tells_apart(upright[both], labels[both], one, other):
            pair = f"{classes[one]!r} and {classes[other]!r}"
            return False, f"because a linear test cannot tell {pair} apart, mirrored or not"
    right = upright[truth, labels] >= upright.max(1)
    still = mirrored[truth, labels] >= mirrored.max(1)
    loss = right.astype(float) - still
    worst = loss.mean() + 2 * loss.std() / np.sqrt(len(loss)) + 3 / len(loss)
    if worst > _TOLERANCE:
        return False, f"because mirrored images may be recognized {worst:.0%} less often"
    for one in range(count):
        mine = labels == one
        moved = _shares(mirrored[mine], count) - _shares(upright[mine], count)
        moved[one] = 0
        if moved.max() > 0.1 + 2 * np.sqrt(0.25 / mine.sum()):
            other = classes[int(moved.argmax())]
            return False, f"because mirrored images of {classes[one]!r} look like {other!r}"
    return True, "which leaves their class as it is by a linear test"


def _probe(small: np.ndarray, labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N, classes) of images and of their mirror images, from the other half."""
    x = (small - small.mean(0)) / (small.std() + 1e-6)
    upright = x.reshape(len(x), -1)
    mirrored = x[:, :, ::-1].reshape(len(x), -1)
    targets = np.eye(count, dtype=np.float32)[labels]
    fold = np.random.default_rng(0).permutation(len(x)) % 2
    scores = np.zeros((2, len(x), count))
    for half in (0, 1):
        learn, rest = fold != half, fold == half
        if not learn.any():
            continue
        # As many rows as images: the dual form, strongly smoothed.
        kernel = upright[learn] @ upright[learn].T
        ridge = 0.1 * np.trace(kernel) / len(kernel)
        middle = targets[learn].mean(0)
        dual = np.linalg.solve(kernel + ridge * np.eye(len(kernel)), targets[learn] - middle)
        for which, features in enumerate((upright, mirrored)):
            scores[which, rest] = features[rest] @ (upright[learn].T @ dual) + middle
    return scores[0], scores[1]


def _tells_apart(scores: np.ndarray, labels: np.ndarray, one: int, other: int) -> bool:
    """Whether the mean recall of two classes is three standard errors above one half."""
    chosen = np.where(scores[:, one] >= scores[:, other], one, other)
    recalls, variance = [], 0.0
    for label in (one, other):
        hits = chosen[labels == label] == label
        if len(hits) == 0:
            return False
        recalls.append(hits.mean())
        variance += 0.25 / len(hits) / 4
    return float(np.mean(recalls)) > 0.5 + 3 * np.sqrt(variance)


def _shares(scores: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(scores.argmax(1), minlength=count) / max(len(scores), 1)

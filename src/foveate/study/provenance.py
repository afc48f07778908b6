"""Whether what lies in a run directory was made under the plan at hand, and is whole.

A trial keeps the settings that decided its numbers, and the run directory those that decided its
images, learning rates and checkpoints. Before anything is trained or reported they are compared
with the plan, and a trial's record with its folder, its predictions and the held-out images.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import singledispatch
from math import isclose
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from foveate.average_precision import AREAS
from foveate.data.record import SetRecord
from foveate.data.sources.base import FINAL, TEST, TRAIN
from foveate.study.box_predictions import OF_BOXES, OF_MASKS, BoxPredictions
from foveate.study.entry import Entry
from foveate.study.pixel_predictions import PixelPredictions
from foveate.study.plan import Plan
from foveate.study.records import (
    FINAL_PREDICTIONS,
    PREDICTIONS,
    DamagedRunError,
    Predicted,
    Predictions,
    Records,
    Settings,
    TrialRecord,
)

_EDITABLE = (
    "attention", "controls", "seeds", "imports", "data_root", "cache", "workers", "trial_minutes",
    "executor", "address",
)  # fmt: skip
"""Settings that change no number of a trial that is over."""


class OtherPlanError(ValueError):
    """What lies in a run directory was made under another plan than the one there now.

    Args:
        root: the run directory.
        what: was made.
        changed: the first setting that differs, in words.
    """

    def __init__(self, root: Path, what: str, changed: str) -> None:
        plan = root / "plan.yaml"
        super().__init__(
            f"{what} was made under another plan: {changed} in {plan}; set it back, or compare "
            f"anew: foveate compare --plan {plan} --out ANOTHER"
        )


class Trial(NamedTuple):
    """A trial that fits the plan and itself.

    Attributes:
        record: what it came to.
        predictions: of the held-out images, where they were kept.
        final: of those kept for the very end, likewise.
    """

    record: TrialRecord
    predictions: Predicted | None
    final: Predicted | None


def settings_of_trial(plan: Plan, entry: Entry) -> dict[str, Any]:
    """The settings that decide the numbers of a trial, as JSON holds them."""
    return {**_shared(plan), **_row(entry), "host of the row": _plain(entry.host)}


def check_settings(records: Records, plan: Plan) -> None:
    """Refuse a plan with other settings than the files of the run directory were made with.

    Raises:
        OtherPlanError: naming the first setting that differs.
    """
    noted = records.settings()
    if noted is None:
        return
    rows = {entry.key: entry for entry in plan.entries}
    changed = _changed(noted.shared, _shared(plan))
    if changed:
        raise OtherPlanError(records.root, "what is there", changed)
    for key in noted.rows.keys() & rows.keys():
        changed = _changed(noted.rows[key], _row(rows[key]))
        if changed:
            raise OtherPlanError(records.root, key, changed)
    added = [entry.label for key, entry in rows.items() if key not in noted.rows]
    if added and records.matched():
        raise OtherPlanError(
            records.root,
            "matched.json",
            f"it makes all rows cost the same by match={plan.match}, and {added[0]} is new",
        )


def note_settings(records: Records, plan: Plan) -> None:
    """Note what the files of the run directory are made with from now on."""
    noted = records.settings()
    rows = {entry.key: _row(entry) for entry in plan.entries}
    now = Settings(_shared(plan), rows if noted is None else {**noted.rows, **rows})
    if now != noted:
        records.write_settings(now)


def read_trial(
    records: Records, plan: Plan, entry: Entry, seed: int, images: SetRecord | None
) -> Trial | None:
    """A trial, if it is over: one of the plan at hand, with numbers that agree with each other.

    Args:
        records: of the run directory.
        plan: at hand.
        entry: that was trained.
        seed: of the trial.
        images: of the study, where they are known.

    Raises:
        OtherPlanError: if it was made under another plan.
        DamagedRunError: if a file of it is damaged or another trial's.
    """
    record = records.trial(entry.key, seed)
    if record is None:
        return None
    _check_identity(records, plan, entry, seed, record)
    if record.status == "failed":
        return Trial(record, None, None)
    host = records.matched().get(entry.key)
    if host is not None:
        entry = replace(entry, host={host.option: host.value})
    now = settings_of_trial(plan, entry)
    if plan.match is not None and host is None and not entry.host:
        now.pop("host of the row")  # not matched again yet
    changed = _changed(record.settings or _known_of_earlier(record, plan), now)
    if changed:
        raise OtherPlanError(records.root, f"{entry.label}, seed {seed},", changed)
    found = records.predictions(entry.key, seed)
    final = records.predictions(entry.key, seed, FINAL_PREDICTIONS)
    if found is None and record.settings is not None:
        raise _damaged_trial(records, entry, seed, f"{PREDICTIONS} beside it is missing")
    held_out = (TEST,) if plan.folds is None else (TRAIN, TEST)
    for name, predicted, splits in (
        (PREDICTIONS, found, held_out),
        (FINAL_PREDICTIONS, final, (FINAL,)),
    ):
        if predicted is not None:
            _check_predictions(records, entry, seed, name, predicted, images, splits)
    _check_score(records, entry, seed, record, found)
    return Trial(record, found, final)


def _check_identity(
    records: Records, plan: Plan, entry: Entry, seed: int, record: TrialRecord
) -> None:
    """Whether the record is that of its folder, and says the same in both of its parts."""
    pairs = [
        ("attention", record.subject.attention, entry.key),
        ("seed", record.seed, seed),
    ]
    if record.settings is not None:
        known = _known_of_earlier(record, plan)
        pairs += [(key, known[key], record.settings.get(key)) for key in known if key != "lr"]
    if record.metric.name == plan.metric.name:
        pairs.append(("metric", record.metric, plan.metric))
    for key, said, expected in pairs:
        if said != expected:
            what = f"{key} is {said!r}, where {expected!r} is expected"
            raise _damaged_trial(records, entry, seed, what)


def _check_predictions(
    records: Records,
    entry: Entry,
    seed: int,
    name: str,
    found: Predicted,
    images: SetRecord | None,
    splits: tuple[str, ...],
) -> None:
    """Whether predictions are classes of the study, for every held-out image in order."""
    wrong = _wrong_arrays(found)
    if wrong is None and images is not None:
        kept = [images.splits[split].labels for split in splits if split in images.splits]
        count = sum(map(len, kept))
        if len(found.images) != count:
            wrong = f"{len(found.images)} images, where {count} are held out"
        elif not np.array_equal(found.images, np.arange(count)):
            wrong = "its images are not the held-out ones in order"
        else:
            wrong = _wrong_classes(found, images, splits)
    if wrong:
        path = records.trial_folder(entry.key, seed) / name
        then = "with trial.json beside it removed too, it is made again"
        raise DamagedRunError(records.root, path, ValueError(wrong), then)


@singledispatch
def _wrong_arrays(found: Predictions) -> str | None:
    """Why the arrays cannot be predictions, in words."""
    sizes = [array.shape for array in found]
    if len(set(sizes)) > 1 or len(sizes[0]) != 1 or any(a.dtype.kind not in "ui" for a in found):
        return f"arrays of shapes {sizes}, where whole numbers, one an image, are expected"
    return None


@_wrong_arrays.register
def _(found: PixelPredictions) -> str | None:
    areas, images = found
    whole = all(array.dtype.kind in "ui" for array in found)
    if not whole or areas.ndim != 3 or areas.shape[:2] != (*images.shape, 3):
        return f"areas of shape {areas.shape}, where three a class of {images.shape} are expected"
    if (areas[:, 0] > np.minimum(areas[:, 1], areas[:, 2])).any():
        return "an intersection is larger than an area"
    if (areas[:, 1].sum(1) != areas[:, 2].sum(1)).any():
        return "as many pixels are not predicted as are labelled"
    return None


@_wrong_arrays.register
def _(found: BoxPredictions) -> str | None:
    images, classes = len(found.images), int(found.classes)
    figures = (len(OF_BOXES), len(OF_BOXES) + len(OF_MASKS))
    for array in (found.without, found.guess):
        if array.shape not in [(images, count) for count in figures] or array.dtype.kind != "f":
            return f"figures of shape {array.shape}, where three or five of {images} are expected"
    for evidence in filter(None, (found.boxes, found.masks)):
        numbers = [evidence.detections, evidence.objects]
        widths = (3 + 2 * len(AREAS), 2 + len(AREAS))
        shapes = [array.shape[1:] for array in numbers]
        whole = all(array.dtype.kind in "ui" for array in numbers)
        if not whole or shapes != [(width,) for width in widths]:
            return f"arrays of shapes {shapes}, where whole numbers, {widths} each, are expected"
        if evidence.scores.shape != numbers[0].shape[:1]:
            return f"{evidence.scores.shape} scores, of {len(numbers[0])} detections"
        for what, limit, column in (("image", images, 0), ("class", classes, 1)):
            named = np.concatenate([array[:, column] for array in numbers])
            if named.size and not 0 <= named.min() <= named.max() < limit:
                return f"{what} {named.max()} is named, of {limit}"
    return None


@singledispatch
def _wrong_classes(found: Predictions, images: SetRecord, splits: tuple[str, ...]) -> str | None:
    """Why the classes are not those of the images, in words."""
    classes = len(images.classes)
    labels = [label for s in splits if s in images.splits for label in images.splits[s].labels]
    if not np.array_equal(found.labels, labels):
        return "its labels are not those of the held-out images"
    if found.predicted.max(initial=0) >= classes:
        return f"class {found.predicted.max()} is predicted, of {classes} classes"
    return None


@_wrong_classes.register
def _(found: PixelPredictions, images: SetRecord, splits: tuple[str, ...]) -> str | None:
    if found.areas.shape[2] != len(images.classes):
        return f"{found.areas.shape[2]} classes, of {len(images.classes)}"
    return None


@_wrong_classes.register
def _(found: BoxPredictions, images: SetRecord, splits: tuple[str, ...]) -> str | None:
    if int(found.classes) != len(images.classes):
        return f"{found.classes} classes, of {len(images.classes)}"
    if images.objects is None:
        return "it is of objects, and the images have none"
    there = images.objects.count(*splits)
    counted = np.zeros_like(there)
    np.add.at(counted, (found.box_objects[:, 0], found.box_objects[:, 1]), 1)
    if not np.array_equal(counted, there):
        return "its objects are not those of the held-out images"
    return None


def _check_score(
    records: Records,
    entry: Entry,
    seed: int,
    record: TrialRecord,
    found: Predicted | None,
) -> None:
    """Whether the score is one that the metric takes, and that of the predictions."""
    metric, score = record.metric, record.score
    low, high = metric.bounds
    if score is None or not low <= score <= high:
        what = f"score is {score}, where {metric.name} lies in {low:g} to {high:g}"
        raise _damaged_trial(records, entry, seed, what)
    if found is None:
        return
    again = float(found.scores(metric).mean())
    if not isclose(score, again, rel_tol=0.0, abs_tol=1e-6):
        what = f"score is {score:g}, and {PREDICTIONS} beside it gives {again:g}"
        raise _damaged_trial(records, entry, seed, what)


def _damaged_trial(records: Records, entry: Entry, seed: int, what: str) -> DamagedRunError:
    path = records.trial_folder(entry.key, seed) / "trial.json"
    return DamagedRunError(records.root, path, ValueError(what), "the trial is then made again")


def _known_of_earlier(record: TrialRecord, plan: Plan) -> dict[str, Any]:
    """What a record says of its settings outside ``settings``; all that earlier versions noted."""
    known: dict[str, Any] = {
        "metric": record.metric.name,
        "host": record.host,
        "epochs": record.epochs,
        "mechanism": record.subject.mechanism,
    }
    if plan.tune == "none" and record.lr is not None:
        known["lr"] = record.lr
    return known


def _shared(plan: Plan) -> dict[str, Any]:
    return {key: _plain(v) for key, v in plan.to_dict().items() if key not in _EDITABLE}


def _row(entry: Entry) -> dict[str, Any]:
    return {"mechanism": entry.name, "options": _plain(entry.kwargs)}


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value, default=str))


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first setting, of those that both sides know, that is not as it was, in words."""
    for key in now:
        if key in before and before[key] != now[key]:
            return f"{key} was {before[key]!r} and is {now[key]!r}"
    return None

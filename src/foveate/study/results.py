"""The results of a study so far: a row for each thing compared, over its seeds.

The numbers that are shown more than once (terminal, notebook, report, ``summary.csv``) are
computed here, once. What is to be shown beside scores, costs and attention maps:

    Results.notes         sentences: what is scored, the epoch reported, tuning, folds, the images
    Results.warnings      sentences: trials at chance, diverged, still rising; images to look at
    Results.unhealthy     by label, why a mechanism's trials are not ones to judge it by
    Results.majority      the class named most often, and the accuracy of always naming it
    Results.classes       names of the classes; Results.data is the whole record of the images
    Row.predictions       by seed, the class given to each held-out image
    Row.image_scores      by seed, the score of each held-out image; what the statistics take
    Row.confusion         (K, K) counts over the seeds; rows are true classes
    Row.recalls           (K,) the share of each class that is found, over the seeds
    Row.accuracy, Row.balanced_accuracy     both, whichever is the metric
    Row.pixels            in segmentation, areas of each image and class, a seed each
    Row.health            by seed: at chance, diverged, rising
    Row.tuning            the learning rates tried, the winner, the cost
    Row.final             the score on images kept for the very end, where there are any
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from foveate.data.record import ImageCounts, SetRecord, count_images
from foveate.data.sources.base import TEST, TRAIN, DataError
from foveate.metrics import ACCURACY, BALANCED_ACCURACY, MEAN_IOU, Metric
from foveate.study.box_predictions import BoxPredictions
from foveate.study.entry import Entry
from foveate.study.host import own_host
from foveate.study.pixel_predictions import PixelPredictions, always, mean_iou
from foveate.study.plan import Plan, only_reduces
from foveate.study.provenance import check_settings, read_trial
from foveate.study.records import (
    AttentionMaps,
    DamagedRunError,
    Environment,
    Health,
    HostRecord,
    InRuntime,
    Latency,
    MatchedHost,
    Measurement,
    Predicted,
    Predictions,
    Records,
    Subject,
    TrialRecord,
    Tuning,
)
from foveate.study.statistics import Estimate, Scores, estimate

CONTROLS = {"none": "no attention", "depthwise_conv": "depthwise convolution"}
"""What tables and sentences call the host's controls."""

_FEW_UPDATES = 20
_SAME_CLASS = "always the same class"


class Majority(NamedTuple):
    """Saying the same whatever the image shows: always one class, or the boxes of another image.

    Attributes:
        what: is always said.
        name: of the class that most held-out images, or pixels, have; none where objects are named.
        share: what that scores: the accuracy, the mean IoU of pixels, or the metric of objects.
        metric: of these, which.
    """

    what: str
    name: str
    share: float
    metric: Metric


@dataclass(frozen=True)
class Row:
    """One thing compared: a mechanism or a control, over its seeds.

    Attributes:
        subject: what it is.
        metric: what its scores are.
        done: finished trials, by seed.
        failed: the others, by seed.
        measured: latency and memory, where measured.
        maps: attention maps, where computed.
        estimate: the mean score with its interval; None where no trial has finished.
        classes: how many there are; 0 where that is not known.
        predictions: of finished trials, by seed, where they were kept.
        final_predictions: likewise, of the images kept for the very end.
        tuning: of the learning rate, where it was tuned.
        matched: its host at equal cost, where the plan asks for that.
    """

    subject: Subject
    metric: Metric
    done: dict[int, TrialRecord] = field(default_factory=dict)
    failed: dict[int, TrialRecord] = field(default_factory=dict)
    measured: Measurement | None = None
    maps: AttentionMaps | None = field(default=None, repr=False)
    estimate: Estimate | None = None
    classes: int = 0
    predictions: dict[int, Predicted] = field(default_factory=dict)
    final_predictions: dict[int, Predicted] = field(default_factory=dict)
    tuning: Tuning | None = None
    matched: MatchedHost | None = None

    @property
    def label(self) -> str:
        """What tables and sentences call it."""
        return CONTROLS.get(self.subject.label, self.subject.label)

    @property
    def control(self) -> bool:
        """Whether it is there to compare with."""
        return self.subject.control

    @property
    def scores(self) -> dict[int, float]:
        """The score on held-out images, by seed."""
        return _scores(self.done)

    @property
    def image_scores(self) -> Scores:
        """The score of each held-out image, by seed; one number where they were not kept."""
        return _image_scores(self.done, self.predictions, self.metric)

    @property
    def confusion(self) -> np.ndarray | None:
        """(K, K) counts over the seeds, rows are true classes; None where nothing was kept."""
        kept = [found for found in self.predictions.values() if isinstance(found, Predictions)]
        if not kept or not self.classes:
            return None
        return sum(
            (found.confusion(self.classes) for found in kept),
            start=np.zeros((self.classes, self.classes), dtype=np.int64),
        )

    @property
    def recalls(self) -> np.ndarray | None:
        """(K,) the share of each class that is found, over the seeds; NaN without an image."""
        counts = self.confusion
        if counts is None:
            return None
        images = counts.sum(1)
        return np.where(images > 0, np.diag(counts) / np.maximum(images, 1), np.nan)

    @property
    def pixels(self) -> list[PixelPredictions]:
        """What was said of pixels, a seed each; none in classification."""
        return [f for f in self.predictions.values() if isinstance(f, PixelPredictions)]

    @property
    def boxes(self) -> list[BoxPredictions]:
        """What was found of objects, a seed each; none in other tasks."""
        return [f for f in self.predictions.values() if isinstance(f, BoxPredictions)]

    @property
    def accuracy(self) -> Estimate | None:
        """The share of images whose class is found, whatever the metric is."""
        return _estimate_of(self.predictions, ACCURACY)

    @property
    def balanced_accuracy(self) -> Estimate | None:
        """The mean recall of the classes, whatever the metric is."""
        return _estimate_of(self.predictions, BALANCED_ACCURACY)

    @property
    def final(self) -> Estimate | None:
        """The score on the images kept for the very end."""
        return _estimate_of(self.final_predictions, self.metric)

    @property
    def health(self) -> dict[int, Health]:
        """Of every trial that says so, by seed."""
        trials = self.done | self.failed
        return {seed: t.health for seed, t in sorted(trials.items()) if t.health is not None}

    @property
    def unhealthy(self) -> str | None:
        """Why no verdict should rest on it: trials at chance or diverged; else None."""
        return _counted(self, "at_chance", "at chance") or _counted(self, "diverged", "diverged")

    @property
    def rising(self) -> str | None:
        """How many trials still rose at the end, in words; None where none did."""
        return _counted(self, "rising", "still rising at the end")

    @property
    def parameters(self) -> int | None:
        """Of the whole model, as trained."""
        return next((trial.parameters for trial in self.done.values()), None)

    @property
    def multiply_adds(self) -> int | None:
        """Of the whole model on one image, as deployed."""
        return next((trial.multiply_adds for trial in self.done.values()), None)

    @property
    def latency(self) -> Latency | None:
        """Of the whole model, as deployed."""
        return None if self.measured is None else self.measured.latency_ms

    @property
    def no_latency(self) -> str | None:
        """Why there is none in the runtime that was asked for; None where there is, or no trial."""
        elsewhere = self.measured and self.measured.in_runtime
        return elsewhere.error if elsewhere else None

    @property
    def peak_memory_mb(self) -> float | None:
        """Of the whole model in PyTorch, as deployed."""
        return None if self.measured is None else self.measured.peak_memory_mb

    @property
    def train_images_per_second(self) -> float | None:
        """Median over seeds."""
        rates = [trial.train_images_per_second for trial in self.done.values()]
        known = [rate for rate in rates if rate is not None]
        return median(known) if known else None


@dataclass(frozen=True)
class Results:
    """What a study has found so far.

    Attributes:
        root: the run directory.
        plan: as it ran.
        environment: of the machine, where noted.
        images: how many there are, where known.
        rows: what was compared, the best first, what never finished last.
        data: the record of the images, where it is one of this version.
        host: of a host of the user's own, what it is and what was put into it.
    """

    root: Path
    plan: Plan
    environment: Environment | None
    images: ImageCounts | None
    rows: tuple[Row, ...]
    data: SetRecord | None = None
    host: HostRecord | None = None

    @property
    def metric(self) -> Metric:
        """What the scores are."""
        return self.plan.metric

    @property
    def scores(self) -> dict[str, Scores]:
        """Scores of images by label and seed, of what finished: what the statistics take."""
        return {row.label: row.image_scores for row in self.rows if row.done}

    @property
    def unhealthy(self) -> dict[str, str]:
        """By label, why a mechanism's trials are not ones to judge it by."""
        return {row.label: why for row in self.rows if (why := row.unhealthy) is not None}

    @property
    def classes(self) -> list[str]:
        """Their names."""
        return [] if self.data is None else self.data.classes

    @property
    def majority(self) -> Majority | None:
        """What saying the same whatever the image shows would score."""
        if self.data is None:
            return None
        if self.data.masks is not None:
            return self._majority_of_pixels()
        if self.data.objects is not None:
            return self._guess_of_boxes()
        splits = (TEST,) if self.plan.folds is None else (TRAIN, TEST)
        counts = np.bincount(
            [label for split in splits for label in self.data.splits[split].labels]
        )
        largest, share = int(counts.argmax()), float(counts.max() / counts.sum())
        return Majority(_SAME_CLASS, self.classes[largest], share, ACCURACY)

    def _majority_of_pixels(self) -> Majority | None:
        kept = [found for row in self.rows for found in row.pixels]
        if not kept:
            return None
        labelled = kept[0].whole[2]
        largest = int(labelled.argmax())
        share = float(mean_iou(always(labelled, largest)))
        return Majority(_SAME_CLASS, self.classes[largest], share, MEAN_IOU)

    def _guess_of_boxes(self) -> Majority | None:
        kept = [found for row in self.rows for found in row.boxes]
        if not kept:
            return None
        share = float(kept[0].guessed(self.metric).mean())
        return Majority("the boxes of the next image", "", share, self.metric)

    @property
    def warnings(self) -> list[str]:
        """What the reader should know before believing a number, a sentence each."""
        said = [f"{row.label}: {row.unhealthy}" for row in self.rows if row.unhealthy]
        said += [f"{row.label}: {row.rising}" for row in self.rows if row.rising]
        said += [
            f"{row.label} has no latency in {self.timed_in.runtime}: {row.no_latency}"
            for row in self.rows
            if self.timed_in and row.no_latency
        ]
        said += _few_updates(self.plan, self.images)
        said += _unrecorded([trial for row in self.rows for trial in row.done.values()])
        return said + ([] if self.data is None else list(self.data.findings.warnings))

    @property
    def notes(self) -> list[str]:
        """What was decided and how scores came about, a sentence each."""
        of_host = () if self.host is None else self.host.said
        of_images = () if self.data is None else self.data.findings.notes
        return [*_notes_of_plan(self.plan), *of_host, *of_images, *_notes_of_files(self.rows)]

    @property
    def timed_in(self) -> InRuntime | None:
        """The runtime that latencies are of; None for PyTorch, or where none was measured."""
        measured = (row.measured for row in self.rows if row.measured is not None)
        return next((one.in_runtime for one in measured if one.in_runtime is not None), None)

    @property
    def controls(self) -> list[str]:
        """Labels of the controls."""
        return [row.label for row in self.rows if row.control]

    @property
    def failures(self) -> list[str]:
        """The trials that failed, one line each."""
        return [
            f"{trial.subject.label}, seed {trial.seed}: {trial.error}"
            for trial in self.trials()
            if trial.error is not None
        ]

    def trials(self) -> Iterator[TrialRecord]:
        """Every trial that is over, in the order of the plan."""
        rows = {row.subject.attention: row for row in self.rows}
        for entry in self.plan.entries:
            trials = rows[entry.key].done | rows[entry.key].failed if entry.key in rows else {}
            yield from (trials[seed] for seed in self.plan.seeds if seed in trials)


def _few_updates(plan: Plan, images: ImageCounts | None) -> list[str]:
    """A sentence where the recipe hardly moves the weights."""
    if images is None or not images.train:
        return []
    batch = min(plan.batch_size, images.train)
    updates = plan.epochs * (images.train // batch)
    if updates >= _FEW_UPDATES:
        return []
    whole = f"; a batch holds all {images.train} images" if batch == images.train else ""
    return [
        f"a trial updates its weights {updates} times in all{whole}: too few to tell mechanisms "
        "apart; take smaller batches, more epochs or more images"
    ]


def _unrecorded(trials: list[TrialRecord]) -> list[str]:
    """A sentence where trials do not say what they were made with."""
    count = sum(trial.settings is None for trial in trials)
    if not count:
        return []
    return [
        f"{count} of {len(trials)} trials are of an earlier version, which did not record their "
        "settings: they are taken to be those of plan.yaml"
    ]


def _notes_of_plan(plan: Plan) -> list[str]:
    """How scores came about, a sentence each."""
    rest = "a fifth of the training images, which is then not trained on"
    notes = [
        "scores are those of the last epoch"
        if plan.select == "last"
        else f"scores are those of the best epoch on {rest}",
        _note_of_start(plan),
        *_notes_of_own_host(plan),
        *_notes_of_segmentation(plan),
        *_notes_of_detection(plan),
    ]
    if plan.folds is not None:
        notes.append(
            f"training and held-out images are pooled, and each is held out once, in {plan.folds} "
            "folds; costs, attention maps and the images kept for the very end are of the first "
            "fold's model"
        )
    if plan.tune == "lr":
        grid = ", ".join(f"{lr:g}" for lr in plan.lr_grid)
        notes.append(
            f"the learning rate of each mechanism and control was chosen from {grid}, by one "
            f"training of {plan.epochs} epochs each, on a fifth of the training images"
        )
    return notes


def _notes_of_files(rows: Sequence[Row]) -> list[str]:
    """What exporters chose or left out in the files that were timed, with the rows it is of."""
    said: dict[str, list[str]] = {}
    for row in rows:
        made = row.measured and row.measured.in_runtime
        for note in made.notes if made else ():
            said.setdefault(f"exported to {made.runtime}, {note}", []).append(row.label)
    return [
        note if len(labels) == len(rows) else f"{', '.join(labels)}: {note}"
        for note, labels in said.items()
    ]


def _notes_of_segmentation(plan: Plan) -> list[str]:
    """How pixels are predicted and counted, a sentence each."""
    if plan.task != "segmentation":
        return []
    whole = "whole, at their own size"
    windows = plan.window and f"in overlapping windows of {plan.window[0]}x{plan.window[1]}"
    return [
        f"held-out images are predicted {windows or whole}; areas are summed over all of them "
        "before anything is divided, and a class that is nowhere labelled or predicted has no IoU",
        f"on the host stands the head {plan.head}; costs are those of one image of the crops' size",
    ]


def _notes_of_detection(plan: Plan) -> list[str]:
    """How objects are found and counted, a sentence each."""
    if plan.task != "detection":
        return []
    height, width = plan.image_size or (0, 0)
    head = f"on the host stands the head {plan.head}; " if _has_head(plan) else ""
    regions = "" if plan.head == "retinanet" or not head else ", 1,000 regions and 100 masks"
    masks = f"; masks are {_MASKS[plan.masks]}" if plan.masks else ""
    timed = (
        "latency and memory are"
        if plan.latency == "torch"
        else "latency is that of the head's outputs, without what finds objects in them, and "
        "memory is"
    )
    return [
        f"held-out images are fitted into {height}x{width}, whole and in proportion; average "
        "precision is COCO's, small, medium and large by pixels of the original images, and its "
        f"intervals are by pseudo-values over images{masks}",
        f"{head}multiply-adds are those of every layer on one image of that size{regions}; {timed} "
        "those of finding objects in held-out images",
    ]


_MASKS = {
    "given": "those of the annotations",
    "ellipse": "ellipses drawn in the boxes",
    "rectangle": "the boxes themselves",
}


def _has_head(plan: Plan) -> bool:
    own = own_host(plan.host)
    return own is None or own.kind == "timm"


def _note_of_start(plan: Plan) -> str:
    if own_host(plan.host) is None:
        return (
            "the attention's branch starts scaled by zero: every trial begins as the control none"
            if plan.start == "identity"
            else "the attention's branch starts plain: trials of one seed begin as different "
            "functions"
        )
    if only_reduces(plan):
        return "each row is the whole model made cheaper: trials of a seed begin with its weights"
    if plan.start != "identity":
        return "what is put in starts as it is: trials of one seed begin as different functions"
    if plan.at in ("branch", "stage"):
        return "what is inserted starts scaled by zero: every trial begins as the unchanged model"
    return (
        "what is replaced stays beside, at its cost, and hands over by a scale that starts at "
        "zero: every trial begins as the unchanged model"
    )


def _notes_of_own_host(plan: Plan) -> list[str]:
    """How a host of the user's own is trained, a sentence each."""
    if own_host(plan.host) is None:
        return []
    from_what = "its weights" if plan.weights else "fresh weights"
    frozen = (
        "its batch norms keep their statistics, weights and biases"
        if plan.freeze == "norms"
        else "nothing of it is frozen, and batch norms use the statistics of each batch"
    )
    scale = plan.added_lr_scale
    rate = "at the learning rate of the rest" if scale == 1 else (
        f"at {scale:g} times the learning rate of the rest"
    )  # fmt: skip
    added = f"; what is put in learns {rate}"
    if only_reduces(plan):
        added = "; a reduced one learns what its reducer asks for, too" + (
            ", and from the whole host if the classifier is of its weights" if plan.weights else ""
        )
    return [f"the host starts from {from_what}; {frozen}{added}"]


def read_results(root: Path, plan: Plan) -> Results:
    """Read what a study has written; pieces that are missing stay empty.

    Args:
        root: the run directory.
        plan: its plan.

    Raises:
        OtherPlanError: if something in it was made under another plan.
        ValueError: if it holds no trial, or a file in it is damaged.
    """
    records = Records(root)
    check_settings(records, plan)
    images = _image_counts(root)
    record = image_record(root) if images else None
    classes = images.classes if images else 0
    found = [_row(records, plan, entry, classes, record) for entry in plan.entries]
    rows = [row for row in found if row is not None]
    if not rows:
        raise ValueError(f"{root} holds no trial; is it the directory of a comparison?")
    sign = -1 if plan.metric.higher_is_better else 1
    rows.sort(
        key=lambda row: (row.estimate is None, sign * row.estimate.mean if row.estimate else 0.0,
                         row.label)
    )  # fmt: skip
    return Results(
        root,
        plan,
        records.environment(),
        images,
        tuple(rows),
        record,
        records.host(),
    )


def _row(
    records: Records, plan: Plan, entry: Entry, classes: int, images: SetRecord | None
) -> Row | None:
    key = entry.key
    trials = {seed: read_trial(records, plan, entry, seed, images) for seed in plan.seeds}
    over = {seed: trial.record for seed, trial in trials.items() if trial is not None}
    if not over:
        return None
    done = {seed: trial for seed, trial in over.items() if trial.status == "done"}
    predictions = {seed: t.predictions for seed, t in trials.items() if t and t.predictions}
    final = {seed: trial.final for seed, trial in trials.items() if trial and trial.final}
    return Row(
        subject=next(iter((done or over).values())).subject._replace(control=entry.control),
        metric=plan.metric,
        done=done,
        failed={seed: trial for seed, trial in over.items() if trial.status == "failed"},
        measured=records.measurement(key),
        maps=records.attention_maps(key),
        estimate=estimate(_image_scores(done, predictions, plan.metric), plan.metric)
        if done
        else None,
        classes=classes,
        predictions=predictions,
        final_predictions=final,
        tuning=records.tuning(key),
        matched=records.matched().get(key),
    )


def _scores(done: dict[int, TrialRecord]) -> dict[int, float]:
    return {seed: trial.score for seed, trial in done.items() if trial.score is not None}


def _image_scores(
    done: dict[int, TrialRecord], predictions: Mapping[int, Predicted], metric: Metric
) -> Scores:
    """By seed, the score of each image where predictions were kept, else the one number."""
    return {
        seed: predictions[seed].scores(metric) if seed in predictions else score
        for seed, score in _scores(done).items()
    }


def _estimate_of(predictions: Mapping[int, Predicted], metric: Metric) -> Estimate | None:
    if not predictions or any(metric.name not in f.metrics for f in predictions.values()):
        return None
    return estimate({seed: found.scores(metric) for seed, found in predictions.items()}, metric)


def _counted(row: Row, flag: str, what: str) -> str | None:
    """``"2 of 3 trials at chance"``, where ``flag`` of a trial's health says so."""
    count = sum(getattr(health, flag) for health in row.health.values())
    total = len(row.done) + len(row.failed)
    return f"{count} of {total} trial{'' if total == 1 else 's'} {what}" if count else None


def image_record(root: Path) -> SetRecord | None:
    """The whole record of the images; None where another version wrote it."""
    try:
        return SetRecord.read(root / "data")
    except DataError:
        return None


def _image_counts(root: Path) -> ImageCounts | None:
    try:
        return count_images(root / "data")
    except DataError as error:
        index = root / "data" / "index.json"
        raise DamagedRunError(root, index, error, "the images are then read again") from error

"""The results of a study so far: a row for each thing compared, over its seeds.

The numbers that are shown more than once (terminal, notebook, report, ``summary.csv``) are
computed here, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from foveate.data.record import ImageCounts, count_images
from foveate.data.source import DataError
from foveate.metrics import Metric
from foveate.study.plan import Plan
from foveate.study.records import (
    AttentionMaps,
    DamagedRunError,
    Environment,
    Latency,
    Measurement,
    Records,
    Subject,
    TrialRecord,
)
from foveate.study.statistics import Estimate, estimate

CONTROLS = {"none": "no attention", "depthwise_conv": "depthwise convolution"}
"""What tables and sentences call the host's controls."""


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
    """

    subject: Subject
    metric: Metric
    done: dict[int, TrialRecord] = field(default_factory=dict)
    failed: dict[int, TrialRecord] = field(default_factory=dict)
    measured: Measurement | None = None
    maps: AttentionMaps | None = field(default=None, repr=False)
    estimate: Estimate | None = None

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
    def peak_memory_mb(self) -> float | None:
        """Likewise."""
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
    """

    root: Path
    plan: Plan
    environment: Environment | None
    images: ImageCounts | None
    rows: tuple[Row, ...]

    @property
    def metric(self) -> Metric:
        """What the scores are."""
        return self.plan.metric

    @property
    def scores(self) -> dict[str, dict[int, float]]:
        """Scores by label and seed, of what finished."""
        return {row.label: row.scores for row in self.rows if row.done}

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


def read_results(root: Path, plan: Plan) -> Results:
    """Read what a study has written; pieces that are missing stay empty.

    Args:
        root: the run directory.
        plan: its plan.

    Raises:
        ValueError: if it holds no trial, or a file in it is damaged.
    """
    records = Records(root)
    rows = [row for entry in plan.entries if (row := _row(records, plan, entry.key)) is not None]
    if not rows:
        raise ValueError(f"{root} holds no trial; is it the directory of a comparison?")
    sign = -1 if plan.metric.higher_is_better else 1
    rows.sort(
        key=lambda row: (row.estimate is None, sign * row.estimate.mean if row.estimate else 0.0,
                         row.label)
    )  # fmt: skip
    return Results(root, plan, records.environment(), _image_counts(root), tuple(rows))


def _row(records: Records, plan: Plan, key: str) -> Row | None:
    trials = {seed: records.trial(key, seed) for seed in plan.seeds}
    over = {seed: trial for seed, trial in trials.items() if trial is not None}
    if not over:
        return None
    done = {seed: trial for seed, trial in over.items() if trial.status == "done"}
    return Row(
        subject=next(iter((done or over).values())).subject,
        metric=plan.metric,
        done=done,
        failed={seed: trial for seed, trial in over.items() if trial.status == "failed"},
        measured=records.measurement(key),
        maps=records.attention_maps(key),
        estimate=estimate(_scores(done), plan.metric) if done else None,
    )


def _scores(done: dict[int, TrialRecord]) -> dict[int, float]:
    return {seed: trial.score for seed, trial in done.items() if trial.score is not None}


def _image_counts(root: Path) -> ImageCounts | None:
    try:
        return count_images(root / "data")
    except DataError as error:
        index = root / "data" / "index.json"
        raise DamagedRunError(root, index, error, "the images are then read again") from error

"""A run directory, read: its plan, its environment, and a row for each thing compared."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import yaml

CONTROLS = {"none": "no attention", "depthwise_conv": "depthwise convolution"}
"""What sentences call the host's controls."""


@dataclass(frozen=True)
class Row:
    """One thing compared: a mechanism or a control, over its seeds.

    Attributes:
        attention: its key, as in file names.
        label: what tables call it.
        role: of the mechanism.
        family: of the mechanism.
        control: whether it is there to compare with.
        done: finished trials, by seed.
        failed: the others, by seed.
        measured: latency and memory; empty where not measured.
        view: what one query sees; empty where not computed.
    """

    attention: str
    label: str
    role: str
    family: str
    control: bool
    done: dict[int, dict[str, Any]] = field(default_factory=dict)
    failed: dict[int, dict[str, Any]] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)
    view: dict[str, Any] = field(default_factory=dict)

    @property
    def accuracies(self) -> dict[int, float]:
        """Held-out accuracy by seed."""
        return {seed: float(trial["accuracy"]) for seed, trial in self.done.items()}

    @property
    def accuracy(self) -> float | None:
        """Mean held-out accuracy."""
        values = self.accuracies.values()
        return sum(values) / len(values) if values else None

    @property
    def parameters(self) -> int | None:
        """Of the whole model, as trained."""
        return self._cost("parameters")

    @property
    def multiply_adds(self) -> int | None:
        """Of the whole model on one image, as deployed."""
        return self._cost("multiply_adds")

    @property
    def latency(self) -> dict[str, float]:
        """Milliseconds: median, p25, p75; and batch, repeats."""
        return self.measured.get("latency_ms") or {}

    @property
    def train_images_per_second(self) -> float | None:
        """Median over seeds."""
        return _median(trial.get("train_images_per_second") for trial in self.done.values())

    def _cost(self, name: str) -> int | None:
        sources = [*self.done.values(), self.measured]
        return next((s[name] for s in sources if s.get(name) is not None), None)


@dataclass(frozen=True)
class Results:
    """What a study has found so far.

    Attributes:
        path: of its directory.
        plan: as it ran.
        environment: of the machine.
        images: how many there are for ``train`` and ``test``, of how many ``classes``, and how many
            were ``skipped`` because they could not be read; empty where that is not known.
        rows: what was compared, most accurate first, what never finished last.
    """

    path: Path
    plan: dict[str, Any]
    environment: dict[str, Any]
    images: dict[str, int]
    rows: tuple[Row, ...]

    @property
    def scores(self) -> dict[str, dict[int, float]]:
        """Accuracy by label and seed, of what finished."""
        return {row.label: row.accuracies for row in self.rows if row.done}

    @property
    def controls(self) -> list[str]:
        """Labels of the controls."""
        return [row.label for row in self.rows if row.control]


def read_results(path: Path) -> Results:
    """Read what a study has written; pieces that are missing stay empty.

    Args:
        path: the run directory.

    Raises:
        ValueError: if it holds no trial.
    """
    trials = [_json(file) for file in sorted(path.glob("trials/*/trial.json"))]
    trials = [trial for trial in trials if trial]
    if not trials:
        raise ValueError(f"{path} holds no trial; is it the directory of a comparison?")
    rows: dict[str, Row] = {}
    for trial in trials:
        row = rows.setdefault(trial["attention"], _row(path, trial))
        kept = row.done if trial.get("status") == "done" else row.failed
        kept[int(trial["seed"])] = trial
    ranked = sorted(rows.values(), key=lambda r: (r.accuracy is None, -(r.accuracy or 0), r.label))
    return Results(
        path=path,
        plan=_yaml(path / "plan.yaml"),
        environment=_json(path / "environment.json"),
        images=_images(_json(path / "data" / "index.json")),
        rows=tuple(ranked),
    )


def _images(index: dict[str, Any]) -> dict[str, int]:
    if not index:
        return {}
    splits = {split: len(index.get(split, {}).get("labels", [])) for split in ("train", "test")}
    return {**splits, **{key: len(index.get(key, [])) for key in ("classes", "skipped")}}


def _row(path: Path, trial: dict[str, Any]) -> Row:
    key = trial["attention"]
    label = str(trial.get("label") or key)
    return Row(
        attention=key,
        label=CONTROLS.get(label, label),
        role=str(trial.get("role") or ""),
        family=str(trial.get("family") or ""),
        control=bool(trial.get("control")),
        measured=_json(path / "measured" / f"{key}.json"),
        view=_json(path / "views" / f"{key}.json"),
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _json(path: Path) -> dict[str, Any]:
    return _mapping(path, json.loads)


def _yaml(path: Path) -> dict[str, Any]:
    return _mapping(path, yaml.safe_load)


def _mapping(path: Path, read: Any) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = read(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return value if isinstance(value, dict) else {}

"""What a study writes and reads: every file of results in a run directory, and what it holds.

    environment.json     versions, processor, threads, seeds           Environment
    settings.json        what its numbers were made with               Settings
    trials/KEY-seedN/    trial.json, what a trial came to              TrialRecord
                         history.json, epoch by epoch                  EpochRecord
                         predictions.npz, image by image               Predictions
                         final.npz, of images kept for the very end    Predictions
    tuned/KEY.json       the learning rates that were tried            Tuning
    host.json            what a host of the user's own is              HostRecord
    matched.json         the host of each row, at equal cost           MatchedHost
    measured/KEY.json    latency and memory of the trained model       Measurement
    views/KEY.json       attention maps of the trained model           AttentionMaps
    views/KEY.npz        labels or boxes of the images that the report shows
    pictures.json        pixels of the images that the report shows

KEY is the label of what is compared, as a file name. Trials of 0.1 name no metric and hold an
accuracy in place of the score; they are read as well.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import inf, isfinite
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar
from zipfile import BadZipFile

import numpy as np

from foveate import _fields as fields
from foveate._files import read_json, replacing, write_json
from foveate.data.moments import Moments
from foveate.metrics import ACCURACY, BALANCED_ACCURACY, Metric
from foveate.study.box_predictions import BoxPredictions
from foveate.study.crossed import balanced_accuracy_scores
from foveate.study.pixel_predictions import PixelPredictions, in_order

_Found = TypeVar("_Found")


class DamagedRunError(ValueError):
    """A file of a run directory cannot be read; the message names it and says what to do.

    Args:
        root: the run directory.
        path: the file.
        error: that reading it raised.
        then: what happens when it is gone.
    """

    def __init__(self, root: Path, path: Path, error: Exception, then: str) -> None:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        super().__init__(
            f"{path} is damaged ({what}); remove it and go on with: foveate compare --resume "
            f"{root} ({then})"
        )


class Subject(NamedTuple):
    """What is compared, as every file of a study names it.

    Attributes:
        attention: its key, as in file names.
        mechanism: the registered name, or the control's.
        label: what tables call it.
        control: whether it is there to compare with.
        role: of the mechanism; None where it could not be found out.
        family: of the mechanism; likewise.
    """

    attention: str
    mechanism: str
    label: str
    control: bool
    role: str | None = None
    family: str | None = None


class BatchDone(NamedTuple):
    """How far a trial is within an epoch; nothing that is kept.

    Attributes:
        epoch: epochs that are over.
        batch: batches of this one that are over.
        batches: in an epoch.
    """

    epoch: int
    batch: int
    batches: int


class EpochRecord(NamedTuple):
    """One epoch of a trial.

    Attributes:
        epoch: its number, from 1.
        train_loss: mean loss over the epoch's training images.
        loss: mean loss on the held-out images after it; None where the model gives none there.
        score: the metric on the held-out images after it.
        seconds: how long it took.
    """

    epoch: int
    train_loss: float
    loss: float | None
    score: float
    seconds: float


class Health(NamedTuple):
    """Whether a trial is one to judge a mechanism by.

    Attributes:
        at_chance: its accuracy is not above what always naming the most frequent class gives, nor
            its balanced accuracy above that of guessing (95 %, one-sided).
        diverged: the loss was no number, or ended above that of the first epoch.
        rising: the score still rose over the last quarter of the epochs, by more than the
            held-out images leave open.
        chance: the accuracy up to which it would be at chance.
    """

    at_chance: bool = False
    diverged: bool = False
    rising: bool = False
    chance: float | None = None

    @property
    def learned(self) -> bool:
        """Whether a verdict may rest on it."""
        return not (self.at_chance or self.diverged)


class Predictions(NamedTuple):
    """The classes that a trained model gives to images.

    Attributes:
        predicted: (I,) uint16, the class that was predicted.
        labels: (I,) uint16, the true one.
        images: (I,) uint32, which image of the held-out split; with folds, of the pooled splits.
    """

    predicted: np.ndarray
    labels: np.ndarray
    images: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """(I,) of 0 and 1: the score of each image."""
        return (self.predicted == self.labels).astype(float)

    found = correct
    metrics = (ACCURACY.name, BALANCED_ACCURACY.name)

    @classmethod
    def joined(cls, parts: Sequence[Predictions]) -> Predictions:
        """Those of several models, each of other images, in the order of the images."""
        return cls(*in_order(parts))

    def scores(self, metric: Metric) -> np.ndarray:
        """(I,): the metric as a mean over images: hits, or jackknife pseudo-values.

        Raises:
            ValueError: if the metric is no function of predicted classes.
        """
        if metric.name == ACCURACY.name:
            return self.correct
        if metric.name == BALANCED_ACCURACY.name:
            return balanced_accuracy_scores(self.labels, self.correct)
        raise ValueError(f"{metric.name} is no function of predicted classes")

    def confusion(self, classes: int) -> np.ndarray:
        """(K, K) counts: rows are true classes, columns predicted ones."""
        pairs = self.labels.astype(np.int64) * classes + self.predicted
        return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


Predicted = Predictions | PixelPredictions | BoxPredictions
"""What a trained model says of held-out images."""

_MARKS = {"areas": PixelPredictions, "box_scores": BoxPredictions}
"""The array by which each is known; :class:`Predictions` else."""


class Tried(NamedTuple):
    """One learning rate of a tuning.

    Attributes:
        lr: the learning rate.
        score: the metric on the selection part after the last epoch; None where it failed.
        seconds: what it took.
    """

    lr: float
    score: float | None
    seconds: float


@dataclass(frozen=True)
class Tuning:
    """How the learning rate of a mechanism or control was chosen: with the same budget for all.

    Attributes:
        attention: the key of what was tuned.
        tried: the grid, in order.
        lr: the winner.
        images: trained on.
        selection: images of the training split that it was chosen on.
    """

    attention: str
    tried: tuple[Tried, ...]
    lr: float
    images: int
    selection: int

    @property
    def seconds(self) -> float:
        """What it cost."""
        return sum(tried.seconds for tried in self.tried)

    @property
    def at_edge(self) -> bool:
        """Whether the winner is the smallest or the largest that was tried."""
        return self.lr in (self.tried[0].lr, self.tried[-1].lr)


@dataclass(frozen=True)
class TrialRecord:
    """What a trial came to.

    Attributes:
        subject: what was trained.
        seed: of the trial.
        host: the model that it stood in.
        epochs: of the plan.
        metric: what ``score`` is.
        error: why the trial failed, in one line; None where it is done.
        score: on the held-out images, after the epoch that is reported.
        loss: likewise.
        history: epoch by epoch; with ``select="best"`` on the selection part.
        parameters: of the whole model, as trained.
        multiply_adds: of the whole model on one image, as deployed.
        train_seconds: spent on training, without the measurements on held-out images.
        train_images_per_second: in that time.
        lr: the highest learning rate; None in records of 0.1.
        reported_epoch: whose weights were measured; likewise.
        health: whether it is one to judge by; likewise.
        settings: of the plan that decided its numbers; None in records of earlier versions.
    """

    subject: Subject
    seed: int
    host: str
    epochs: int
    metric: Metric
    error: str | None = None
    score: float | None = None
    loss: float | None = None
    history: tuple[EpochRecord, ...] = ()
    parameters: int | None = None
    multiply_adds: int | None = None
    train_seconds: float | None = None
    train_images_per_second: float | None = None
    lr: float | None = None
    reported_epoch: int | None = None
    health: Health | None = None
    settings: dict[str, Any] | None = None

    @property
    def status(self) -> Literal["done", "failed"]:
        """Whether the trial ended well; it is then never run again."""
        return "done" if self.error is None else "failed"


class Latency(NamedTuple):
    """Milliseconds of a forward pass.

    Attributes:
        median: of the passes.
        p25: their lower quartile.
        p75: their upper quartile.
        batch: images a pass.
        repeats: how many passes were timed, in all processes.
        processes: the median of each process; empty in files of earlier versions, which timed in
            one.
        low: lower end of the interval of the median: of the 95 % intervals of the processes the
            lowest end; None in those files.
        high: the highest end; likewise.
    """

    median: float
    p25: float
    p75: float
    batch: int
    repeats: int
    processes: tuple[float, ...] = ()
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Where the median lies, over processes; None where that was not measured."""
        return None if self.low is None or self.high is None else (self.low, self.high)


class InRuntime(NamedTuple):
    """Another runtime than PyTorch that a trained model was timed in, as its exported file.

    Attributes:
        runtime: its name, as its makers write it.
        version: of its package.
        precision: that it computes in.
        threads: of the CPU.
        processor: the CPU's name.
        difference: largest relative difference of the file's outputs from the model's; None where
            there is no file.
        error: why there is no file and so no latency; None where there is one.
        notes: what the exporter chose or left out, a sentence each.
    """

    runtime: str
    version: str
    precision: str
    threads: int
    processor: str
    difference: float | None = None
    error: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What columns and axes say: ``"ONNX Runtime, 1 thread"``."""
        return f"{self.runtime}, {self._threads}"

    @property
    def words(self) -> str:
        """The whole: ``"ONNX Runtime 1.30.0 (float32, 1 thread, on a processor)"``."""
        return (
            f"{self.runtime} {self.version} ({self.precision}, {self._threads}, on "
            f"{self.processor})"
        )

    @property
    def _threads(self) -> str:
        return f"{self.threads} thread{'' if self.threads == 1 else 's'}"


@dataclass(frozen=True)
class Measurement:
    """What the trained model costs, as deployed and with nothing else running.

    Attributes:
        attention: the key of what was measured.
        latency_ms: of a forward pass; None where there is none in the runtime that was asked for.
        peak_memory_mb: most held at once in a pass, beyond weights and input; None where the
            device cannot tell.
        parameters: of the model as deployed.
        multiply_adds: of one image.
        threads: of the CPU.
        device: its name.
        energy_mj: millijoules an image, of the whole processor while it ran; None where no counter
            can be read.
        machine: the node of the cluster that it was measured on; None for the study's own machine.
        in_runtime: what the latency and the energy are of, where that is not PyTorch on the device.
    """

    attention: str
    latency_ms: Latency | None
    peak_memory_mb: float | None
    parameters: int
    multiply_adds: int
    threads: int
    device: str
    energy_mj: float | None = None
    machine: str | None = None
    in_runtime: InRuntime | None = None


class HostRecord(NamedTuple):
    """A host of the user's own, and what was put into it.

    Attributes:
        host: as the plan names it.
        said: what was left out of its weights, taken or resampled, and how images are normalised.
        digests: SHA-256 of the files that it comes from, by their paths.
        normalize: mean and deviation of its images; from none of them where the host states these.
        changes: by key, the table of :func:`foveate.changes`, a row for places alike.
    """

    host: str
    said: list[str]
    digests: dict[str, str]
    normalize: Moments
    changes: dict[str, list[dict[str, str]]]

    @property
    def places(self) -> int:
        """In how many places something stands, in the row that has most."""
        return max((places_changed(rows) for rows in self.changes.values()), default=0)


def places_changed(rows: Sequence[Mapping[str, str]]) -> int:
    """How many places a table of changes counts, without those left alone."""
    return sum(int(row["n"]) for row in rows if row["how"] != "left alone")


class MatchedHost(NamedTuple):
    """The host of a row, changed so that its model costs what the costliest row does.

    Attributes:
        attention: the key of the row.
        by: what is equal: multiply_adds, parameters or latency.
        option: of the host that was changed.
        value: that it got.
        cost: what the row's model comes to: a count, or milliseconds a batch.
        target: the cost of the costliest row.
    """

    attention: str
    by: str
    option: str
    value: float
    cost: float
    target: float


class Counts(NamedTuple):
    """What looking at one model tells.

    Attributes:
        parameters: as deployed.
        multiply_adds: of one image.
        peak_memory: bytes, beyond weights and input; None where the device cannot tell.
        threads: of the CPU.
        device: its name.
    """

    parameters: int
    multiply_adds: int
    peak_memory: int | None
    threads: int
    device: str


class LayerMap(NamedTuple):
    """How much each position of a layer's input counts for the output at one query.

    Attributes:
        layer: its name in the model.
        query: row and column.
        measure: ``"weights"`` or ``"gradient"``, what the map was computed from.
        map: rows of shares, which sum to one.
    """

    layer: str
    query: tuple[int, int]
    measure: str
    map: list[list[float]]


class ImageMap(NamedTuple):
    """What one query attends to in one image, in the first block.

    Attributes:
        image: its number in the held-out split.
        query: row and column.
        map: rows of shares, which sum to one.
    """

    image: int
    query: tuple[int, int]
    map: list[list[float]]


@dataclass(frozen=True)
class AttentionMaps:
    """The attention maps of a trained model.

    Attributes:
        subject: what stands in the model.
        image: one of the held-out images, row by row; a number a pixel, or three.
        images: over how many the maps are averaged.
        layers: a map for the first block of each stage; none where nothing stands there.
        single: in the images on which the things compared differ most.
    """

    subject: Subject
    image: list[list[Any]]
    images: int
    layers: tuple[LayerMap, ...]
    single: tuple[ImageMap, ...] = ()


class Settings(NamedTuple):
    """What the files of a run directory were made with.

    Attributes:
        shared: settings of the plan that decide the numbers of every trial.
        rows: by key, those of one row alone: its mechanism and options.
    """

    shared: dict[str, Any]
    rows: dict[str, dict[str, Any]]


class Machine(NamedTuple):
    """A node of the cluster that trials run on.

    Attributes:
        host: its name.
        cpus: that it offers.
        gpus: likewise.
        processor: its name.
        accelerator: likewise, where it has one.
        python: version.
        versions: of the packages that matter.
    """

    host: str
    cpus: int
    gpus: int
    processor: str
    accelerator: str | None
    python: str
    versions: dict[str, str]


class Resumption(NamedTuple):
    """A study went on after an interruption.

    Attributes:
        at: when.
        changed: what was no longer as it was, in words.
    """

    at: str
    changed: list[str]


@dataclass(frozen=True)
class Environment:
    """What the numbers of a study depend on beside its plan.

    Attributes:
        started: when, in UTC.
        foveate: version of the library.
        commit: of its checkout, if it runs from one.
        python: version.
        versions: of the packages that matter.
        platform: the operating system.
        cpu: the processor's name; in a cluster those of its nodes.
        cores: how many it has; in a cluster how many the nodes offer.
        device: that trials run on, as torch names it.
        device_name: as it names itself.
        workers: trials at a time.
        threads: CPU threads of a trial.
        seeds: of the plan.
        command: what was typed; None where the study was started from Python.
        resumed: when the study went on.
        nodes: of the cluster that trials run on; none where they run on this machine.
    """

    started: str
    foveate: str
    commit: str | None
    python: str
    versions: dict[str, str]
    platform: str
    cpu: str
    cores: int | None
    device: str
    device_name: str
    workers: int | None
    threads: int | None
    seeds: list[int]
    command: list[str] | None
    resumed: tuple[Resumption, ...] = ()
    nodes: tuple[Machine, ...] = ()


PREDICTIONS, FINAL_PREDICTIONS = "predictions.npz", "final.npz"
TRUTH = "_truth"
"""In place of a key: of what is true."""


class Records:
    """The files of results in a run directory. What is read is None where there is no file.

    Args:
        root: the run directory.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def trial_folder(self, attention: str, seed: int) -> Path:
        """Where a trial keeps its files."""
        return self.root / "trials" / f"{attention}-seed{seed}"

    def trial(self, attention: str, seed: int) -> TrialRecord | None:
        """What a trial came to, if it is over."""
        path = self.trial_folder(attention, seed) / "trial.json"
        with self._reading(path, "the trial then goes on from its last checkpoint"):
            return _trial(read_json(path)) if path.exists() else None

    @property
    def exported(self) -> Path:
        """Where files for other runtimes lie while they are timed."""
        return self.root / "measured" / "files"

    def write_trial(self, trial: TrialRecord) -> None:
        """Put ``trial.json`` in place: with it the trial is over."""
        folder = self.trial_folder(trial.subject.attention, trial.seed)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "trial.json", _trial_values(trial))

    def history(self, attention: str, seed: int) -> list[EpochRecord]:
        """The epochs that a trial has behind it."""
        path = self.trial_folder(attention, seed) / "history.json"
        with self._reading(path, "it is written anew from the trial's checkpoint"):
            return [_epoch(value) for value in read_json(path)] if path.exists() else []

    def write_history(self, attention: str, seed: int, history: Sequence[EpochRecord]) -> None:
        """Put ``history.json`` in place."""
        values = [epoch._asdict() for epoch in history]
        write_json(self.trial_folder(attention, seed) / "history.json", values)

    def predictions(self, attention: str, seed: int, name: str = PREDICTIONS) -> Predicted | None:
        """What a trained model said of the held-out images, if it was kept.

        Args:
            attention: the key of what was trained.
            seed: of the trial.
            name: ``FINAL_PREDICTIONS`` for those of the images kept for the very end.
        """
        path = self.trial_folder(attention, seed) / name
        with self._reading(path, "with trial.json beside it removed too, it is made again"):
            if not path.exists():
                return None
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    marks = [mark for mark in _MARKS if mark in arrays.files]
                    kind = _MARKS[marks[0]] if marks else Predictions
                    return kind(*(arrays[field] for field in kind._fields))
            except (BadZipFile, EOFError, OSError, zlib.error) as error:
                raise ValueError(str(error)) from error

    def write_predictions(
        self,
        attention: str,
        seed: int,
        predictions: Predicted,
        name: str = PREDICTIONS,
    ) -> None:
        """Put them in place, compressed."""
        with replacing(self.trial_folder(attention, seed) / name) as file:
            np.savez_compressed(file, **predictions._asdict())

    def tuning(self, attention: str) -> Tuning | None:
        """How the learning rate was chosen, if that is over."""
        path = self.root / "tuned" / f"{attention}.json"
        with self._reading(path, "the learning rate is then tuned again"):
            found = _tuning(read_json(path)) if path.exists() else None
            return _of_key(found, found and found.attention, attention)

    def write_tuning(self, tuning: Tuning) -> None:
        """Put ``tuned/KEY.json`` in place: with it the tuning is over."""
        (self.root / "tuned").mkdir(exist_ok=True)
        values = {**vars(tuning), "tried": [tried._asdict() for tried in tuning.tried]}
        write_json(self.root / "tuned" / f"{tuning.attention}.json", values)

    def matched(self) -> dict[str, MatchedHost]:
        """The hosts at equal cost, by key; none where the plan does not ask for them."""
        path = self.root / "matched.json"
        with self._reading(path, "the hosts are then matched again"):
            values = read_json(path) if path.exists() else []
            return {value["attention"]: MatchedHost(**value) for value in values}

    def write_matched(self, hosts: Mapping[str, MatchedHost]) -> None:
        """Put ``matched.json`` in place."""
        write_json(self.root / "matched.json", [host._asdict() for host in hosts.values()])

    def measurement(self, attention: str) -> Measurement | None:
        """What was measured on a trained model, if it was."""
        path = self.root / "measured" / f"{attention}.json"
        with self._reading(path, "the trained model is then measured again"):
            found = _measurement(read_json(path)) if path.exists() else None
            return _of_key(found, found and found.attention, attention)

    def write_measurement(self, measurement: Measurement) -> None:
        """Put ``measured/KEY.json`` in place: with it the measuring is over."""
        (self.root / "measured").mkdir(exist_ok=True)
        values = asdict(measurement)
        for name in ("latency_ms", "in_runtime"):
            if values[name] is not None:
                values[name] = values[name]._asdict()
        if values["in_runtime"] is None:
            del values["in_runtime"]
        write_json(self.root / "measured" / f"{measurement.attention}.json", values)

    def attention_maps(self, attention: str) -> AttentionMaps | None:
        """The attention maps of a trained model, if they were computed."""
        path = self.root / "views" / f"{attention}.json"
        with self._reading(path, f"with measured/{attention}.json removed too, it is made again"):
            found = _attention_maps(read_json(path)) if path.exists() else None
            return _of_key(found, found and found.subject.attention, attention)

    def write_attention_maps(self, maps: AttentionMaps) -> None:
        """Put ``views/KEY.json`` in place."""
        (self.root / "views").mkdir(exist_ok=True)
        values = {
            **maps.subject._asdict(),
            "image": maps.image,
            "images": maps.images,
            "layers": [layer._asdict() for layer in maps.layers],
            "single": [one._asdict() for one in maps.single],
        }
        write_json(self.root / "views" / f"{maps.subject.attention}.json", values)

    def pictures(self) -> dict[int, list[list[Any]]]:
        """By number in the held-out split, pixels of the images that the report shows."""
        path = self.root / "pictures.json"
        with self._reading(path, "the report then shows no pictures of them"):
            values = read_json(path) if path.exists() else []
            return {int(one["image"]): one["pixels"] for one in values}

    def write_pictures(self, pictures: Mapping[int, list[list[Any]]]) -> None:
        """Put ``pictures.json`` in place."""
        values = [{"image": image, "pixels": pixels} for image, pixels in pictures.items()]
        write_json(self.root / "pictures.json", values)

    def overlays(self, attention: str) -> dict[int, np.ndarray]:
        """By number in the held-out split, what is laid over the images that the report shows.

        Labels (h, w), or boxes (n, 7): x1, y1, x2, y2, label, score, and whether it is right.

        Args:
            attention: the key of what was trained, or ``TRUTH`` for what is true.
        """
        path = self.root / "views" / f"{attention}.npz"
        with self._reading(path, "the report then shows none"):
            if not path.exists():
                return {}
            with np.load(path, allow_pickle=False) as arrays:
                return {int(image): arrays[image] for image in arrays.files}

    def write_overlays(self, attention: str, overlays: Mapping[int, np.ndarray]) -> None:
        """Put ``views/KEY.npz`` in place."""
        (self.root / "views").mkdir(exist_ok=True)
        with replacing(self.root / "views" / f"{attention}.npz") as file:
            arrays: dict[str, Any] = {str(image): array for image, array in overlays.items()}
            np.savez_compressed(file, **arrays)

    def host(self) -> HostRecord | None:
        """What a host of the user's own is, if the study has one."""
        path = self.root / "host.json"
        with self._reading(path, "the host is then looked at again"):
            if not path.exists():
                return None
            values = read_json(path)
            normal = {key: tuple(values["normalize"][key]) for key in ("mean", "std")}
            normal = Moments(**normal, images=values["normalize"]["images"])
            return HostRecord(**{**values, "normalize": normal})

    def write_host(self, host: HostRecord) -> None:
        """Put ``host.json`` in place."""
        write_json(
            self.root / "host.json", {**host._asdict(), "normalize": host.normalize._asdict()}
        )

    def settings(self) -> Settings | None:
        """What the files here were made with, if that was noted."""
        path = self.root / "settings.json"
        then = "the files there are then taken to be made under plan.yaml as it is"
        with self._reading(path, then):
            if not path.exists():
                return None
            values = read_json(path)
            rows = fields.mapping(values, "rows")
            return Settings(
                dict(fields.mapping(values, "shared")),
                {key: dict(fields.mapping(rows, key)) for key in rows},
            )

    def write_settings(self, settings: Settings) -> None:
        """Put ``settings.json`` in place."""
        write_json(self.root / "settings.json", settings._asdict())

    def environment(self) -> Environment | None:
        """Where the study ran, if that was noted."""
        path = self.root / "environment.json"
        with self._reading(path, "it is then noted anew"):
            return _environment(read_json(path)) if path.exists() else None

    def write_environment(self, environment: Environment) -> None:
        """Put ``environment.json`` in place."""
        values = asdict(environment)
        values["resumed"] = [resumption._asdict() for resumption in environment.resumed]
        values["nodes"] = [node._asdict() for node in environment.nodes]
        for name in ("resumed", "nodes"):
            if not values[name]:
                del values[name]
        write_json(self.root / "environment.json", values)

    @contextmanager
    def _reading(self, path: Path, then: str) -> Iterator[None]:
        """Say which file is damaged, and what to do about it."""
        try:
            yield
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DamagedRunError(self.root, path, error, then) from error


def _trial_values(trial: TrialRecord) -> dict[str, Any]:
    return {
        **trial.subject._asdict(),
        "seed": trial.seed,
        "host": trial.host,
        "status": trial.status,
        "error": trial.error,
        "epochs": trial.epochs,
        "parameters": trial.parameters,
        "multiply_adds": trial.multiply_adds,
        "metric": _metric_values(trial.metric),
        "score": trial.score,
        "loss": trial.loss,
        "history": [epoch._asdict() for epoch in trial.history],
        "train_seconds": trial.train_seconds,
        "train_images_per_second": trial.train_images_per_second,
        "lr": trial.lr,
        "reported_epoch": trial.reported_epoch,
        "health": None if trial.health is None else trial.health._asdict(),
        "settings": trial.settings,
    }


def _trial(values: Mapping[str, Any]) -> TrialRecord:
    status = fields.text(values, "status")
    if status not in ("done", "failed"):
        raise ValueError(f"status is {status!r}, where done or failed is expected")
    failed = status == "failed"
    known = ("lr", "reported_epoch", "health", "settings")
    values = {**dict.fromkeys(known), **values}  # 0.1 had none of them
    return TrialRecord(
        subject=_subject(values),
        seed=fields.whole(values, "seed"),
        host=fields.text(values, "host"),
        epochs=fields.whole(values, "epochs", least=1),
        metric=_metric(fields.mapping(values, "metric")) if "metric" in values else ACCURACY,
        error=(values["error"] or "no reason was recorded") if failed else None,
        score=fields.number(values, _score_key(values), optional=failed),
        loss=_loss(values),
        history=tuple(_epoch(value) for value in values["history"]),
        parameters=fields.whole(values, "parameters", optional=failed),
        multiply_adds=fields.whole(values, "multiply_adds", optional=failed),
        train_seconds=fields.number(values, "train_seconds", optional=failed),
        train_images_per_second=fields.number(values, "train_images_per_second", optional=failed),
        lr=fields.number(values, "lr", optional=True),
        reported_epoch=fields.whole(values, "reported_epoch", optional=True),
        health=_health(fields.mapping(values, "health")) if values["health"] else None,
        settings=dict(fields.mapping(values, "settings")) if values["settings"] else None,
    )


def _health(values: Mapping[str, Any]) -> Health:
    flags = (fields.flag(values, key) for key in ("at_chance", "diverged", "rising"))
    return Health(*flags, chance=fields.number(values, "chance", optional=True))


def _subject(values: Mapping[str, Any]) -> Subject:
    return Subject(
        attention=fields.text(values, "attention"),
        mechanism=fields.text(values, "mechanism"),
        label=fields.text(values, "label"),
        control=fields.flag(values, "control"),
        role=values.get("role"),
        family=values.get("family"),
    )


def _metric_values(metric: Metric) -> dict[str, Any]:
    """JSON knows no infinity: a bound that is none is null."""
    bounds = [bound if isfinite(bound) else None for bound in metric.bounds]
    return {**metric._asdict(), "bounds": bounds}


def _metric(values: Mapping[str, Any]) -> Metric:
    low, high = values["bounds"]
    bounds = (-inf if low is None else low, inf if high is None else high)
    return Metric(
        fields.text(values, "name"),
        fields.text(values, "unit"),
        fields.flag(values, "higher_is_better"),
        bounds,
    )


def _epoch(values: Mapping[str, Any]) -> EpochRecord:
    return EpochRecord(
        epoch=fields.whole(values, "epoch", least=1),
        train_loss=fields.any_number(values, "train_loss"),
        loss=_loss(values),
        score=fields.any_number(values, _score_key(values)),
        seconds=fields.any_number(values, "seconds"),
    )


def _loss(values: Mapping[str, Any]) -> float | None:
    """None where a trial failed, or the model gives none for held-out images."""
    return None if values["loss"] is None else fields.any_number(values, "loss")


def _score_key(values: Mapping[str, Any]) -> str:
    """Version 0.1 held an accuracy."""
    return "score" if "score" in values else ACCURACY.name


def _of_key(found: _Found, named: str | None, key: str) -> _Found:
    """What was found in a file of ``key``, if the file says the same."""
    if named not in (None, key):
        raise ValueError(f"it is of {named!r}, where {key!r} is expected")
    return found


def _measurement(values: Mapping[str, Any]) -> Measurement:
    elsewhere = _in_runtime(values)
    none = elsewhere is not None and elsewhere.error is not None
    return Measurement(
        attention=values["attention"],
        latency_ms=None if none else _latency(fields.mapping(values, "latency_ms")),
        peak_memory_mb=fields.number(values, "peak_memory_mb", optional=True),
        parameters=fields.whole(values, "parameters"),
        multiply_adds=fields.whole(values, "multiply_adds"),
        threads=fields.whole(values, "threads"),
        device=fields.text(values, "device"),
        energy_mj=values.get("energy_mj"),
        machine=values.get("machine"),
        in_runtime=elsewhere,
    )


def _latency(values: Mapping[str, Any]) -> Latency:
    return Latency(
        *(fields.number(values, name) for name in ("median", "p25", "p75")),
        *(fields.whole(values, name) for name in ("batch", "repeats")),
        processes=tuple(values.get("processes", ())),
        low=values.get("low"),
        high=values.get("high"),
    )


def _in_runtime(values: Mapping[str, Any]) -> InRuntime | None:
    """None where models were timed in PyTorch, as always in earlier versions."""
    if "in_runtime" not in values:
        return None
    found = fields.mapping(values, "in_runtime")
    return InRuntime(
        *(fields.text(found, name) for name in ("runtime", "version", "precision")),
        threads=fields.whole(found, "threads", least=1),
        processor=fields.text(found, "processor"),
        difference=fields.number(found, "difference", optional=True),
        error=None if found["error"] is None else fields.text(found, "error"),
        notes=fields.texts(found, "notes"),
    )


def _tuning(values: Mapping[str, Any]) -> Tuning:
    tried = tuple(
        Tried(
            fields.number(each, "lr"),
            fields.number(each, "score", optional=True),
            fields.number(each, "seconds"),
        )
        for each in values["tried"]
    )
    lr = fields.number(values, "lr")
    if lr not in [each.lr for each in tried]:
        raise ValueError(f"lr is {lr:g}, which is none of those tried")
    return Tuning(
        fields.text(values, "attention"),
        tried,
        lr,
        fields.whole(values, "images"),
        fields.whole(values, "selection"),
    )


def _attention_maps(values: Mapping[str, Any]) -> AttentionMaps:
    return AttentionMaps(
        subject=_subject(values),
        image=values["image"],
        images=int(values["images"]),
        layers=tuple(_layer(layer) for layer in values["layers"]),
        single=tuple(
            ImageMap(one["image"], (one["query"][0], one["query"][1]), one["map"])
            for one in values.get("single", ())
        ),
    )


def _layer(values: Mapping[str, Any]) -> LayerMap:
    row, column = values["query"]
    return LayerMap(values["layer"], (row, column), values["measure"], values["map"])


def _environment(values: Mapping[str, Any]) -> Environment:
    resumed = tuple(Resumption(r["at"], r["changed"]) for r in values.get("resumed", ()))
    nodes = tuple(Machine(**node) for node in values.get("nodes", ()))
    optional = ("resumed", "nodes")
    known = {n: values[n] for n in Environment.__dataclass_fields__ if n not in optional}
    return Environment(**known, resumed=resumed, nodes=nodes)

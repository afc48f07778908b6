"""What a file of weights says of its model: enough to build and use it, and nothing that runs.

It is one JSON value in the header of the safetensors file, under the file's checksum. What was put
into the model by :func:`foveate.insert` or :func:`foveate.replace` stands beside it as a recipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite, nan
from os import PathLike
from typing import Any, Literal, cast

from foveate import _fields as fields
from foveate._version import __version__
from foveate.data.annotations.record import Category, categories_of
from foveate.data.pixels.decode import ValueRange
from foveate.surgery._weights_file import DamagedFileError

FORMAT = 1
KEY = "foveate.model"
"""Of the JSON in the header of a file."""

Kind = Literal["classifier", "segmenter", "detector", "own"]
Fit = Literal["crop", "keep", "inside"]

_KINDS = ("classifier", "segmenter", "detector", "own")
_FITS = {"classification": "crop", "segmentation": "keep", "detection": "inside"}
_HEADED = ("auxiliary", "out_indices", "feature_norm")
_OF_WEIGHTS = (
    "cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
    "pretrained_strict",
)  # fmt: skip
"""Options of ``timm.create_model`` that read other files: a trained model has its weights here."""


@dataclass(frozen=True)
class Architecture:
    """How a model is built, before anything is put into it.

    Attributes:
        kind: ``"classifier"`` by ``timm.create_model``, ``"segmenter"`` by
            :func:`foveate.models.create_segmenter`, ``"detector"`` by
            :func:`foveate.models.create_detector`, or ``"own"`` by a function of the user's.
        backbone: timm's name; of kind own what ``--host`` names, ``FILE.py:FUNCTION``.
        backbone_options: of ``timm.create_model``, or of the user's function.
        head: of a segmenter or detector, its name.
        head_options: its ``head_options``.
        options: others of ``create_segmenter`` or ``create_detector``, such as ``auxiliary``.
        plain: whether these get the backbone as timm builds it, and not by its name, by which it
            has what its family's published networks for dense predictions have.
        imports: modules or files that register mechanisms of the user's own.
        digest: SHA-256 of the user's file.
    """

    kind: Kind
    backbone: str
    backbone_options: Mapping[str, Any] = field(default_factory=dict)
    head: str | None = None
    head_options: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    plain: bool = False
    imports: tuple[str, ...] = ()
    digest: str | None = None


@dataclass(frozen=True)
class ImageInput:
    """How images become the model's input.

    Attributes:
        channels: 1 or 3, that images are read in; a model of more gets grey images repeated.
        size: height and width that it was trained at.
        fit: ``"crop"``: resized to fill ``size`` and the middle cut out; ``"inside"``: resized to
            fit inside it; ``"keep"``: at their own size, and ``size`` is that of the crops that it
            was trained on.
        mean: of each channel of the model, of images in [0, 1].
        std: standard deviation, likewise.
        side: height and width towards which larger images are reduced when they are read; None for
            not at all.
        ranges: of the values of deep images that become 0 and 255, by kind.
        window: height and width of the windows that images are predicted by; None for whole ones.
    """

    channels: int
    size: tuple[int, int]
    fit: Fit
    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: tuple[int, int] | None = None
    ranges: Mapping[str, ValueRange] = field(default_factory=dict)
    window: tuple[int, int] | None = None


@dataclass(frozen=True)
class ModelInfo:
    """All that a file says of its model.

    Attributes:
        task: ``"classification"``, ``"segmentation"`` or ``"detection"``.
        architecture: how it is built.
        classes: names, in the order of the model's outputs.
        input: how it gets images.
        metrics: its values on the images held out, by name; shares are in [0, 1], and NaN is one
            that is not defined on them.
        categories: in detection, the classes with the ids that annotation files call them by.
        ignored: in segmentation, the label of pixels of masks that count nowhere.
        colors: in segmentation, what the list of classes paints each class with, if it says.
        foveate: the version that wrote it.
    """

    task: str
    architecture: Architecture
    classes: tuple[str, ...]
    input: ImageInput
    metrics: Mapping[str, float] = field(default_factory=dict)
    categories: tuple[Category, ...] | None = None
    ignored: int | None = None
    colors: tuple[tuple[int, int, int], ...] | None = None
    foveate: str = __version__

    def to_json(self) -> str:
        """As a file holds it.

        Raises:
            TypeError: if an option is no plain value; it is named.
        """
        values = {"format": FORMAT, **asdict(self)}
        values["metrics"] = {
            name: value if isfinite(value) else None for name, value in self.metrics.items()
        }
        values["input"]["ranges"] = {kind: list(pair) for kind, pair in self.input.ranges.items()}
        if self.categories is not None:
            values["categories"] = [each._asdict() for each in self.categories]
        built = values["architecture"]
        built["backbone_options"] = {
            key: value for key, value in built["backbone_options"].items()
            if self.architecture.kind == "own" or key not in _OF_WEIGHTS
        }  # fmt: skip
        for group in ("backbone_options", "head_options", "options"):
            for key, value in built[group].items():
                _check_plain(f"{group}: {key}", value)
        return json.dumps(values)

    @classmethod
    def from_json(cls, text: str, path: str | PathLike[str]) -> ModelInfo:
        """What :meth:`to_json` gave.

        Args:
            text: that.
            path: of the file, for messages.

        Raises:
            DamagedFileError: if it is damaged; file and key are named.
            ValueError: if it is of a later format.
        """
        try:
            values = json.loads(text)
            written = fields.whole(values, "format", least=1)
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path, error) from error
        if written > FORMAT:
            raise ValueError(
                f"{path} was written by a later Foveate (format {written}; this one reads up to "
                f"{FORMAT}): update foveate"
            )
        try:
            return _info(values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(path, error) from error


def _check_plain(name: str, value: Any) -> None:
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"a model cannot be described whose {name} is {value!r}: numbers, texts, and lists "
            "and mappings of such can be kept in a file"
        ) from error


def _damaged(path: str | PathLike[str], error: Exception) -> DamagedFileError:
    what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    return DamagedFileError(f"{path} is damaged: in what it says of its model: {what}")


def _info(values: Mapping[str, Any]) -> ModelInfo:
    classes = fields.texts(values, "classes")
    if not classes:
        raise ValueError("classes is empty")
    metrics = fields.mapping(values, "metrics")
    info = ModelInfo(
        task=fields.one_of(values, "task", _FITS),
        architecture=_architecture(fields.mapping(values, "architecture")),
        classes=classes,
        input=_input(fields.mapping(values, "input")),
        metrics={
            name: nan if metrics[name] is None else fields.number(metrics, name) for name in metrics
        },
        categories=_categories(values, len(classes)),
        ignored=fields.whole(values, "ignored", optional=True),
        colors=_colors(values, len(classes)),
        foveate=fields.text(values, "foveate"),
    )
    if info.input.fit != _FITS[info.task]:
        raise ValueError(f"fit is {info.input.fit!r}, where {_FITS[info.task]} is expected")
    if info.task == "detection" and info.categories is None:
        raise ValueError("categories is None, where those of a detector are expected")
    return info


def _architecture(values: Mapping[str, Any]) -> Architecture:
    kind = fields.one_of(values, "kind", _KINDS)
    backbone_options = dict(fields.mapping(values, "backbone_options"))
    options = dict(fields.mapping(values, "options"))
    for key in backbone_options:
        if kind != "own" and key in _OF_WEIGHTS:
            raise ValueError(f"backbone_options has {key!r}, which would read another file")
    for key in options:
        if key not in _HEADED:
            raise ValueError(f"options has {key!r}, where {' or '.join(_HEADED)} is expected")
    headed = kind in ("segmenter", "detector")
    return Architecture(
        kind,
        fields.text(values, "backbone"),
        backbone_options,
        fields.text(values, "head") if headed or values["head"] is not None else None,
        dict(fields.mapping(values, "head_options")),
        options,
        fields.flag(values, "plain"),
        fields.texts(values, "imports"),
        None if values["digest"] is None else fields.text(values, "digest"),
    )


def _input(values: Mapping[str, Any]) -> ImageInput:
    channels = fields.whole(values, "channels", least=1)
    if channels not in (1, 3):
        raise ValueError(f"channels is {channels}, where 1 or 3 is expected")
    ranges = fields.mapping(values, "ranges")
    mean = fields.numbers(values, "mean")
    std = fields.numbers(values, "std", len(mean))
    if len(mean) not in (channels, 3) or min(std) <= 0:
        raise ValueError(f"mean and std are {mean} and {std}, of images of {channels} channels")
    return ImageInput(
        channels,
        fields.size(values, "size"),
        fields.one_of(values, "fit", _FITS.values()),
        mean,
        std,
        fields.size(values, "side", optional=True),
        {kind: ValueRange(*fields.numbers(ranges, kind, 2)) for kind in ranges},
        fields.size(values, "window", optional=True),
    )


def _categories(values: Mapping[str, Any], classes: int) -> tuple[Category, ...] | None:
    listed = values["categories"]
    if listed is None:
        return None
    for each in listed:
        fields.whole(each, "id")
        fields.text(each, "name")
    if len(listed) != classes or len({each["id"] for each in listed}) != classes:
        raise ValueError(f"categories has not one id for each of {classes} classes")
    return categories_of(listed)


def _colors(values: Mapping[str, Any], classes: int) -> Any:
    listed = values["colors"]
    if listed is None:
        return None
    sound = isinstance(listed, list) and len(listed) == classes
    for color in listed if sound else [None]:
        in_range = isinstance(color, list) and len(color) == 3
        if not in_range or not all(type(part) is int and 0 <= part <= 255 for part in color):
            raise ValueError(f"colors is not three of 0 to 255 for each of {classes} classes")
    return cast(Any, tuple(map(tuple, listed)))

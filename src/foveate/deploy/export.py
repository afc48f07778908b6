"""``foveate.export``: a model into a file of another runtime, checked there before it is kept."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from errno import ENOSPC
from pathlib import Path
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN as IMAGENET_MEAN
from timm.data import IMAGENET_DEFAULT_STD as IMAGENET_STD
from torch import nn

from foveate._files import file_path, replacing_several
from foveate._version import __version__
from foveate.arguments import nearest, pair
from foveate.data.findings import images_of
from foveate.deploy.coreml import CoreMl
from foveate.deploy.executorch import ExecuTorch
from foveate.deploy.format import Format, Written
from foveate.deploy.images import (
    Accuracy,
    Labelled,
    Preparation,
    calibration_images,
    one_by_one,
)
from foveate.deploy.litert import LiteRt
from foveate.deploy.locate import first_module_beyond
from foveate.deploy.onnx import Onnx
from foveate.deploy.openvino import OpenVino
from foveate.deploy.program import Deployment, ExportError, first_line
from foveate.deploy.request import Request, Size, free_axes
from foveate.deploy.verify import BOUNDS, Difference, difference, expected_outputs, verify
from foveate.heads._anchor_head import AnchorHead
from foveate.saved.info import ModelInfo
from foveate.surgery.trace import image_channels

FORMATS: dict[str, Format] = {
    each.name: each for each in (Onnx(), OpenVino(), ExecuTorch(), LiteRt(), CoreMl())
}
"""By the names that ``to`` takes."""

_RESERVED = (
    "version", "format", "precision", "images", "difference", "bound", "checked", "notes",
    "accuracy",
)  # fmt: skip
"""What a file says of its check, which no words of the user's replace."""
_LITTLE = 2**16  # bytes of free space at which a failed write is a full disk


@dataclass(frozen=True)
class ExportResult:
    """A file that was written, and what its check found.

    Attributes:
        path: of the file.
        format: as ``to`` takes it.
        version: of the format, such as ``"opset 20"``.
        precision: of the file.
        shape: of the images that it takes, without the channels: ``"batch x 224 x 224"``.
        runtime: that it was checked in; empty where that cannot run here.
        differences: of each size that was checked.
        bound: of the differences.
        bytes: of the file and what lies beside it.
        seconds: that the export took, the check included.
        accuracy: before and after quantization, on the images that were given to evaluate.
        notes: what was chosen, left out or is to be known, a sentence each.
    """

    path: Path
    format: str
    version: str
    precision: str
    shape: str
    runtime: str
    differences: tuple[Difference, ...]
    bound: float
    bytes: int
    seconds: float
    notes: tuple[str, ...]
    accuracy: Accuracy | None = None

    @property
    def difference(self) -> float | None:
        """The largest relative difference; None where nothing was run."""
        return max((each.value for each in self.differences), default=None)

    @property
    def sizes(self) -> tuple[Size, ...]:
        """That were checked."""
        return tuple(each.size for each in self.differences)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        differences = {str(each.size): each.value for each in self.differences}
        found = {**asdict(self), "path": str(self.path), "differences": differences}
        accuracy = None if self.accuracy is None else self.accuracy._asdict()
        return {**found, "difference": self.difference, "accuracy": accuracy}

    def __str__(self) -> str:
        title = FORMATS[self.format].title
        lines = [
            f"{self.path}: {title} {self.version}, {self.precision}, images {self.shape}, "
            f"{self.bytes / 1e6:.1f} MB, {self.seconds:.0f} s"
        ]
        if self.difference is not None:
            sizes = ", ".join(map(str, self.sizes))
            lines.append(
                f"checked in {self.runtime} against the model at {sizes}: largest relative "
                f"difference {self.difference:.1e} (bound {self.bound:.0e})"
            )
        if self.accuracy is not None:
            before, after, count = self.accuracy
            lines.append(
                f"accuracy on {count:,} images: {before:.1%}, after quantization {after:.1%}"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    to: str | None = None,
    size: int | tuple[int, int] | None = None,
    dynamic: Sequence[str] | None = None,
    half: bool = False,
    int8: str | os.PathLike[str] | None = None,
    evaluate: str | os.PathLike[str] | None = None,
    channels: int | None = None,
    info: ModelInfo | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> ExportResult:
    """Write ``model`` for another runtime, and hold the file to the model there.

    ::

        result = foveate.export(model, "model.onnx", size=(224, 224))
        print(result)

    A copy is fused (:func:`foveate.fuse`), recorded by ``torch.export`` and written. The file is
    then run in its runtime on random images, at the stated size and, where axes are free, at five
    others, two of them awkward, and must give what the model as it was given gives, up to rounding.
    Otherwise there is no file, and the error says which module is the first to depart. The largest
    difference is kept in the file, or beside it in a JSON where the format has no place for it. The
    model is not changed.

    Args:
        model: any whose forward takes one tensor of images. Of a detector
            (:func:`foveate.models.create_detector`) what its head gives is written, without the
            postprocessing.
        path: of the file; ``.onnx``, ``.xml``, ``.pte``, ``.tflite`` or ``.mlpackage``.
        to: the format, where the name does not say it: ``"onnx"``, ``"openvino"``,
            ``"executorch"``, ``"litert"`` or ``"coreml"``.
        size: height and width of the images; None for the model's own.
        dynamic: axes that the file takes at any length: ``"batch"``, ``"height"``, ``"width"``. One
            that is not free is the size's, and of the batch 1. None: the batch where the format has
            free axes.
        half: weights in float16.
        int8: a folder of images to calibrate with: weights and inputs of products in 8 bits. The
            images are resized to fill the size and their middle is cut out; the check is made on
            them, at one size. For ONNX and ExecuTorch.
        evaluate: images with classes, such as a folder with one folder a class, on which the
            accuracy before and after quantization is counted.
        channels: of the images; None for what the model reads.
        info: of a trained model, as :func:`foveate.load` gives it: its size is the model's own, and
            the names of its classes and how images are normalised are kept with the file.
        metadata: further words to keep with the file.

    Returns:
        What was written and what the check found; printed, some sentences.

    Raises:
        ExportError: if the model refuses a size, cannot be recorded, uses an operator that the
            format lacks, or the file gives other numbers.
        ModuleNotFoundError: if the format's packages are missing; the extra is named.
        ValueError: if a size, an axis, the format or the path is none.
        OSError: if the file cannot be written; nothing half-written stays.
    """
    began = time.perf_counter()
    format_, place = _format_of(path, to)
    if half and int8 is not None:
        raise ValueError("half and int8 are two precisions: give one")
    if evaluate is not None and int8 is None:
        raise ValueError("evaluate counts what quantization costs: give int8 as well")
    precision = "float16" if half else "float32" if int8 is None else "int8"
    if info is not None:
        size, channels = size or info.input.size, channels or len(info.input.mean)
    request = _request(model, format_, size, dynamic, precision, channels)
    format_.check_installed()
    told = own_words(model) if info is None else words_of(info)
    notes = [*_of_one_size(request, info), *_fit_channels(told, request.channels)]
    words = {**told, **_anchors(model), **_checked_words(metadata or {})}
    if int8 is None:
        deployment = Deployment.of(model, request)
        deployment.notes += notes
        return carried_out(deployment, format_, place, words, began)
    prepare = _preparation(request, words)
    if info is not None:
        prepare = prepare._replace(ranges=info.input.ranges)
    images, broken = calibration_images(int8, prepare)
    deployment = Deployment.of(model, request, images)
    deployment.notes += [*notes, *_how_prepared(prepare, len(images))]
    if broken:
        deployment.notes.append(
            f"{len(broken)} of the images to calibrate with cannot be read: {', '.join(broken[:3])}"
        )
    asked = None if evaluate is None else Labelled(
        os.fspath(evaluate), prepare, words.get("classes") or _classes(deployment)
    )  # fmt: skip
    return carried_out(deployment, format_, place, words, began, asked)


def _of_one_size(request: Request, info: ModelInfo | None) -> list[str]:
    """What a file of one size asks of images that a trained model takes at sizes of their own."""
    if info is None or info.input.fit == "crop" or {"height", "width"} <= set(request.free):
        return []
    height, width = request.size
    asks = {
        "keep": f"images are to be cut into pieces of {height}x{width}",
        "inside": f"images are to be fitted into {height}x{width}, and padded with zeros at the "
        "bottom and the right",
    }
    return [
        f"the model takes images of many sizes, and this file one: {asks[info.input.fit]}; or free "
        "height and width (dynamic)"
    ]


def _anchors(model: nn.Module) -> dict[str, Any]:
    """Of a detector, the boxes that its offsets are of: what decodes the outputs needs them."""
    for head in (getattr(model, name, None) for name in ("bbox_head", "rpn_head")):
        if isinstance(head, AnchorHead):
            return {"anchors": asdict(head.anchors)}
    return {}


def _checked_words(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """The user's words for a file.

    Raises:
        ValueError: if one has a name that the check of the file uses, or cannot be kept as JSON.
    """
    for name, value in metadata.items():
        if name in _RESERVED:
            raise ValueError(f"metadata {name!r} is what a file's check says: take another name")
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"metadata {name!r} is no plain value: {value!r}") from error
    return metadata


def _preparation(request: Request, words: Mapping[str, Any]) -> Preparation:
    """As the model says that images are normalised, or else as for ImageNet."""
    stated = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, **words}
    _fit_channels(stated, request.channels)
    return Preparation(request, stated["mean"], stated["std"])


def _fit_channels(words: dict[str, Any], channels: int) -> list[str]:
    """Let mean and deviation be of so many channels, by their means; returns what is to be said."""
    stated = len(words.get("mean", ())) or channels
    if stated == channels:
        return []
    for name in ("mean", "std"):
        words[name] = [sum(words[name]) / stated] * channels
    return [
        f"the model states how {stated} channels are normalised and reads {channels}: mean "
        f"{words['mean'][0]:.3g} and deviation {words['std'][0]:.3g}, the means of those, are kept"
    ]


def _how_prepared(prepare: Preparation, count: int) -> list[str]:
    mean, std = (", ".join(f"{x:.3g}" for x in each) for each in (prepare.mean, prepare.std))
    return [
        f"calibrated with {images_of(count)}, resized to fill {prepare.request.size[0]}x"
        f"{prepare.request.size[1]}, the middle cut out, normalised by mean {mean} and std {std}"
    ]


def _classes(deployment: Deployment) -> int:
    """How many a classifier tells apart.

    Raises:
        ValueError: if it is none.
    """
    (first, *others) = deployment.outputs(deployment.images(deployment.request.stated, 0))
    if others or first.dim() != 2:
        raise ValueError("evaluate counts right answers of a classifier, which this model is not")
    return first.shape[1]


def carried_out(
    deployment: Deployment,
    format_: Format,
    place: Path,
    words: Mapping[str, Any],
    began: float,
    asked: Labelled | None = None,
) -> ExportResult:
    """Write, check and keep the file of a deployment.

    Args:
        deployment: what to write.
        format_: as what.
        place: where to.
        words: to keep with it.
        began: when, by ``time.perf_counter``.
        asked: images to count right answers on.
    """
    request = deployment.request
    bound = BOUNDS[request.precision]
    stated = request.stated
    expected_outputs(deployment, deployment.images(stated, 0), stated)
    accuracy = None
    place.parent.mkdir(parents=True, exist_ok=True)
    with replacing_several(place) as folder:
        file = folder / place.name
        try:
            written = format_.write(deployment, file)
            found = _checked(deployment, format_, file, bound)
            if asked is not None:
                accuracy = asked.accuracies(
                    one_by_one(deployment.outputs), one_by_one(format_.open(file))
                )
            said = {**words, **_words(deployment, format_, written, found, bound)}
            if accuracy is not None:
                said["accuracy"] = accuracy._asdict()
            format_.annotate(file, {f"foveate.{key}": _text(said[key]) for key in said})
        except Exception as error:
            # Writers say it in words of their own, and some take their part of a file away.
            needed = _LITTLE if isinstance(error, ExportError) else _LITTLE + deployment.bytes
            if shutil.disk_usage(folder).free < needed:
                raise OSError(ENOSPC, os.strerror(ENOSPC), str(place)) from error
            raise
        notes = [*deployment.notes, *written.notes]
        if isinstance(format_, OpenVino):
            notes.append(_at_default_precision(deployment, format_, file))
        size = sum(each.stat().st_size for each in folder.rglob("*") if each.is_file())
    return ExportResult(
        path=place,
        format=format_.name,
        version=written.version,
        precision=request.precision,
        shape=str(request),
        runtime=format_.runtime if format_.runs_here else "",
        differences=tuple(found),
        bound=bound,
        bytes=size,
        seconds=time.perf_counter() - began,
        notes=tuple(notes),
        accuracy=accuracy,
    )


def _checked(deployment: Deployment, format_: Format, file: Path, bound: float) -> list[Difference]:
    """The differences of a file that keeps the bound.

    Raises:
        ExportError: if it does not; where is said.
    """
    if not format_.runs_here:
        return []
    try:
        run = format_.open(file)
    except Exception as error:
        raise ExportError(
            f"{format_.runtime} cannot load the file that was written: {first_line(error)}"
        ) from error
    found = verify(deployment, run)
    worst = max(found, key=lambda each: each.value)
    if worst.value > bound:
        where = "8 bits are too few for it, or the images to calibrate with are of another kind"
        if deployment.request.precision != "int8":
            with torch.no_grad():
                where = first_module_beyond(deployment, format_, file.parent, worst.size, bound)
        raise ExportError(
            f"{format_.runtime} gives other numbers than the model on images of {worst.size}: "
            f"relative difference {worst.value:.1e}, above the bound {bound:.0e} of "
            f"{deployment.request.precision}; {where}. Nothing was kept"
        )
    return found


def _at_default_precision(deployment: Deployment, format_: OpenVino, file: Path) -> str:
    images = deployment.images(deployment.request.stated, seed=1)
    far = difference(format_.open_default(file)(images), deployment.outputs(images))
    return f"in OpenVINO's default precision on this machine the difference is {far:.1e}"


def _words(
    deployment: Deployment,
    format_: Format,
    written: Written,
    found: Sequence[Difference],
    bound: float,
) -> dict[str, Any]:
    request = deployment.request
    return {
        "version": __version__,
        "format": f"{format_.title} {written.version}",
        "precision": request.precision,
        "images": str(request),
        "difference": max((each.value for each in found), default=None),
        "bound": bound,
        "checked": {str(each.size): each.value for each in found},
        "notes": [*deployment.notes, *written.notes],
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def own_words(model: nn.Module) -> dict[str, Any]:
    """What a model of timm's says of itself: its name, and how images are normalised for it."""
    config = getattr(model, "pretrained_cfg", None) or {}
    names = ("architecture", "tag", "mean", "std", "interpolation", "crop_pct")
    return {name: config[name] for name in names if name in config}


def words_of(info: ModelInfo) -> dict[str, Any]:
    """What a trained model's file says that whoever runs an export needs: classes and images."""
    return {
        "task": info.task,
        "architecture": info.architecture.backbone,
        **({} if info.architecture.head is None else {"head": info.architecture.head}),
        "classes": list(info.classes),
        "fit": info.input.fit,
        "mean": list(info.input.mean),
        "std": list(info.input.std),
    }


def _format_of(path: str | os.PathLike[str], to: str | None) -> tuple[Format, Path]:
    """The format, and the path with its suffix.

    Raises:
        ValueError: if neither says a format, or they say two.
    """
    by_suffix = {each.suffix: each for each in FORMATS.values()}
    place = Path(path)
    found = by_suffix.get(place.suffix.lower())
    if to is not None and to not in FORMATS:
        raise ValueError(f"to takes {', '.join(FORMATS)}, got {to!r}{nearest(to, list(FORMATS))}")
    if to is None and found is None:
        kinds = ", ".join(f"{each.suffix} ({each.title})" for each in FORMATS.values())
        raise ValueError(f"{place} does not say a format by its suffix: {kinds}; or give to=")
    format_ = FORMATS[to] if to else found
    assert format_ is not None
    if found is None or found is not format_:
        if place.suffix in by_suffix:
            raise ValueError(
                f"{place} is the name of a file of {by_suffix[place.suffix].title}, and "
                f"{format_.title} is asked for: {place.with_suffix(format_.suffix)}"
            )
        if not place.is_dir():
            place = place.with_name(place.name + format_.suffix)
    if not (place.suffix == CoreMl.suffix and (place / "Manifest.json").is_file()):
        file_path(place, f"model{format_.suffix}")
    return format_, place


def _request(
    model: nn.Module,
    format_: Format,
    size: int | tuple[int, int] | None,
    dynamic: Sequence[str] | None,
    precision: Any,
    channels: int | None,
) -> Request:
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module to export, got {type(model).__name__}")
    config = getattr(model, "pretrained_cfg", None) or {}
    own = config.get("input_size", (image_channels(model), 224, 224))
    height, width = pair(tuple(own[1:]) if size is None else size, "size")
    wanted = ("batch",) if dynamic is None and "batch" in format_.free else dynamic or ()
    free = free_axes(wanted)
    fixed = [axis for axis in free if axis not in format_.free]
    if fixed:
        other = [each.title for each in FORMATS.values() if set(fixed) <= set(each.free)]
        raise ValueError(
            f"{format_.title} is written for fixed sizes, and dynamic has {', '.join(fixed)}: "
            f"leave that out and export a file a size, or use {' or '.join(other)}"
        )
    if precision not in format_.precisions:
        others = [each.title for each in FORMATS.values() if precision in each.precisions]
        raise ValueError(
            f"{format_.title} is not written in {precision}; {' and '.join(others)} can be"
        )
    if precision == "int8" and {"height", "width"} & set(free):
        raise ValueError("int8 is calibrated at one size: leave height and width out of dynamic")
    if channels is not None and channels < 1:
        raise ValueError(f"channels must be at least 1, got {channels}")
    return Request((height, width), channels or image_channels(model), free, precision)

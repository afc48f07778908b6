"""From a trained model's file and images to files of what it finds, with nothing else at hand."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch

from foveate.arguments import positive
from foveate.data.findings import Duplicates, Findings, LeftOut, printable
from foveate.prediction.base import Predictor, Shown
from foveate.prediction.files import Named, find_images
from foveate.prediction.page import MOST, write_page
from foveate.prediction.reading import Picture, PictureReader
from foveate.prediction.tables import write_table
from foveate.saved.info import ModelInfo
from foveate.saved.load import LoadedModel, load, model_file, read_info
from foveate.study.plan import device_of

TOP_K = 5
SCORE_THRESHOLD = 0.5
UNREADABLE = "unreadable.csv"
_NAMED = 3
_FITS = {
    "crop": "resized to fill {0}x{1} and the middle cut out",
    "inside": "resized to fit inside {0}x{1}",
    "keep": "at their own size",
}

Path_ = str | PathLike[str]


class PredictionResult(NamedTuple):
    """What was predicted.

    Attributes:
        out: the folder with the results.
        page: the page to look at.
        images: how many were predicted.
        unreadable: those that could not be read, with the reason.
        said: what there is and what was decided, a line each.
    """

    out: Path
    page: Path
    images: int
    unreadable: tuple[LeftOut, ...]
    said: tuple[str, ...]


def predict(
    checkpoint: Path_,
    images: Path_ | Sequence[Path_],
    out: Path_,
    *,
    top_k: int | None = None,
    score_threshold: float | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    threads: int | None = None,
    host: str | None = None,
    imports: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> PredictionResult:
    """Let a trained model say what it finds in images, and leave that as files.

    Images are read, brought to size and normalized as in training, and what is found is brought
    back to the image as it is (upright, where EXIF says how). Written are, by the model's task:
    ``predictions.csv`` with the likeliest classes; ``masks/`` and ``overlays/``; or
    ``detections.json``, COCO's form of results, and ``predictions.csv``; and ``index.html``, a page
    that shows it.

    ::

        foveate.predict("runs/flowers/trials/slide-seed0", "photos", "out")

    Args:
        checkpoint: as for :func:`foveate.load`.
        images: files, folders with all below them, and lists: text files with a path a line.
        out: the folder for results, which must be new or empty.
        top_k: in classification, classes named of each image; 5 where None.
        score_threshold: in detection, objects of a lower score are left out; 0.5 where None.
        batch_size: images a batch; 32, 8 in segmentation, 4 in detection where None.
        device: cpu, cuda, mps or auto: cuda where there is one.
        threads: CPU threads; as PyTorch decides where None.
        host: as for :func:`foveate.load`.
        imports: likewise.
        progress: called with the images done and their number.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if the file is no model, an option is of another task, ``out`` is not empty, no
            image is there or none can be read, or results cannot be written.
    """
    file = model_file(checkpoint)
    options = _options(read_info(file), top_k, score_threshold)
    if batch_size is not None:
        positive(batch_size, "batch_size")
    if threads is not None:
        torch.set_num_threads(positive(threads, "threads"))
    device = device_of(device)
    folder = Path(out).expanduser()
    _check_out(folder)
    several = [images] if isinstance(images, str | PathLike) else images
    found, passed_over = find_images([os.fspath(each) for each in several], folder)
    loaded = load(file, host=host, imports=imports, device=device)
    predictor = predictor_of(loaded, device, found, options)
    reader = PictureReader(found, loaded.info.input)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shown, done = _run(reader, predictor, folder, batch_size, progress)
        _check_some(reader, folder)
        tables = predictor.finish(folder)
        said = [*tables, *_said(loaded.info, passed_over, reader)]
        _write_unreadable(reader.left_out, folder)
        title = file.parent.name if file.stem == "model" else file.stem
        page = write_page(folder, title, loaded.info, shown, done, reader.left_out, said)
    except OSError as error:
        raise _unwritable(error, folder) from error
    return PredictionResult(folder, page, done, tuple(reader.left_out), tuple(said))


class Options(NamedTuple):
    """What may be said of a task's results.

    Attributes:
        top_k: classes named of an image.
        score_threshold: objects of a lower score are left out.
    """

    top_k: int = TOP_K
    score_threshold: float = SCORE_THRESHOLD


_USUAL = Options()


def _options(info: ModelInfo, top_k: int | None, score_threshold: float | None) -> Options:
    """The options, of which none may be of another task."""
    of_task = {"classification": "top_k", "detection": "score_threshold"}
    given = {"top_k": top_k, "score_threshold": score_threshold}
    for name, value in given.items():
        if value is not None and of_task.get(info.task) != name:
            task = next(task for task, option in of_task.items() if option == name)
            raise ValueError(f"{name} is for {task}, and the model is of {info.task}")
    if top_k is not None:
        positive(top_k, "top_k")
    least = SCORE_THRESHOLD if score_threshold is None else score_threshold
    if type(least) not in (int, float) or not 0 <= least <= 1:
        raise ValueError(f"score_threshold must be in [0, 1], got {score_threshold!r}")
    return Options(top_k or TOP_K, least)


def _check_out(folder: Path) -> None:
    if "\0" in str(folder):
        raise ValueError(f"no folder can be called {str(folder)!r}: there is a NUL byte in it")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out {str(folder)!r} is a file: name a folder for the results")
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"out {str(folder)!r} is not empty: name another folder, or empty it, so that the "
            "results of one run do not stand among those of another"
        )


def predictor_of(
    loaded: LoadedModel, device: str, images: Sequence[Named], options: Options = _USUAL
) -> Predictor:
    """What predicts images of the model's task."""
    if loaded.info.task == "classification":
        from foveate.prediction.classification import Labels

        return Labels(loaded, device, options.top_k)
    if loaded.info.task == "segmentation":
        from foveate.prediction.segmentation import Masks

        return Masks(loaded, device, images)
    from foveate.prediction.detection import Objects

    return Objects(loaded, device, images, options.score_threshold)


def _run(
    reader: PictureReader,
    predictor: Predictor,
    folder: Path,
    batch_size: int | None,
    progress: Callable[[int, int], None],
) -> tuple[list[Shown], int]:
    """Predict and write, batch by batch; images for the page, and how many there were."""
    total, tried, done = len(reader.images), 0, 0
    shown: list[Shown] = []

    def advance(count: int) -> None:
        nonlocal tried
        tried += count
        progress(tried, total)

    with torch.inference_mode():
        for pictures in reader.batches(batch_size or predictor.batch_size, advance):
            for picture, found in zip(pictures, _predicted(predictor, pictures), strict=True):
                predictor.write(folder, picture, found)
                if len(shown) < MOST:
                    shown.append(predictor.show(picture, found))
                done += 1
    return shown, done


def _predicted(predictor: Predictor, pictures: list[Picture]) -> list[Any]:
    """What the model finds, or which images it stumbles over."""
    try:
        return predictor.predict(pictures)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"no memory is left for a batch of {len(pictures)} images: take a smaller batch_size "
            "(--batch-size), or the processor (--device cpu)"
        ) from error
    except (RuntimeError, ValueError) as error:
        first, *rest = pictures
        which = f"{printable(first.name)!r} ({first.size[0]}x{first.size[1]})"
        others = f" and {len(rest)} others" if rest else ""
        raise ValueError(f"the model does not run on {which}{others}: {error}") from error


def _check_some(reader: PictureReader, folder: Path) -> None:
    if len(reader.left_out) < len(reader.images):
        return
    with suppress(OSError):
        folder.rmdir()
    first = reader.left_out[0]
    every = f"none of {len(reader.images):,} images" if len(reader.images) > 1 else "the image"
    can = "can be read, first" if len(reader.images) > 1 else "cannot be read:"
    raise ValueError(f"{every} {can} {printable(first.name)!r} ({first.reason})")


def _said(info: ModelInfo, passed_over: Iterable[LeftOut], reader: PictureReader) -> list[str]:
    """How images were read, what was passed over, and what could not be read."""
    channels = "gray" if info.input.channels == 1 else "color"
    fit = _FITS[info.input.fit].format(*info.input.size)
    lines = [f"images are read in {channels}, {fit}, as in training"]
    findings = Findings.of([], reader.kinds, reader.notes, [], Duplicates())
    lines += findings.lines()
    for why, count in Counter(each.reason for each in passed_over).items():
        lines.append(f"passed over, {why}: {count:,}")
    if reader.left_out:
        named = [f"{printable(each.name)} ({each.reason})" for each in reader.left_out[:_NAMED]]
        more = f" and others, listed in {UNREADABLE}" if len(reader.left_out) > _NAMED else ""
        lines.append(
            f"unreadable: {len(reader.left_out):,} of {len(reader.images):,} images: "
            f"{', '.join(named)}{more}"
        )
    return lines


def _write_unreadable(left_out: Sequence[LeftOut], folder: Path) -> None:
    if left_out:
        rows = [(printable(each.name), each.reason) for each in left_out]
        write_table(folder / UNREADABLE, ("file", "reason"), rows)


def _unwritable(error: OSError, folder: Path) -> ValueError:
    what = error.filename or folder
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ValueError(
            f"the disk is full: {what} could not be written; free some space, empty {folder} and "
            "predict again"
        )
    return ValueError(f"{what} cannot be written: {error.strerror or error}")

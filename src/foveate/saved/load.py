"""A trained model from its file alone."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

import foveate.surgery.plain_convolution  # noqa: F401  recipes of studies name it
from foveate._user_code import import_all
from foveate.saved.info import KEY, ModelInfo
from foveate.saved.rebuild import rebuild
from foveate.surgery import load as load_state
from foveate.surgery._weights_file import DamagedFileError, read_words

WEIGHTS = "model.safetensors"
"""What a training calls the file of its model."""

_NAMED = 12


class LoadedModel(NamedTuple):
    """A trained model and what its file says of it.

    Attributes:
        model: in evaluation mode.
        info: how it is built, its classes, how it gets images, its metrics.
    """

    model: nn.Module
    info: ModelInfo


def load(
    path: str | PathLike[str],
    *,
    host: str | None = None,
    imports: Sequence[str] = (),
    device: str = "cpu",
) -> LoadedModel:
    """A trained model from its file, with nothing else of the study or training.

    ::

        model, info = foveate.load("runs/flowers/trials/slide-seed0")
        info.classes, info.input.size, info.metrics

    No code comes from the file. Where a model needs code of yours, you name it here: a host that a
    function of yours builds, or mechanisms that your modules register.

    Args:
        path: of the file, or of the folder that holds its ``model.safetensors``.
        host: for a model that was trained in a host of your own, ``FILE.py:FUNCTION`` that builds
            it, as for ``foveate compare --host``; the file is run.
        imports: modules or files that register mechanisms of your own; they are imported.
        device: where to put the model.

    Returns:
        The model and what its file says of it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, says nothing of its model, is of a later format, or needs code
            that was not named here.
    """
    file = model_file(path)
    info = read_info(file)
    import_all(imports)
    model = _build(file, info, host, imports)
    example = torch.zeros(2, len(info.input.mean), *info.input.size)
    try:
        model = load_state(model, file, example=example)
    except DamagedFileError:
        raise
    except ValueError as error:
        needs = _needs(info, host, imports)
        raise ValueError(f"{file} does not fit what it says of itself: {error}{needs}") from error
    model = model.eval().to(memory_format=torch.channels_last)  # pyrefly: ignore
    return LoadedModel(model.to(device), info)


def model_file(path: str | PathLike[str]) -> Path:
    """The file of weights that ``path`` names: itself, or what lies in the folder.

    Raises:
        FileNotFoundError: if there is none; of a study's folder, its trials are named.
        ValueError: if it is a checkpoint of an unfinished training.
    """
    found = Path(path).expanduser()
    if found.suffix == ".ckpt" and found.is_file():
        raise ValueError(
            f"{found} is a checkpoint to go on training from; the model is in {WEIGHTS}, which is "
            "written when the training is over"
        )
    if found.is_file():
        return found
    if not found.exists():
        raise FileNotFoundError(f"no model at {str(path)!r}: there is no such file or folder")
    if (found / WEIGHTS).is_file():
        return found / WEIGHTS
    inside = sorted(
        each.parent for pattern in ("*", "trials/*") for each in found.glob(f"{pattern}/{WEIGHTS}")
    )
    if inside:
        names = ", ".join(str(each) for each in inside[:_NAMED])
        more = f" and {len(inside) - _NAMED} more" if len(inside) > _NAMED else ""
        raise FileNotFoundError(
            f"{found} holds several trained models, name one: {names}{more}"
            if len(inside) > 1
            else f"{found} holds no {WEIGHTS}; did you mean {names}?"
        )
    if any(found.glob("*.ckpt")):
        raise FileNotFoundError(
            f"{found} holds no {WEIGHTS} but a checkpoint: its training is not finished"
        )
    raise FileNotFoundError(f"{found} holds no {WEIGHTS}: name the folder of a trained model")


def read_info(file: Path) -> ModelInfo:
    """What a file says of its model; the weights are not read.

    Raises:
        ValueError: if it is damaged, of a later format, or says nothing.
    """
    words = read_words(file)
    if KEY not in words:
        whose = "Foveate 0.1 or another program" if "foveate" not in words else "an earlier Foveate"
        raise ValueError(
            f"{file} does not say what model it holds ({whose} wrote it): build the model as it "
            "was built then and call foveate.surgery.load(model, path), or train it again"
        )
    return ModelInfo.from_json(words[KEY], file)


def _build(file: Path, info: ModelInfo, host: str | None, imports: Sequence[str]) -> nn.Module:
    built = info.architecture
    if host is not None and built.kind != "own":
        raise ValueError(f"{file} is of {built.backbone}, which needs no host of your own")
    if built.kind == "own":
        host = _own_host(file, info, host)
    try:
        return rebuild(built, len(info.classes), code=host)
    except (ValueError, TypeError, RuntimeError, AssertionError) as error:
        needs = _needs(info, host, imports)
        raise ValueError(f"{file}: the model cannot be built: {error}{needs}") from error


def _own_host(file: Path, info: ModelInfo, host: str | None) -> str:
    """The user's code, checked against what the file says of it; saying so where it has changed."""
    built = info.architecture
    if host is None:
        raise ValueError(
            f"{file} was trained in a model of your own, built by {built.backbone}: name that code "
            f"to allow it to run, with host='{built.backbone}' (--host on the command line)"
        )
    name, _, function = host.rpartition(":")
    if not name.endswith(".py") or not function.isidentifier():
        raise ValueError(f"host must be FILE.py:FUNCTION, got {host!r}")
    path = Path(name).expanduser().resolve()
    if path.is_file() and built.digest not in (None, hashlib.sha256(path.read_bytes()).hexdigest()):
        warnings.warn(
            f"{path} has changed since {file} was trained; where the weights still fit, what the "
            "model computes may be something else",
            stacklevel=4,
        )
    return f"{path}:{function}"


def _needs(info: ModelInfo, host: str | None, imports: Sequence[str]) -> str:
    """What of the user's own code the file names and the call does not."""
    given = {Path(name).name for name in imports}
    missing = [name for name in info.architecture.imports if Path(name).name not in given]
    if not missing:
        return ""
    return (
        "; it was trained with code of your own, to be named by imports (--imports): "
        f"{', '.join(missing)}"
    )

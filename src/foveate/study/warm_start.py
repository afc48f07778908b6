"""Beginning from weights that are there: of a file, or those that timm has for the model.

Taken is what fits by name and shape; the rest starts fresh, and both are said. In segmentation and
detection the weights may be of the whole network or of its backbone alone, whichever fits more.
"""

from __future__ import annotations

import re
import sys
import warnings
from typing import Any, NamedTuple

import timm
from torch import Tensor, nn

from foveate.published import read_weights
from foveate.saved.info import ImageInput
from foveate.saved.load import model_file, read_info
from foveate.surgery.trace import image_channels

TIMM = "timm"
"""In place of a file: the weights that timm has under the model's name."""

_LEAST = 0.5
_NAMED = 3
_FLAT = re.compile(r"^([a-z_]+?)_(\d+)\.")
"""How timm calls stages of a network that gives its maps: ``layers_1`` for ``layers.1``."""


class _Fit(NamedTuple):
    """Weights that fit a part of a model.

    Attributes:
        part: that is filled.
        name: of it, for messages.
        taken: the entries that fit.
        fresh: names of the part's entries that are not there, or of another shape.
        unused: names of the file's entries that the part has no place for.
    """

    part: nn.Module
    name: str
    taken: dict[str, Tensor]
    fresh: list[str]
    unused: list[str]

    @property
    def numbers(self) -> int:
        """How many numbers are taken."""
        return sum(tensor.numel() for tensor in self.taken.values())

    @property
    def share(self) -> float:
        """Of the part's numbers, those that are taken."""
        return self.numbers / sum(tensor.numel() for tensor in self.part.state_dict().values())


class Started(NamedTuple):
    """What came of weights.

    Attributes:
        said: what was taken, what starts fresh and what is not used, a sentence each.
        whole: whether all numbers of the model are theirs, so that it knows its classes.
    """

    said: list[str]
    whole: bool


def warm_start(model: nn.Module, weights: str, name: str) -> Started:
    """Fill ``model`` with what fits of ``weights``, in place.

    Args:
        model: before anything is put into it.
        weights: a file of weights, a folder of a training of ours, or :data:`TIMM`.
        name: timm's name of the model or of its backbone.

    Raises:
        ValueError: if there is no such file, it cannot be read, or less than half of the model's
            numbers fit.
    """
    said: list[str] = []
    parts = [(model, type(model).__name__)]
    if isinstance(getattr(model, "backbone", None), nn.Module):
        backbone: Any = model.backbone
        parts.append((getattr(backbone, "model", backbone), "the backbone"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = max((_fit(part, what, weights, name, said) for part, what in parts),
                    key=lambda fit: fit.numbers)  # fmt: skip
    if found.share < _LEAST:
        raise ValueError(
            f"weights {weights}: only {found.share:.0%} of the numbers of {found.name} are in it "
            f"under their names and in their shapes; missing are {_some(found.fresh)}"
        )
    found.part.load_state_dict(found.taken, strict=False)
    before = input_of(weights)
    if before is not None and len(before.mean) == image_channels(model):
        config = dict(getattr(model, "pretrained_cfg", None) or {})
        model.pretrained_cfg = {**config, "mean": before.mean, "std": before.std}  # pyrefly: ignore
        said.append("images are normalized as in its training")
    said += [str(warning.message) for warning in caught if warning.category is UserWarning]
    told = [f"weights {weights}: {each}" for each in [*dict.fromkeys(said), *_told(found)]]
    return Started(told, found.part is model and not found.fresh)


def input_of(weights: str) -> ImageInput | None:
    """How a model of ours got its images, if ``weights`` are of one whose file says so."""
    if weights == TIMM:
        return None
    try:
        return read_info(model_file(weights)).input
    except (OSError, ValueError):
        return None  # of another program; what is wrong with it is said where it is read


def _told(found: _Fit) -> list[str]:
    sentences = [f"{found.share:.1%} of the numbers of {found.name} are taken from it"]
    if found.fresh:
        sentences.append(f"{_some(found.fresh)} start fresh")
    if found.unused:
        sentences.append(f"{_some(found.unused)} of it are not used")
    return sentences


def _fit(part: nn.Module, what: str, weights: str, name: str, said: list[str]) -> _Fit:
    state = _state(part, weights, name, said)
    own = part.state_dict()
    for key in own:
        listed = _FLAT.sub(r"\1.\2.", key)
        if key not in state and listed in state:
            state[key] = state.pop(listed)
    taken = {key: state[key] for key in own if key in state and state[key].shape == own[key].shape}
    fresh = [key for key in own if key not in taken and not key.endswith("num_batches_tracked")]
    unused = [key for key in state if key not in own or key in fresh]
    return _Fit(part, what, taken, fresh, unused)


def _state(part: nn.Module, weights: str, name: str, said: list[str]) -> dict[str, Tensor]:
    if weights == TIMM:
        return of_timm(name)
    try:
        path = model_file(weights)
    except FileNotFoundError as error:
        raise ValueError(f"weights: {error}") from None
    return dict(resampled(part, read_weights(part, path), said))


def resampled(model: nn.Module, state: dict[str, Tensor], said: list[str]) -> dict[str, Tensor]:
    """``state`` as timm's own reading of files makes it fit: other names, other sizes of images."""
    convert = getattr(sys.modules.get(type(model).__module__), "checkpoint_filter_fn", None)
    own = model.state_dict()
    fits = [key for key in state if key in own and own[key].shape == state[key].shape]
    if convert is None or len(fits) == len(own):
        return state
    made = dict(convert(dict(state), model))
    other = [key for key in made if key in state and made[key].shape != state[key].shape]
    if other:
        said.append(f"resampled for the size of the images: {', '.join(other)}")
    return made


def of_timm(name: str) -> dict[str, Tensor]:
    """The weights that timm has of a model.

    Raises:
        ValueError: if it has none, or they cannot be had.
    """
    try:
        config = timm.get_pretrained_cfg(name)
        if config is None or not config.has_weights:
            raise ValueError(f"timm has no weights of {name}")
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except ValueError:
        raise
    except Exception as error:  # as many kinds as there are ways to fail to reach a server
        first = str(error).splitlines()[0] if str(error) else ""
        raise ValueError(
            f"weights of {name} could not be had from timm: {type(error).__name__}: {first}"
        ) from error


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} others" if more > 0 else "")

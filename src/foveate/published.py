"""Loading the weights of published implementations: strict, whole or not at all."""

from __future__ import annotations

import argparse
import copy
import os
import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from foveate.arguments import nearest

_WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.")
_LISTED = 20

_Module = TypeVar("_Module", bound=nn.Module)


def load_published(module: _Module, state: Mapping[str, Any] | str | os.PathLike[str]) -> _Module:
    """Load the weights of a published implementation into ``module``, in place.

    Names and layouts are first translated by the module's ``convert_published(state)``, if it
    has one; a state of the module's own passes. Then every entry must fit; where one does not, the
    module stays as it was.

    Args:
        module: the module to fill.
        state: tensors by name; or a mapping that holds them as ``"state_dict_ema"``,
            ``"model_ema"``, ``"ema"``, ``"state_dict"``, ``"model"`` or ``"net"``, the first of
            these that is there; or the path of a ``.safetensors`` or PyTorch file of either (read
            with ``weights_only=True``; an ``argparse.Namespace`` beside the weights is read, and
            nothing is executed). A ``module.``, ``_orig_mod.``, ``backbone.`` or ``encoder.``
            before every name is taken off. What the module's ``load_state_dict`` resamples, such as
            the position embeddings of another image size, is resampled, with a warning.

    Returns:
        ``module``.

    Raises:
        TypeError: if ``module``, ``state`` or an entry of it is of the wrong type.
        ValueError: if the file cannot be read as weights, or entries are missing, left over or
            of the wrong shape; the message names them.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected a torch.nn.Module to load into, got {type(module).__name__}")
    if isinstance(state, str | os.PathLike):
        state = _read(Path(state))
    own = module.state_dict()
    tensors = _under_own_names(module, tensors_of(state, own), own)
    if not _resamples(module, own, tensors):
        _check_fit(type(module).__name__, own, tensors)
    module.load_state_dict(tensors)
    return module


def _resamples(module: nn.Module, own: Mapping[str, Tensor], state: dict[str, Tensor]) -> bool:
    """Whether only shapes differ, and the module's own loading makes them fit, which is said."""
    if own.keys() != state.keys():
        return False
    other = [key for key in own if own[key].shape != state[key].shape]
    if not other:
        return False
    try:
        copy.deepcopy(module).load_state_dict(dict(state))
    except RuntimeError:
        return False
    warnings.warn(f"resampled to the size of the module: {_some(other)}", stacklevel=3)
    return True


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read as weights alone: {error}\n"
            "If you trust the file, name the classes it holds in "
            "torch.serialization.safe_globals([...]) around this call"
        ) from error


def tensors_of(state: Any, own: Iterable[str]) -> dict[str, Tensor]:
    """The tensors by name, out of their wrapper, without what ``nn.DataParallel`` put before.

    Args:
        state: as for :func:`load_published`, but no path.
        own: the names that the module itself has.

    Raises:
        TypeError: if ``state`` or an entry of it is of the wrong type.
    """
    return _without_prefix(_tensors(state), own)


def _under_own_names(
    module: nn.Module, given: dict[str, Tensor], own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """``given`` converted, or as it is if it is the module's own and conversion would break it."""
    is_own = given.keys() == own.keys()
    try:
        tensors = converted(module, given)
    except ValueError:
        if is_own:
            return given
        raise
    return given if is_own and tensors.keys() != own.keys() else tensors


def _tensors(state: Any) -> dict[str, Tensor]:
    """The tensors by name, out of their wrapper."""
    if isinstance(state, nn.Module):
        raise TypeError("expected tensors by name, got a module; pass its state_dict()")
    if not isinstance(state, Mapping):
        raise TypeError(f"expected tensors by name, or a path, got {type(state).__name__}")
    for wrapper in _WRAPPERS:
        if isinstance(state.get(wrapper), Mapping):
            return _tensors(state[wrapper])
    for key, value in state.items():
        if not isinstance(key, str):
            raise TypeError(f"entries must be named by strings, got {key!r}")
        if not isinstance(value, Tensor):
            raise TypeError(f"entry {key!r} must be a torch.Tensor, got {type(value).__name__}")
    return dict(state)


def _without_prefix(state: dict[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """Take off what wrappers (nn.DataParallel, torch.compile, ...) put before every name."""
    own = list(own)
    for prefix in _PREFIXES:
        wrapped = state and all(key.startswith(prefix) for key in state)
        if wrapped and not any(key.startswith(prefix) for key in own):
            bare = {key.removeprefix(prefix): value for key, value in state.items()}
            return _without_prefix(bare, own)
    return state


def converted(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` through the module's ``convert_published``, if it has one.

    Raises:
        ValueError: if an entry that this needs is missing or of another shape.
    """
    convert = getattr(module, "convert_published", None)
    if convert is None:
        return state
    names = list(state)
    try:
        return convert(state)
    except KeyError as error:
        raise ValueError(
            f"{type(module).__name__} cannot load these weights: "
            f"missing {error.args[0]!r}{nearest(str(error.args[0]), names)}"
        ) from error
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"{type(module).__name__} cannot load these weights: an entry of unexpected shape "
            f"({error}) among {_some(names)}"
        ) from error


def _check_fit(name: str, own: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Raise unless ``state`` has the names, shapes and kinds of numbers of ``own``."""
    missing = [key for key in own if key not in state]
    surplus = [key for key in state if key not in own]
    both = [key for key in own if key in state]
    misshapen = [key for key in both if own[key].shape != state[key].shape]
    mistyped = [
        key for key in both if own[key].is_floating_point() != state[key].is_floating_point()
    ]
    problems = [
        *_report("missing", missing, lambda key: _shape(own[key]) + nearest(key, surplus or state)),
        *_report("left over", surplus, lambda key: _shape(state[key]) + nearest(key, own)),
        *_report(
            "of the wrong shape",
            misshapen,
            lambda key: f"{_shape(state[key])} where the module has{_shape(own[key])}",
        ),
        *_report(
            "of the wrong type",
            mistyped,
            lambda key: f" {state[key].dtype} where the module has {own[key].dtype}",
        ),
    ]
    if problems:
        raise ValueError("\n  ".join([f"{name} cannot load these weights:", *problems]))


def _report(problem: str, keys: list[str], detail: Any) -> list[str]:
    lines = [f"{problem}: {key!r}{detail(key)}" for key in keys[:_LISTED]]
    if len(keys) > _LISTED:
        lines.append(f"{problem}: {len(keys) - _LISTED} more")
    return lines


def _shape(tensor: Tensor) -> str:
    return f" {tuple(tensor.shape)}"


def _some(keys: list[str]) -> str:
    listed = ", ".join(map(repr, keys[:_LISTED]))
    return listed if len(keys) <= _LISTED else f"{listed} and {len(keys) - _LISTED} more"

"""Loading the weights of published implementations: strict, whole or not at all.

Two sorts of foreign names are read. Those of a publication, which a module's
``convert_published(state)`` translates; and those under which an earlier release of this library
saved a module, which its ``convert_older(state, prefix)`` brings up to date (:func:`reads_older`).
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from foveate.arguments import nearest

_WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.", "model.", "net.")
_LINES = 8  # of an error, between its first line and its last
_LISTED = 5  # names in one line
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")

_Module = TypeVar("_Module", bound=nn.Module)
_Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


def load_published(module: _Module, state: Mapping[str, Any] | str | os.PathLike[str]) -> _Module:
    """Load the weights of a published implementation into ``module``, in place.

    Names and layouts are first translated by the module's ``convert_published(state)``, if it
    has one; a state of the module's own passes, one that an earlier release saved too. Then every
    entry must fit; where one does not, the module stays as it was.

    Args:
        module: the module to fill.
        state: tensors by name; or a mapping that holds them as ``"state_dict_ema"``,
            ``"model_ema"``, ``"ema"``, ``"state_dict"``, ``"model"`` or ``"net"``, the first of
            these that is there; or the path of a ``.safetensors`` or PyTorch file of either (read
            with ``weights_only=True``; an ``argparse.Namespace`` beside the weights is read, and
            nothing is executed). A ``module.``, ``_orig_mod.``, ``backbone.``, ``encoder.``,
            ``model.`` or ``net.`` before every name is taken off. What the module's
            ``load_state_dict`` resamples, such as the position embeddings of another image size,
            is resampled.

    Returns:
        ``module``.

    Warns:
        UserWarning: which of a file's states was taken, what was taken off the names, what was
            resampled, and which entries are not finite.

    Raises:
        TypeError: if ``module``, ``state`` or an entry of it is of the wrong type.
        ValueError: if the file cannot be read as weights, or entries are missing, left over or
            of the wrong shape; the message names the file, what was found and what to pass.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected a torch.nn.Module to load into, got {type(module).__name__}")
    _check_ready(module)
    if not isinstance(state, str | os.PathLike):
        return _load(module, state)
    path = Path(state)
    read = _read(path)
    try:
        return _load(module, read)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from error


def _check_ready(module: nn.Module) -> None:
    """Refuse a module whose parameters or buffers cannot take numbers.

    Raises:
        ValueError: if one has no memory or no shape yet, or is sparse.
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(f"{name} has no shape yet: call the module once on an input before")
        if tensor.is_meta:
            raise ValueError(
                f"{name} is on the meta device and holds no numbers: give the module memory before "
                "by its to_empty(device='cpu')"
            )
        if tensor.layout != torch.strided:
            raise ValueError(f"{name} is sparse: load dense weights, and make it sparse then")


def read_weights(module: nn.Module, path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a file under the names that ``module`` has for them; nothing is loaded.

    Args:
        module: whose ``convert_published`` translates names and layouts, if it has one.
        path: as for :func:`load_published`.

    Warns:
        UserWarning: which of a file's states was taken, and what was taken off the names.

    Raises:
        TypeError: if the file holds no tensors by name.
        ValueError: if the file cannot be read as weights; it is named.
    """
    path = Path(path)
    try:
        own = module.state_dict()
        return _under_own_names(module, tensors_of(_read(path), own), own)
    except (TypeError, ValueError) as error:
        said = str(error)
        raise type(error)(said if said.startswith(str(path)) else f"{path}: {said}") from error


def _load(module: _Module, state: Any) -> _Module:
    own = module.state_dict()
    _check_origin(module, state)
    given = of_today(module, tensors_of(state, own))
    tensors = _under_own_names(module, given, own)
    if not _resamples(module, own, tensors):
        check_fit(module, tensors)
    module.load_state_dict(tensors)
    _say_if_not_finite(module, tensors)
    return module


def _say_if_not_finite(module: nn.Module, loaded: Iterable[str]) -> None:
    """Of what a module holds now, in its own precision, in which large numbers overflow."""
    own = module.state_dict()
    wrong = [key for key in loaded if own[key].is_floating_point() and not _is_finite(own[key])]
    if wrong:
        warnings.warn(f"not finite (NaN or infinite): {_some(wrong)}", stacklevel=4)


def _is_finite(tensor: Tensor) -> bool:
    if tensor.element_size() == 1:  # float8, of which PyTorch does not tell
        tensor = tensor.float()
    return bool(tensor.isfinite().all())


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
    if "\0" in str(path):
        raise ValueError(f"no file can be called {str(path)!r}: there is a NUL byte in it")
    if path.is_dir():
        names = sorted(p.name for p in path.iterdir() if p.suffix in _SUFFIXES)
        inside = f"pass one of its files: {_some(names)}" if names else "it holds no weights"
        raise ValueError(f"{path} is a folder; {inside}")
    if path.suffix.lower() == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from error
    try:
        with torch.serialization.safe_globals(_harmless()):
            read = torch.load(path, map_location="cpu", weights_only=True)
        _say_if_changed(path)
        return read
    except OSError:
        raise
    except Exception as error:  # torch.load has no error of its own for what is no checkpoint
        raise ValueError(f"{path} cannot be read as weights: {_reason(path, error)}") from error


def _harmless() -> list[Any]:
    """What stands beside weights, and runs no code when it is read: options, numpy's numbers."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]  # the function that makes a number of its bytes
    kinds = {type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64, bool)}
    named = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [argparse.Namespace, np.dtype, *kinds, *named]


def _reason(path: Path, error: Exception) -> str:
    """In a line or two; PyTorch's own are many, and about its options."""
    foreign = re.search(r"GLOBAL (\S+)", str(error))
    if foreign is None:
        return _what_it_is(path)
    return (
        f"it holds {foreign[1]}, which reading could run as code.\n"
        "If you trust the file, call this within "
        f"torch.serialization.safe_globals([{foreign[1]}])"
    )


def _say_if_changed(path: Path) -> None:
    """Whether the parts of an archive have their checksums, which PyTorch does not look at."""
    if not zipfile.is_zipfile(path):
        return  # the format before PyTorch 1.6 has none
    with zipfile.ZipFile(path) as archive:
        if (changed := archive.testzip()) is not None:
            warnings.warn(
                f"{path} may be damaged: the content of {changed} does not have its checksum",
                stacklevel=4,
            )


def _what_it_is(path: Path) -> str:
    """Of a file that PyTorch cannot read, from how it begins."""
    with open(path, "rb") as file:
        start = file.read(200)
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of git-lfs, not the file; fetch that with 'git lfs pull'"
    if start.lstrip()[:1] == b"<":
        return "it is a page (HTML or XML), perhaps of a download that failed"
    if start.lstrip()[:1] in (b"{", b"["):
        return "it is a text (JSON)"
    if start.startswith(b"PK"):
        return "it is an archive, but cut off, damaged, or not of PyTorch"
    if start.startswith(b"\x80"):
        return "it is a pickle, but cut off, damaged, or not of PyTorch"
    return "it is no PyTorch file, or it is cut off"


def tensors_of(state: Any, own: Iterable[str]) -> dict[str, Tensor]:
    """The tensors by name, out of their wrapper, without what ``nn.DataParallel`` put before.

    Args:
        state: as for :func:`load_published`, but no path.
        own: the names that the module itself has.

    Warns:
        UserWarning: what was taken out and off.

    Raises:
        TypeError: if ``state`` or an entry of it is of the wrong type.
    """
    held, wrappers = _unwrapped(state)
    tensors, prefix = _without_prefix(held, own)
    said = []
    if wrappers:
        beside = [key for key in _WRAPPERS if key != wrappers[0] and _is_state(state.get(key))]
        said.append(f"the weights under {wrappers[0]!r}" + f", not {_some(beside)}" * bool(beside))
    if prefix:
        said.append(f"the names without {prefix!r}")
    if said:
        warnings.warn(f"took {' and '.join(said)}", stacklevel=2)
    return tensors


def reads_older(module: nn.Module) -> None:
    """Let ``module`` load what earlier releases saved of it, wherever it stands.

    Its ``convert_older(state, prefix)`` changes ``state`` in place: the entries that begin with
    ``prefix`` get the names of today. ``load_state_dict``, and so timm, calls it from now on;
    :func:`load_published` and what timm asks of published weights call it by :func:`of_today`.
    """
    module.register_load_state_dict_pre_hook(_convert_older)


def _convert_older(module: Any, state: dict[str, Any], prefix: str, *_: Any) -> None:
    module.convert_older(state, prefix)


def of_today(module: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with the names of today where an earlier release saved parts of ``module``."""
    state = dict(state)
    for name, part in module.named_modules():
        if hasattr(part, "convert_older"):
            part.convert_older(state, f"{name}." if name else "")
    return state


def _under_own_names(
    module: nn.Module, given: dict[str, Tensor], own: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """``given`` converted, or as it is if it is the module's own and conversion would break it."""
    is_own = given.keys() == own.keys()
    try:
        tensors = converted(module, given)
    except ValueError:
        if len(given.keys() & own.keys()) > len(own) // 2:  # its own, all or in part
            return given
        raise
    return given if is_own and tensors.keys() != own.keys() else tensors


def _check_origin(module: nn.Module, state: Any) -> None:
    """Let the module refuse, by its ``check_origin(meta)``, what is said beside the weights."""
    meta = state.get("meta") if isinstance(state, Mapping) else None
    if isinstance(meta, Mapping) and hasattr(module, "check_origin"):
        module.check_origin(meta)  # pyrefly: ignore


def _unwrapped(state: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors by name, and the names of the wrappers that they were in, outermost first."""
    if isinstance(state, nn.Module):
        raise TypeError("expected tensors by name, got a module; pass its state_dict()")
    if not isinstance(state, Mapping):
        raise TypeError(f"expected tensors by name, or a path, got {type(state).__name__}")
    for wrapper in _WRAPPERS:
        if isinstance(state.get(wrapper), Mapping):
            inside, wrappers = _unwrapped(state[wrapper])
            return inside, [wrapper, *wrappers]
    states = [f"state[{key!r}]" for key, value in state.items() if _is_state(value)]
    hint = f"; tensors are in {_some(states, str)}: pass one of these" if states else ""
    for key, value in state.items():
        if not isinstance(key, str):
            raise TypeError(f"entries must be named by strings, got {key!r}{hint}")
        if isinstance(value, Tensor) and value.layout != torch.strided:
            raise TypeError(f"entry {key!r} is sparse; pass its to_dense()")
        if not isinstance(value, Tensor):
            found = type(value).__name__
            raise TypeError(f"entry {key!r} must be a torch.Tensor, got {found}{hint}")
    return dict(state), []


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(part, Tensor) for part in value.values())


def _without_prefix(state: dict[str, Tensor], own: Iterable[str]) -> tuple[dict[str, Tensor], str]:
    """Take off, and name, what wrappers (nn.DataParallel, torch.compile, ...) put before names."""
    own = list(own)
    for prefix in _PREFIXES:
        wrapped = state and all(key.startswith(prefix) for key in state)
        if wrapped and not any(key.startswith(prefix) for key in own):
            bare = {key.removeprefix(prefix): value for key, value in state.items()}
            inside, more = _without_prefix(bare, own)
            return inside, prefix + more
    return state, ""


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
            f"({str(error).splitlines()[0]}) among {_some(names)}"
        ) from error


def convert_parts(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with each part of ``model`` converted as that part's own publication asks.

    Parts are the modules inside that have ``convert_published``; the entries are expected under our
    names of the parts.
    """
    state = dict(state)
    for name, part in _outermost_parts(model):
        prefix = f"{name}."
        inside = {key.removeprefix(prefix): key for key in state if key.startswith(prefix)}
        converted = part.convert_published({short: state.pop(key) for short, key in inside.items()})
        state |= {prefix + short: value for short, value in converted.items()}
    return state


def _outermost_parts(model: nn.Module, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The modules inside ``model`` that know their publication's layout, not those inside them."""
    for name, child in model.named_children():
        if hasattr(child, "convert_published"):
            yield prefix + name, child
        else:
            yield from _outermost_parts(child, f"{prefix}{name}.")


def rename(state: Mapping[str, Tensor], rules: _Rules) -> dict[str, Tensor]:
    """``state`` with every name passed through regular expressions and their replacements."""

    def renamed(name: str) -> str:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return name

    return {renamed(name): value for name, value in state.items()}


def check_fit(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise unless ``state`` has the names, shapes and kinds of numbers of the module's own.

    Raises:
        ValueError: in at most ten lines: what is missing, left over or of another shape, and what
            to pass.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state]
    surplus = [key for key in state if key not in own]
    both = [key for key in own if key in state]
    misshapen = [key for key in both if own[key].shape != state[key].shape]
    mistyped = [
        key for key in both if own[key].is_floating_point() != state[key].is_floating_point()
    ]
    problems: list[tuple[str, list[str], Callable[[str], str]]] = [
        ("missing", missing, lambda key: _shape(own[key]) + nearest(key, surplus or state)),
        ("left over", surplus, lambda key: _shape(state[key]) + nearest(key, own)),
        (
            "of the wrong shape",
            misshapen,
            lambda key: f"{_shape(state[key])} where the module has{_shape(own[key])}",
        ),
        (
            "of the wrong type",
            mistyped,
            lambda key: f" {state[key].dtype} where the module has {own[key].dtype}",
        ),
    ]
    problems = [problem for problem in problems if problem[1]]
    if not problems:
        return
    each = max(_LINES // len(problems), 2)
    lines = [
        f"{type(module).__name__} cannot load these weights, {len(both)} of whose {len(state)} "
        f"entries have names of the module's {len(own)}:",
        *(line for problem in problems for line in _report(*problem, each)),
        _advice(module, missing, surplus, misshapen, state),
    ]
    raise ValueError("\n  ".join(lines))


def _report(problem: str, keys: list[str], detail: Callable[[str], str], at_most: int) -> list[str]:
    """At most so many lines, the last of which counts what is not named."""
    named = keys if len(keys) <= at_most else keys[: at_most - 1]
    lines = [f"{problem}: {key!r}{detail(key)}" for key in named]
    if len(named) < len(keys):
        lines.append(f"{problem}: {len(keys) - len(named)} more")
    return lines


def _advice(
    module: nn.Module,
    missing: list[str],
    surplus: list[str],
    misshapen: list[str],
    state: dict[str, Tensor],
) -> str:
    """What to pass instead."""
    classifier = _classifier(module)
    if not state:
        return "there is no entry: pass the weights of this module"
    if missing and not surplus and all(".foveate." in f".{key}" for key in missing):
        return "load these weights before insert: what is missing is what was inserted"
    columns = zip(*(key.split(".") for key in state), strict=False)
    shared = takewhile(lambda parts: len(set(parts)) == 1, columns)
    before = "".join(f"{parts[0]}." for parts in shared)
    bare = {key.removeprefix(before) for key in state}
    if before and len(bare & set(missing)) > len(state) // 2:
        return f"all names begin with {before!r}: pass the entries without it"
    if classifier and not surplus and missing and all(key in classifier for key in missing):
        return "pass a module built with num_classes=0: these weights have no classifier"
    if classifier and not (missing or surplus) and all(key in classifier for key in misshapen):
        return f"pass a module built with num_classes={len(state[misshapen[0]])}"
    if missing and len(surplus) == len(state):
        return "pass the weights of this module: none of these names is known here"
    return "pass the weights of a module with the same options, or build the module as theirs"


def _classifier(module: nn.Module) -> set[str]:
    """The names of a timm model's classifier's entries."""
    config = getattr(module, "pretrained_cfg", None) or {}
    name = config.get("classifier") or ()
    parts = name if isinstance(name, tuple | list) else (name,)
    return {f"{part}.{leaf}" for part in parts for leaf in ("weight", "bias")}


def _shape(tensor: Tensor) -> str:
    return f" {tuple(tensor.shape)}"


def _some(names: list[str], show: Callable[[str], str] = repr) -> str:
    listed = ", ".join(map(show, names[:_LISTED]))
    return listed if len(names) <= _LISTED else f"{listed} and {len(names) - _LISTED} more"

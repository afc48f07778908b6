"""Life after a change: what was done, done again, undone; what is new; saved with the weights."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from torch import Tensor, nn

from foveate.attention.adapt import Mechanism
from foveate.published import check_fit, of_today
from foveate.reduction.whole import reduce, reducer_of
from foveate.registry import reducer_name
from foveate.surgery._ledger import (
    Changes,
    Ledger,
    Reduction,
    Step,
    Swapped,
    detach,
    ledger_of,
    put,
    reduction_of,
    steps_of,
)
from foveate.surgery._norms import hold, is_held, norms_of, release
from foveate.surgery._standing import Handover, Replacement
from foveate.surgery._weights_file import DamagedFileError, read_tensors, write_tensors
from foveate.surgery.change import (
    carry_out,
    forget,
    mechanism_of,
    name_of,
    of_kind,
    undo,
)
from foveate.surgery.places import Place
from foveate.surgery.trace import trace

_Model = TypeVar("_Model", bound=nn.Module)
_METADATA = "foveate"


def changes(model: nn.Module) -> Changes:
    """What ``foveate.insert``, ``foveate.replace`` and ``foveate.reduce`` did to ``model``.

    Returns:
        The changes; printed, a table. Their ``recipe`` is what :func:`foveate.apply` takes, and
        can be written as JSON.
    """
    ledger = ledger_of(model)
    reducer, reduction = reducer_of(model), None
    if reducer is not None:
        options = json.loads(json.dumps(dict(reducer.options)))  # a tuple reads back as a list
        kind = type(reducer)
        reduction = Reduction(reducer_name(kind) or name_of(kind), options)
    return Changes([] if ledger is None else ledger.steps, reduction)


def apply(
    model: _Model,
    recipe: Mapping[str, Any] | str,
    *,
    example: Any = None,
    mechanisms: Mapping[str, Mechanism] | None = None,
) -> _Model:
    """Make the changes of ``recipe`` to ``model``, in place, with fresh weights.

    The result has the same modules under the same names, so that the state of the model for which
    the recipe was written loads into it.

    Args:
        model: a model of the kind that the recipe was written for.
        recipe: of :class:`~foveate.surgery._ledger.Changes`, or its JSON.
        example: an input, if one was given then.
        mechanisms: what a name stands for that can be neither looked up nor imported.

    Returns:
        ``model``.

    Raises:
        ValueError: if the recipe is of another kind or the model lacks a place of it (the first
            that is missing is named); the model is then as it was.
    """
    steps, reduction = steps_of(recipe), reduction_of(recipe)
    with _as_it_was(model):
        for step in steps:
            mechanism = (mechanisms or {}).get(step.mechanism) or mechanism_of(step.mechanism)
            _again(model, mechanism, step, example)
        if reduction is None:
            return model
        named = (mechanisms or {}).get(reduction.reducer) or mechanism_of(reduction.reducer)
        return reduce(model, named, **reduction.options)  # pyrefly: ignore


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Take out again what was put in, if that which follows fails."""
    ledger = ledger_of(model)
    before = 0 if ledger is None else len(ledger.steps)
    try:
        yield
    except Exception:
        ledger = ledger_of(model)
        if ledger is not None and len(ledger.steps) > before:
            undo(model, ledger, before)
        if not before:
            forget(model)
        raise


def _again(model: nn.Module, mechanism: Mechanism, step: Step, example: Any) -> None:
    if step.input is None and example is None:
        raise ValueError(
            "the recipe was written with an example input of the user's: give example= again"
        )
    watched = trace(model, example, step.input)
    found = {_key(step, place): place for place in of_kind(watched, step.kind)}
    for path in step.paths:
        if path not in found:
            raise ValueError(
                f"the recipe is for another model: {type(model).__name__} has no "
                f"{step.kind} at {path!r}"
            )
    if step.among not in (None, len(found)):
        warnings.warn(
            f"the recipe changed {len(step.paths)} of {step.among} places of the kind {step.kind}; "
            f"this {type(model).__name__} has {len(found)}: the others are left as they are",
            stacklevel=3,
        )
    fresh = Step(**{**step.recipe(), "finished": False})
    carry_out(model, mechanism, fresh, [found[path] for path in step.paths], example)
    if step.finished:
        finish(model)


def _key(step: Step, place: Place) -> str:
    return place.host if step.call == "insert" else place.path


def restore(model: _Model) -> _Model:
    """Undo every change: the model is what it was, with the weights that it has now.

    Raises:
        ValueError: if a module that was replaced is not there any more, because the model was
            pickled in between; or if a reducer has taken what cannot be given back.
    """
    ledger, reducer = ledger_of(model), reducer_of(model)
    if reducer is not None:
        reducer.undo(model)
    if ledger is not None:
        frozen = ledger.frozen
        undo(model, ledger)
        if frozen is not None:
            _let_learn(model, ledger, frozen)
        forget(model)
    return model


def added(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of what was put into a model, for a learning rate of their own.

    A mechanism that kept weights counts whole.
    """
    ledger, reducer = ledger_of(model), reducer_of(model)
    found = {} if ledger is None else {
        id(p): p for module in ledger.added for p in module.parameters()
    }  # fmt: skip
    return [*found.values(), *([] if reducer is None else reducer.added())]


def freeze(model: _Model, frozen: bool = True) -> _Model:
    """Let only what was added learn; the batch statistics of the rest are held, too.

    Norms of the model's own then use their running statistics in training as well: with those of
    small batches an unchanged model gets worse by itself.

    Args:
        model: a changed model.
        frozen: False lets that learn again which learnt before, or everything where nothing was
            frozen in this way.

    Raises:
        ValueError: if nothing was added.
    """
    ledger = ledger_of(model)
    if ledger is None or not ledger.added:
        raise ValueError("nothing was added to this model: frozen, it could not learn")
    if not frozen:
        _let_learn(model, ledger, ledger.frozen)
        return model
    if ledger.frozen is None:
        ledger.frozen = [(p, p.requires_grad) for p in model.parameters()]
    if not all(map(is_held, norms_of(model, ledger.added))):
        freeze_norms(model)
    new = {id(p) for p in added(model)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in new)
    return model


def _let_learn(
    model: nn.Module, ledger: Ledger, before: list[tuple[nn.Parameter, bool]] | None
) -> None:
    """Let learn again what learnt before, wherever it stands now; everything where that is None."""
    if before is None or ledger.norms_held:
        freeze_norms(model, False)
    for parameter, learnt in before or [(p, True) for p in model.parameters()]:
        parameter.requires_grad_(learnt)
    ledger.frozen = None


def freeze_norms(model: _Model, frozen: bool = True) -> _Model:
    """Let batch norms keep statistics, weights and biases, but for those of what was added.

    Their running statistics then serve in training as well.

    Args:
        model: changed or not.
        frozen: False lets them learn again.
    """
    ledger = ledger_of(model)
    norms = norms_of(model, () if ledger is None else ledger.added)
    for norm in norms:
        for parameter in norm.parameters(recurse=False):
            parameter.requires_grad_(not frozen)
    if frozen:
        hold(norms)
    else:
        release(norms, model.training)
    if ledger is not None:
        ledger.norms_held = frozen
    return model


def finish(model: _Model) -> _Model:
    """Drop the old side of every handover: the new mechanism stands alone.

    What the model computes changes by how far the scales are from one; :func:`distance` says how
    far. Where class tokens keep the old module, it stays for them.

    Raises:
        ValueError: if there is no handover.
    """
    ledger = ledger_of(model)
    gradual = [] if ledger is None else [
        one for one in ledger.attached
        if isinstance(one.child, Handover) and one.child.scale is not None
    ]  # fmt: skip
    if ledger is None or not gradual:
        raise ValueError("there is no handover to finish: replace(..., start='handover') makes one")
    for one in gradual:
        child = one.child
        if child.geometry.prefix and child.role != "token_mixer":
            child.scale = None
            continue
        host = model.get_submodule(one.host)
        names = [n for n, m in model.named_modules(remove_duplicate=False) if m is host]
        detach(host, one.name, child)
        alone = Replacement(child.mechanism, child.role, child.geometry, host, child.result)
        alone.train(child.training)
        for name in names:
            put(model, name, alone)
        ledger.attached.remove(one)
        ledger.swapped.append(Swapped(names, alone, one.step))
    for step in ledger.steps:
        step.finished = step.finished or step.start == "handover"
    return model


def distance(model: nn.Module) -> float:
    """How far a handover is from its end: the largest difference of a scale from one."""
    ledger = ledger_of(model)
    scales = [] if ledger is None else [
        one.child.scale for one in ledger.attached
        if isinstance(one.child, Handover) and one.child.scale is not None
    ]  # fmt: skip
    return max((float((1 - scale.detach()).abs().max()) for scale in scales), default=0.0)


def save(
    model: nn.Module, path: str | os.PathLike[str], *, words: Mapping[str, str] | None = None
) -> None:
    """Write the state of ``model`` as safetensors, with the recipe of its changes beside it.

    Args:
        model: a model.
        path: of the file.
        words: more for the file's header, by names that begin otherwise than ``foveate``.

    Raises:
        TypeError: if ``model`` is no module, or its state holds something beside tensors.
        ValueError: if a part of it was changed, not itself: its recipe would be lost.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module to save, got {type(model).__name__}")
    inside = [name for name, part in model.named_modules() if name and ledger_of(part) is not None]
    if inside:
        raise ValueError(
            f"{inside[0]} was changed before it became a part of this {type(model).__name__}, "
            "which has no recipe of that: save the part by itself, or put the whole together first"
        )
    seen: set[int] = set()
    state = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} of the model's state is no tensor: {type(tensor).__name__}")
        held = tensor.cpu().resolve_conj().resolve_neg().contiguous()
        memory = held.untyped_storage().data_ptr()
        if held.numel() and memory in seen:
            held = held.clone()  # safetensors holds no shared memory
        seen.add(memory)
        state[name] = held
    recipe = json.dumps(changes(model).recipe)
    write_tensors(path, state, {**(words or {}), _METADATA: recipe, "format": "pt"})


def load(
    model: _Model,
    path: str | os.PathLike[str],
    *,
    example: Any = None,
    mechanisms: Mapping[str, Mechanism] | None = None,
) -> _Model:
    """Read what :func:`save` wrote: change ``model`` as the file says, then load its weights.

    Args:
        model: the unchanged model; or one that was changed in the same way.
        path: of the file.
        example: as for :func:`apply`.
        mechanisms: as for :func:`apply`.

    Raises:
        ValueError: if the file is damaged, the model was changed in another way, or the weights do
            not fit.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module to load into, got {type(model).__name__}")
    state, metadata = read_tensors(path)
    recipe = _recipe_in(path, metadata.get(_METADATA, "{}"))
    with _as_it_was(model):
        if recipe and recipe != changes(model).recipe:
            if len(changes(model)):
                raise ValueError("this model was changed in another way than the one in the file")
            model = apply(model, recipe, example=example, mechanisms=mechanisms)
        state = of_today(model, state)
        check_fit(model, state)
        model.load_state_dict(state)
    return model


def _recipe_in(path: str | os.PathLike[str], words: str) -> Mapping[str, Any]:
    """The recipe in a file's metadata; nothing for a file of others.

    Raises:
        DamagedFileError: if it is none.
    """
    if words == "{}":
        return {}
    try:
        steps_of(recipe := json.loads(words))
    except ValueError as error:
        raise DamagedFileError(f"{path} is damaged: its recipe: {error}") from error
    return recipe

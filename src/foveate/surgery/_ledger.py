"""What was done to a model: kept with the model, checked at each forward, undone on demand."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal

import torch
from torch import nn

from foveate.arguments import one_of
from foveate.surgery._geometry import Geometry, ImageSize
from foveate.surgery._norms import hold, norms_of
from foveate.surgery._standing import Handover, Inserted, Replacement, Standing
from foveate.surgery.places import Reader, as_table, glob_of
from foveate.surgery.trace import is_watching, trace

ATTRIBUTE = "_foveate"
CHILD = "foveate"
FORMAT = 1


@dataclass(frozen=True)
class Change:
    """What was done at one place.

    Attributes:
        path: the place.
        was: the class that stands or stood there.
        now: the mechanism.
        how: inserted, replaced, handover, beside (the old module still serves the class tokens)
            or left alone.
        options: what the mechanism was built with beside its channels.
        kept: which weights were kept.
        dropped: what the old module had and the new one does not.
        note: what else there is to say.
    """

    path: str
    was: str
    now: str
    how: str
    options: dict[str, Any] = field(default_factory=dict)
    kept: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    note: str = ""


@dataclass
class Step:
    """One call of ``insert`` or ``replace``, so that it can be made again.

    Attributes:
        call: which of the two.
        kind: the kind of the places, or "named" for modules that were named.
        mechanism: a registered name, or ``module:name`` of a class or function.
        options: that the user gave.
        start: identity, naive, swap or handover.
        keep: auto or nothing.
        paths: of the modules that were changed.
        input: (C, H, W) of the images by which they were found, None for an example of the user's.
        finished: whether the old side of a handover was dropped.
        among: how many places of the kind the model had, None where it is not known.
        changes: what was done.
    """

    call: Literal["insert", "replace"]
    kind: str
    mechanism: str
    options: dict[str, Any]
    start: str
    keep: str
    paths: list[str]
    input: list[int] | None
    finished: bool = False
    among: int | None = None
    changes: list[Change] = field(default_factory=list)

    def recipe(self) -> dict[str, Any]:
        """The step as JSON has it."""
        made = asdict(self)
        del made["changes"]
        return made


@dataclass(frozen=True)
class Reduction:
    """One call of ``reduce``, so that it can be made again.

    Attributes:
        reducer: a registered name, or ``module:name`` of a class.
        options: that the user gave, of JSON's types.
    """

    reducer: str
    options: dict[str, Any]

    @property
    def change(self) -> Change:
        """As a row of the table."""
        return Change("blocks", "blocks", self.reducer, "reduced", self.options)

    @classmethod
    def read(cls, stated: Any) -> Reduction:
        """What a recipe states.

        Raises:
            ValueError: if it is none.
        """
        if not (
            isinstance(stated, Mapping)
            and set(stated) == {"reducer", "options"}
            and isinstance(stated["reducer"], str)
            and isinstance(stated["options"], Mapping)
        ):
            raise ValueError(f"the recipe's reduction names no reducer and options: {stated!r}")
        return cls(stated["reducer"], dict(stated["options"]))


class Changes:
    """What was done to a model, place by place; prints as a table.

    Attributes:
        steps: the calls, in order.
        reduction: by what the model was reduced, if it was.
    """

    def __init__(self, steps: list[Step], reduction: Reduction | None = None) -> None:
        self.steps = steps
        self.reduction = reduction

    def __iter__(self) -> Iterator[Change]:
        yield from (change for step in self.steps for change in step.changes)
        if self.reduction is not None:
            yield self.reduction.change

    def __len__(self) -> int:
        return sum(1 for _ in self)

    @property
    def recipe(self) -> dict[str, Any]:
        """What :func:`foveate.apply` takes; of JSON's types."""
        recipe: dict[str, Any] = {
            "foveate": FORMAT, "steps": [step.recipe() for step in self.steps]
        }  # fmt: skip
        if self.reduction is not None:
            recipe["reduction"] = asdict(self.reduction)
        return recipe

    def table(self) -> list[dict[str, str]]:
        """The rows that are printed: alike changes of one glob together."""
        groups: dict[tuple[Any, ...], list[Change]] = {}
        for change in self:
            key = (glob_of(change.path), change.was, change.now, change.how, change.kept,
                   len(change.dropped), change.note)  # fmt: skip
            groups.setdefault(key, []).append(change)
        return [_row(group) for group in groups.values()]

    def __repr__(self) -> str:
        return as_table(self.table()) or "no changes"

    __str__ = __repr__


def _row(group: list[Change]) -> dict[str, str]:
    first = group[0]
    options = {
        name: dict.fromkeys(str(change.options.get(name)) for change in group)
        for name in first.options
    }
    return {
        "path": first.path if len(group) == 1 else glob_of(first.path),
        "n": str(len(group)),
        "was": first.was,
        "now": first.now,
        "how": first.how,
        "options": ", ".join(f"{name}={'|'.join(seen)}" for name, seen in options.items()),
        "kept": ", ".join(first.kept),
        "dropped": ", ".join(first.dropped),
        "note": first.note,
    }


_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "insert": {
        "kind": ("branch", "stage"), "start": ("identity", "naive"), "keep": ("nothing",)
    },
    "replace": {
        "kind": ("attention", "gate", "conv", "depthwise", "named"),
        "start": ("swap", "handover"),
        "keep": ("auto", "nothing"),
    },
}  # fmt: skip
"""What the words of a step may be, by its call."""


def steps_of(recipe: Mapping[str, Any] | str) -> list[Step]:
    """The steps that a recipe states.

    Raises:
        ValueError: if it is none, or one of its words is unknown; the step is named.
    """
    if isinstance(recipe, str):
        try:
            recipe = json.loads(recipe)
        except json.JSONDecodeError as error:
            raise ValueError(f"the recipe is no JSON: {error}") from error
    steps = recipe.get("steps") if isinstance(recipe, Mapping) else None
    if not isinstance(recipe, Mapping) or recipe.get("foveate") is True or (
        recipe.get("foveate") != FORMAT or not isinstance(steps, list)
    ):  # fmt: skip
        raise ValueError(
            "expected a recipe of foveate.changes(model), "
            f"got {sorted(recipe) if isinstance(recipe, Mapping) else type(recipe).__name__}"
        )
    return [_step(step, f"step {number} of the recipe") for number, step in enumerate(steps, 1)]


def reduction_of(recipe: Mapping[str, Any] | str) -> Reduction | None:
    """The reduction that a recipe states; None where it states none.

    Raises:
        ValueError: if what it states is none.
    """
    recipe = json.loads(recipe) if isinstance(recipe, str) else recipe
    return Reduction.read(recipe["reduction"]) if "reduction" in recipe else None


def _step(stated: Any, where: str) -> Step:
    if not isinstance(stated, Mapping):
        raise ValueError(f"{where} is no step: {stated!r}")
    known = {each.name: each for each in fields(Step) if each.name != "changes"}
    for key in stated:
        one_of(key, known, f"key in {where}")
    for name, each in known.items():
        if each.default is MISSING and name not in stated:
            raise ValueError(f"{where} has no {name!r}")
    one_of(stated["call"], _WORDS, f"call in {where}")
    for key, words in _WORDS[stated["call"]].items():
        one_of(stated[key], words, f"{key} in {where}")
    kinds = {"mechanism": str, "options": Mapping, "paths": list, "input": list | None}
    kinds |= {"finished": bool, "among": int | None}
    for key, kind in kinds.items():
        if not isinstance(stated.get(key, known[key].default), kind):
            raise ValueError(f"{key} in {where} cannot be {stated[key]!r}")
    size = stated["input"]
    if size is not None and not (
        len(size) == 3 and all(type(side) is int and side > 0 for side in size)
    ):
        raise ValueError(f"input in {where} must be three positive whole numbers, got {size!r}")
    for key, wrong in {
        "among": (stated.get("among") or 0) < 0,
        "finished": stated.get("finished") and stated["start"] != "handover",
    }.items():
        if wrong:
            raise ValueError(f"{key} in {where} cannot be {stated[key]!r}")
    if not stated["paths"] or not all(isinstance(path, str) for path in stated["paths"]):
        raise ValueError(f"paths in {where} must be names of modules, got {stated['paths']!r}")
    twice = [path for path in stated["paths"] if stated["paths"].count(path) > 1]
    if twice:
        raise ValueError(f"paths in {where} names {twice[0]!r} twice")
    return Step(**stated)


@dataclass(eq=False)
class Attached:
    """A module of ours that hangs on a hook of the user's.

    Attributes:
        host: name of the module it hangs on.
        name: of the child.
        child: itself.
        step: number of the step that put it there.
    """

    host: str
    name: str
    child: Inserted | Handover
    step: int


@dataclass(eq=False)
class Swapped:
    """A module of ours that stands where one of the user's stood.

    Attributes:
        names: all names under which it is registered.
        child: itself.
        step: number of the step that put it there.
    """

    names: list[str]
    child: Replacement
    step: int


@dataclass(eq=False)
class Ledger:
    """Everything that was done to one model.

    Attributes:
        image: the size of its images now.
        steps: the calls.
        attached: modules that hang on hooks.
        swapped: modules that replaced others.
        eye: the first module that is given the images.
        frozen: of each parameter, whether it learnt before the rest was frozen; None where it is
            not.
        norms_held: whether the batch norms of the rest keep their statistics.
    """

    image: ImageSize = field(default_factory=ImageSize)
    steps: list[Step] = field(default_factory=list)
    attached: list[Attached] = field(default_factory=list)
    swapped: list[Swapped] = field(default_factory=list)
    eye: str = ""
    frozen: list[tuple[nn.Parameter, bool]] | None = None
    norms_held: bool = False

    @property
    def added(self) -> list[nn.Module]:
        """The modules that were put in."""
        return [one.child for one in (*self.attached, *self.swapped)]

    def before(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """A forward pre-hook on the model: notes the images, mends what other tools undid."""
        self.image.note(args, kwargs)
        if torch.compiler.is_compiling() or is_watching():
            return
        self.mend(model)
        size = self.image.size
        standing = [one.child.geometry for one in (*self.attached, *self.swapped)]
        if size is not None and not all(geometry.knows(size) for geometry in standing):
            self._learn(model, args, kwargs, size, standing)

    def _learn(
        self, model: nn.Module, args: Any, kwargs: Any, size: tuple[int, int],
        standing: list[Geometry],
    ) -> None:  # fmt: skip
        """Look at the model at this size of image, and remember how its tokens lie."""
        reader = Reader(trace(model, {**_named(model, args), **kwargs} if kwargs else tuple(args)))
        for geometry in standing:
            geometry.learn(reader.maps(geometry.path, at_output=geometry.at_output), size)

    def mend(self, model: nn.Module) -> None:
        """Hang what lost its hook on its place again, and say so.

        ``torch.nn.SyncBatchNorm.convert_sync_batchnorm`` and the folding of norms put other
        modules where ours hang.

        Raises:
            RuntimeError: if a place is gone.
        """
        mended = []
        for one in self.attached:
            try:
                host = model.get_submodule(one.host)
            except AttributeError as error:
                raise RuntimeError(
                    f"{one.host}, on which a {type(one.child.mechanism).__name__} was put, is "
                    "gone from the model: change models before they are changed by foveate, or "
                    "foveate.restore it first"
                ) from error
            if hook_of(host, one.child) is None:
                attach(host, one.name, one.child)
                mended.append(one.host)
        if mended:
            warnings.warn(
                f"{len(mended)} places were put into other modules after foveate changed them "
                f"({mended[0]} now is a {type(model.get_submodule(mended[0])).__name__}); "
                "what was inserted there has been attached again",
                stacklevel=3,
            )
        if self.norms_held and (again := hold(norms_of(model, self.added))):
            warnings.warn(
                f"{again} batch norms were put into other modules after they were frozen; their "
                "statistics are held again",
                stacklevel=3,
            )


def _named(model: nn.Module, args: Any) -> dict[str, Any]:
    names = list(inspect.signature(model.forward).parameters)
    return dict(zip(names, args, strict=False))


def ledger_of(model: nn.Module) -> Ledger | None:
    """The model's ledger, if it was ever changed."""
    return vars(model).get(ATTRIBUTE)


def hook_of(host: nn.Module, child: Standing) -> int | None:
    """The key of the hook by which ``child`` hangs on ``host``."""
    for key, hook in host._forward_hooks.items():
        if getattr(hook, "__self__", None) is child:
            return key
    return None


def attach(host: nn.Module, name: str, child: Inserted | Handover) -> None:
    """Make ``child`` a child of ``host`` and run it behind it."""
    host._modules[name] = child
    host.register_forward_hook(child.behind, with_kwargs=True)


def detach(host: nn.Module, name: str, child: Standing) -> None:
    """The inverse of :func:`attach`."""
    host._modules.pop(name, None)
    key = hook_of(host, child)
    if key is not None:
        del host._forward_hooks[key]
        host._forward_hooks_with_kwargs.pop(key, None)


def put(model: nn.Module, path: str, module: nn.Module) -> None:
    """Register ``module`` under ``path``, in containers too."""
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module

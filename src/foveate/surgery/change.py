"""Put a mechanism into any model with one call: behind modules, or instead of them."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Iterable
from typing import Any, Literal, TypeVar

from torch import Tensor, nn

from foveate.arguments import one_of
from foveate.attention import adapt as adapting
from foveate.attention.adapt import Adapted, Mechanism, adapt
from foveate.contracts import Role
from foveate.reduction.whole import reducer_of
from foveate.registry import describe, list_attention
from foveate.surgery import _keep
from foveate.surgery._geometry import Geometry
from foveate.surgery._ledger import (
    ATTRIBUTE,
    CHILD,
    Attached,
    Change,
    Changes,
    Ledger,
    Step,
    Swapped,
    attach,
    detach,
    ledger_of,
    put,
)
from foveate.surgery._origins import tensors_in
from foveate.surgery._standing import Handover, Inserted, Replacement, Result
from foveate.surgery.places import (
    KINDS,
    Place,
    Places,
    Where,
    find,
    named,
    nothing_matched,
)
from foveate.surgery.trace import Trace, TraceError, line_of, trace

_Model = TypeVar("_Model", bound=nn.Module)
_ROLES: dict[str, tuple[Role, ...]] = {
    "attention": ("mixer", "token_mixer"),
    "gate": ("gate", "mixer"),
    "conv": ("mixer", "token_mixer"),
    "depthwise": ("mixer", "token_mixer"),
}
_ANY_ROLE: tuple[Role, ...] = ("gate", "mixer", "token_mixer")
_HEAD_CHANNELS = 32


def insert(
    model: _Model,
    mechanism: Mechanism,
    at: Literal["branch", "stage"] = "branch",
    where: Where = "*",
    start: Literal["identity", "naive"] = "identity",
    *,
    example: Any = None,
    dry_run: bool = False,
    **options: Any,
) -> _Model | Changes:
    """Put ``mechanism`` behind modules of ``model``, in place.

    With ``start="identity"`` a gate g stands as ``x + s (g(x) - x)`` and a mixer m as
    ``x + s m(x)``, with a scale s a channel that starts at zero: the changed model computes
    exactly what it did before, and learns from there. The class, the interfaces and the names of
    the model's own weights stay; what is new is registered as ``<place>.foveate``.

    Args:
        model: any module that takes images.
        mechanism: a registered name, a class, or a function of ``dim`` that gives a module from
            ``(B, C, H, W)`` to the same.
        at: at the end of residual branches, before they are added, or at the end of stages.
        where: which of these: a glob of paths, a class of modules, a function of a
            :class:`~foveate.surgery.places.Place`, or several.
        start: ``"identity"``, or ``"naive"`` for the mechanism's output as it is, which ruins a
            trained model until it has been trained again.
        example: an input that the model accepts, as for :func:`foveate.places`.
        dry_run: change nothing; give what would be done.
        **options: for the mechanism.

    Returns:
        ``model``; :func:`foveate.changes` shows what was done. With ``dry_run`` the table alone.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if no place matches (with the nearest paths), the mechanism cannot stand
            there, or the changed model does not run; the model is then as it was.
    """
    one_of(at, ("branch", "stage"), "place")
    one_of(start, ("identity", "naive"), "start")
    _changeable(model)
    watched = trace(model, example)
    found = find(watched).of(at)
    chosen = found.where(where)
    if not chosen:
        raise ValueError(nothing_matched(where, found))
    _some_usable(chosen)
    step = _step("insert", at, mechanism, options, start, "nothing", example, watched, len(found))
    _say_if_again(model, step, chosen)
    return carry_out(model, mechanism, step, chosen, example, dry_run)


def replace(
    model: _Model,
    what: str | type,
    mechanism: Mechanism,
    where: Where = "*",
    keep: Literal["auto", "nothing"] = "auto",
    start: Literal["swap", "handover"] = "swap",
    *,
    example: Any = None,
    dry_run: bool = False,
    **options: Any,
) -> _Model | Changes:
    """Put ``mechanism`` instead of modules of ``model``, in place.

    Windows that were cut before the old attention are put together for the new one, so that it
    attends beyond them; tokens in another order than row by row are put in order. A token mixer
    gets all tokens of an image; other mechanisms get the map, and class and register tokens keep
    what the old attention gives them, which then stays beside.

    Args:
        model: any module that takes images.
        what: ``"attention"``, ``"gate"``, ``"conv"`` or ``"depthwise"``; or the registered name of
            a mechanism, a class, or a glob of paths of modules that keep the shape of what they
            are given.
        mechanism: as for :func:`foveate.insert`.
        where: which of them.
        keep: ``"auto"`` takes over the old attention's projections where they fit.
        start: ``"swap"``; or ``"handover"``, where the old module stays and
            ``old(x) + s (new(x) - old(x))`` with s = 0 changes nothing at the start;
            :func:`foveate.finish` then drops the old side.
        example: as for :func:`foveate.places`.
        dry_run: change nothing; give what would be done.
        **options: for the mechanism; heads are those of the old attention unless given.

    Returns:
        ``model``; :func:`foveate.changes` shows what was kept, dropped and left alone. With
        ``dry_run`` the table alone.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: as for :func:`foveate.insert`, and if every place that matches must be left
            alone.
    """
    one_of(keep, ("auto", "nothing"), "keep")
    one_of(start, ("swap", "handover"), "start")
    if isinstance(mechanism, str) and mechanism in _ROLES:
        raise ValueError(
            f"the mechanism comes after what it replaces: replace(model, {mechanism!r}, {what!r})"
        )
    _changeable(model)
    watched = trace(model, example)
    kind, found, among = _of_what(watched, what)
    chosen = found.where(where)
    if not chosen:
        raise ValueError(nothing_matched(where if where != "*" else what, found))
    _some_usable(chosen)
    step = _step("replace", kind, mechanism, options, start, keep, example, watched, among)
    return carry_out(model, mechanism, step, chosen, example, dry_run)


def _say_if_again(model: nn.Module, step: Step, chosen: Places) -> None:
    """Whether the same stands in the same places already, as where a cell is run twice."""
    ledger = ledger_of(model)
    before = {
        path
        for earlier in ([] if ledger is None else ledger.steps)
        if earlier.call == "insert" and earlier.mechanism == step.mechanism
        for path in earlier.paths
    }
    again = [place.path for place in chosen if place.host in before]
    if again:
        warnings.warn(
            f"{step.mechanism} stands at {again[0]} already, and so at {len(again)} of "
            f"{len(chosen)} places: each gets another one; foveate.restore(model) undoes both",
            stacklevel=3,
        )


def _changeable(model: nn.Module) -> None:
    """Refuse a wrapper, which would not exchange the new parameters, and a reduced model."""
    if isinstance(model, nn.Module) and reducer_of(model) is not None:
        raise ValueError(
            f"this {type(model).__name__} is reduced, and its tokens form no map any more: "
            "foveate.restore(model) gives them back"
        )
    wrapped = isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel)
    if wrapped or any(type(p).__name__ == "DTensor" for p in getattr(model, "parameters", list)()):
        how = f"wrapped in {type(model).__name__}" if wrapped else "sharded"
        raise ValueError(
            f"the model is {how} already, and what is put in now would be trained on every process "
            "alone: change it first, then wrap or shard it"
        )


def _some_usable(chosen: Places) -> None:
    if all(place.unusable for place in chosen):
        raise ValueError(
            "every place that matches must be left alone:\n"
            + "\n".join(f"  {place.path}: {place.unusable}" for place in chosen)
        )


def _of_what(watched: Trace, what: str | type) -> tuple[str, Places, int | None]:
    """The kind and the places that ``what`` names, and how many there are of a kind."""
    found = find(watched)
    if isinstance(what, str) and what in _ROLES:
        return what, found.of(what), len(found.of(what))
    if isinstance(what, str) and what in KINDS:
        raise ValueError(f"a {what} is where to insert, not what to replace")
    if isinstance(what, str) and what in list_attention():
        what = describe(what).cls
    chosen = found.of(*_ROLES).where(what)
    if not chosen:
        chosen = named(watched, what)
    if not chosen:
        kinds = f"; kinds are {', '.join(_ROLES)}" if isinstance(what, str) else ""
        raise ValueError(nothing_matched(what, named(watched, "*")) + kinds)
    kinds = {place.kind for place in chosen}
    if len(kinds) > 1 or "module" in kinds:
        return "named", chosen, None
    kind = kinds.pop()
    return kind, chosen, len(found.of(kind))


def of_kind(watched: Trace, kind: str) -> Places:
    """The places that a step chose from."""
    return named(watched, "*") if kind == "named" else find(watched).of(kind)


def _step(
    call: Literal["insert", "replace"], kind: str, mechanism: Mechanism, options: dict[str, Any],
    start: str, keep: str, example: Any, watched: Trace, among: int | None,
) -> Step:  # fmt: skip
    node = watched.nodes[0] if watched.nodes else None
    size = list(node.shape[1:]) if node is not None and example is None else None
    return Step(call, kind, name_of(mechanism), dict(options), start, keep, [], size, among=among)


def name_of(mechanism: Mechanism) -> str:
    """How a recipe names it: registered, or ``module:name``."""
    if isinstance(mechanism, str):
        return mechanism
    module = getattr(mechanism, "__module__", type(mechanism).__module__)
    name = getattr(mechanism, "__qualname__", type(mechanism).__qualname__)
    return f"{module}:{name}"


def mechanism_of(name: str) -> Mechanism:
    """The inverse of :func:`name_of`.

    Nothing is imported and no function is taken, so that a recipe runs no code of its own choice.

    Raises:
        ValueError: if there is no such class in what has been imported.
    """
    if ":" not in name:
        return name
    module, _, attribute = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(
            f"the recipe's mechanism {name!r} is no class of modules that has been imported; "
            f"import it before, or pass it as mechanisms={{{name!r}: ...}}"
        )
    return found


def carry_out(
    model: _Model, mechanism: Mechanism, step: Step, chosen: Iterable[Place], example: Any = None,
    dry_run: bool = False,
) -> _Model | Changes:  # fmt: skip
    """Build everything, then put it in; take it out again if the model does not run with it."""
    chosen = list(chosen)
    surgery = _Surgery(model, mechanism, step, example)
    built = [surgery.build(place) for place in chosen]
    step.changes = [change for change, _ in built]
    step.paths = [place.host if step.call == "insert" else place.path
                  for place, (change, _) in zip(chosen, built, strict=True)
                  if change.how != "left alone"]  # fmt: skip
    if not step.paths:
        raise ValueError(
            "every place that matches must be left alone:\n"
            + "\n".join(f"  {change.path}: {change.note}" for change in step.changes)
        )
    if dry_run:
        return Changes([step])
    surgery.put_in(chosen, [child for _, child in built])
    return model


class _Surgery:
    """One step on one model."""

    def __init__(self, model: nn.Module, mechanism: Mechanism, step: Step, example: Any) -> None:
        self.model = model
        self.mechanism = mechanism
        self.step = step
        self.example = example
        self.ledger = ledger_of(model) or Ledger()

    def build(self, place: Place) -> tuple[Change, Inserted | Handover | Replacement | None]:
        """What is to stand in ``place``, and what to say of it."""
        now = self.step.mechanism
        if place.unusable:
            return Change(place.path, place.cls, now, "left alone", note=place.unusable), None
        watched = place.trace
        if watched is None or watched.images is None:
            raise ValueError("the model's input has no image (B, C, H, W) by which to find maps")
        old = self._projections(place, watched)
        try:
            made = self._adapted(place, old)
        except ValueError as error:
            raise ValueError(f"{place.path} ({place.channels} channels): {error}") from error
        geometry = Geometry.of(place.host, place.maps, watched.images[1:], self.ledger.image,
                               at_output=self.step.call == "insert")  # fmt: skip
        if self.step.call == "insert":
            child = Inserted(made.module, made.role, geometry, place.channels,
                             identity=self.step.start == "identity")  # fmt: skip
            self._settle(child, place)
            return self._change(place, made, "inserted", (), ()), child
        kept, dropped = self._kept(place, made.module, old)
        return self._replacing(place, made, geometry, kept, dropped, old)

    def _adapted(self, place: Place, old: _keep.Projections | str | None) -> Adapted:
        roles = _ROLES.get(place.kind, _ANY_ROLE) if self.step.call == "replace" else _ANY_ROLE
        heads = None
        if isinstance(old, _keep.Projections) and place.channels % old.num_heads == 0:
            heads = old.num_heads
        if heads is None:
            heads = _heads(place.channels)
        where = adapting.Place(
            place.channels, num_heads=heads, size=place.size, roles=tuple(roles)
        )  # fmt: skip
        return adapt(self.mechanism, where, self.step.options)

    def _projections(self, place: Place, watched: Trace) -> _keep.Projections | str | None:
        if self.step.call == "insert" or place.kind not in ("attention", "module"):
            return None
        return _keep.projections(place.calls[0], watched.nodes)

    def _kept(
        self, place: Place, module: nn.Module, old: _keep.Projections | str | None
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        kept: list[str] = []
        sources: list[Tensor] = []
        if isinstance(old, _keep.Projections) and self.step.keep == "auto":
            kept = _keep.keep_in(module, old)
            sources = old.sources if kept else []
        dropped = [*_keep.unkept(place.module, sources), *place.arguments]
        return tuple(kept), tuple(dropped)

    def _fresh(
        self, place: Place, kept: tuple[str, ...], old: _keep.Projections | str | None
    ) -> str:
        """Why projections start with fresh weights, where that was not asked for."""
        if self.step.keep != "auto" or place.kind != "attention" or {"qkv", "q"} & set(kept):
            return ""
        if isinstance(old, _keep.Projections):
            width = len(old.q.weight) // old.num_heads
            return f"fresh weights: the old queries' {width} channels a head do not fit"
        return f"fresh weights: {old}"

    def _settle(self, module: nn.Module, place: Place) -> None:
        """Put a new module on the device, in the type and mode of the old one's."""
        parameters = [*place.module.parameters(), *self.model.parameters()]
        reference = next((p for p in parameters if p.is_floating_point()), None)
        if reference is not None:
            module.to(device=reference.device, dtype=reference.dtype)
        module.train(place.module.training)

    def _replacing(
        self, place: Place, made: Adapted, geometry: Geometry, kept: tuple[str, ...],
        dropped: tuple[str, ...], old: _keep.Projections | str | None,
    ) -> tuple[Change, Handover | Replacement | None]:  # fmt: skip
        call = place.calls[0]
        container = isinstance(place.module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        gradual = self.step.start == "handover"
        beside = place.prefix_tokens > 0 and made.role != "token_mixer"
        if (gradual or beside) and container:
            why = "a container of modules runs whatever is put beside its own"
            return Change(place.path, place.cls, self.step.mechanism, "left alone", note=why), None
        if gradual or beside:
            result = Result(call.output, call.args, call.kwargs)
            child = Handover(made.module, made.role, geometry, place.channels, result,
                             gradual=gradual)  # fmt: skip
            how = "handover" if gradual else "beside"
            change = self._change(place, made, how, kept, dropped)
        else:
            result = Result(call.output, call.args, call.kwargs)
            child = Replacement(made.module, made.role, geometry, place.module, result)
            change = self._change(place, made, "replaced", kept, dropped)
        self._settle(child, place)
        if fresh := self._fresh(place, kept, old):
            change = _noted(change, fresh)
        return change, child

    def _change(
        self, place: Place, made: Adapted, how: str, kept: tuple[str, ...],
        dropped: tuple[str, ...],
    ) -> Change:  # fmt: skip
        notes = []
        if place.windows > 1 and self.step.call == "replace":
            notes.append("attends beyond the windows that were cut")
        if not place.row_major and place.windows == 1:
            notes.append("tokens put in order")
        passes_by = how == "inserted" and place.prefix_tokens and made.role != "token_mixer"
        if passes_by and place.is_last_mixing:
            notes.append("no attention follows: a head that reads the class token sees no change")
        if how == "beside":
            notes.append(f"{place.prefix_tokens} prefix tokens keep the old module, at its cost")
        if how == "handover" and place.prefix_tokens and made.role != "token_mixer":
            notes.append(f"{place.prefix_tokens} prefix tokens keep the old module")
        return Change(
            place.path, place.cls, self.step.mechanism, how, dict(made.options), kept, dropped,
            "; ".join(notes),
        )  # fmt: skip

    def put_in(self, chosen: list[Place], children: list[Any]) -> None:
        """Change the model; leave it as it was if it then fails to run."""
        before = list(self.ledger.steps)
        fresh = ledger_of(self.model) is None
        if fresh:
            self.model.__dict__[ATTRIBUTE] = self.ledger
            self.model.register_forward_pre_hook(self.ledger.before, with_kwargs=True)
        number = len(self.ledger.steps)
        try:
            for place, child in zip(chosen, children, strict=True):
                if child is not None:
                    self._put(place, child, number)
            self.ledger.steps.append(self.step)
            self._watch_images(chosen[0].trace)
            self._check(chosen[0].trace)
        except Exception as error:
            undo(self.model, self.ledger, number)
            self.ledger.steps = before
            if fresh:
                forget(self.model)
            if isinstance(error, TraceError):
                raise ValueError(
                    f"the model does not run with {self.step.mechanism} in these places, and is "
                    f"as it was: {line_of(error.__cause__)}"
                ) from error
            raise

    def _put(self, place: Place, child: Any, number: int) -> None:
        if isinstance(child, Replacement):
            names = place.names
            for name in names:
                put(self.model, name, child)
            self.ledger.swapped.append(Swapped(names, child, number))
            return
        host = self.model.get_submodule(place.host)
        name, i = CHILD, 2
        while name in host._modules:
            name, i = f"{CHILD}_{i}", i + 1
        attach(host, name, child)
        self.ledger.attached.append(Attached(place.host, name, child, number))

    def _watch_images(self, watched: Trace | None) -> None:
        """Note the images where they enter, for calls of ``forward_features`` and the like."""
        if watched is None or self.ledger.eye:
            return
        image = watched.nodes[0]
        for call in watched.calls:
            if call.path and call.inputs[:1] == [image]:
                self.ledger.eye = call.path
                call.module.register_forward_pre_hook(self.ledger.image.before, with_kwargs=True)
                return

    def _check(self, before: Trace | None) -> None:
        """Run the changed model once: every new module must be called, shapes must stay."""
        after = trace(self.model, self.example, self.step.input, through=False)
        ran = {call.module for call in after.calls}
        mine = [o.child for o in (*self.ledger.attached, *self.ledger.swapped)
                if o.step == len(self.ledger.steps) - 1]  # fmt: skip
        idle = [child.geometry.path for child in mine if child not in ran]
        if idle:
            raise ValueError(f"what was put at {idle[0]} is not called by the model")
        if before is not None:
            shapes = [
                [tuple(tensor.shape) for tensor in tensors_in(watched.calls[0].output)]
                for watched in (before, after)
            ]
            if shapes[0] != shapes[1]:
                raise ValueError(f"the model's output changes from {shapes[0]} to {shapes[1]}")


def _heads(channels: int) -> int:
    """Heads of some 32 channels, an even number if there is one: stripes share heads in two."""
    most = max(2, channels // _HEAD_CHANNELS)
    fitting = [heads for heads in range(1, most + 1) if channels % heads == 0]
    even = [heads for heads in fitting if heads % 2 == 0]
    return max(even or fitting)


def _noted(change: Change, note: str) -> Change:
    said = f"{change.note}; {note}" if change.note else note
    return dataclasses.replace(change, note=said)


def undo(model: nn.Module, ledger: Ledger, first: int = 0) -> None:
    """Take out what the steps from ``first`` on put in."""
    for swap in reversed([one for one in ledger.swapped if one.step >= first]):
        old = swap.child.__dict__["aside"].module
        if old is None:
            raise ValueError(
                f"{swap.names[0]}: the old module was not saved with the model; build the model "
                "anew to have it back"
            )
        _follow(old, swap.child, model)
        for name in swap.names:
            put(model, name, old)
    for one in reversed([one for one in ledger.attached if one.step >= first]):
        detach(model.get_submodule(one.host), one.name, one.child)
    ledger.swapped = [one for one in ledger.swapped if one.step < first]
    ledger.attached = [one for one in ledger.attached if one.step < first]
    del ledger.steps[first:]


def _follow(old: nn.Module, new: nn.Module, model: nn.Module) -> None:
    """Bring a module that stood aside to the device, type and mode that the model has come to."""
    now = _floating(new) if _floating(new) is not None else _floating(model)
    then = _floating(old)
    if now is not None and then is not None and then.device.type != "meta":
        # One of several types keeps them unless the model was converted.
        old.to(now.device, None if then.dtype is now.dtype else now.dtype)
    if old.training is not new.training:
        old.train(new.training)


def _floating(module: nn.Module) -> Tensor | None:
    return next((p for p in module.parameters() if p.is_floating_point()), None)


def forget(model: nn.Module) -> None:
    """Take the ledger and its hooks off the model."""
    ledger = model.__dict__.pop(ATTRIBUTE, None)
    if ledger is None:
        return
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if getattr(hook, "__self__", None) in (ledger, ledger.image):
                del module._forward_pre_hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)

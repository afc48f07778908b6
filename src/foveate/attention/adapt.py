"""A mechanism for a place in a network: built with the options that it has, in a role that fits.

A place knows its channels and often more: the heads of the stage, the size of the map, whether
windows are shifted here. A mechanism takes of this what its constructor has an option for. What
the user asks for explicitly is never dropped: an option that the mechanism lacks is an error.

>>> place = Place(64, num_heads=2, roles=("mixer", "gate"))
>>> adapt("neighborhood", place, {"kernel_size": 5}).module
>>> adapt("cbam", place).left_out
{'num_heads': 2}
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from foveate.arguments import nearest, pair
from foveate.contracts import Attention, MapOfTokens, Role, TokenMixer
from foveate.registry import describe, list_attention

Mechanism = str | type[nn.Module] | Callable[..., nn.Module]
"""A registered name, a class, or a function of ``dim`` and options that gives a module."""


@dataclass(frozen=True)
class Place:
    """Where a mechanism is to stand.

    Attributes:
        dim: channels.
        num_heads: heads of attention here, for mechanisms that have heads.
        size: height and width of the map, where they are known, for mechanisms whose weights
            are made for one size (their option ``size``).
        shifted: whether windows are shifted here, as every second block of Swin does; a mechanism
            with ``shift_size`` then gets half its window.
        roles: what may stand here; empty for anything. Where a mixer may, so may a token mixer,
            which reads the map row by row.
    """

    dim: int
    num_heads: int | None = None
    size: tuple[int, int] | None = None
    shifted: bool = False
    roles: tuple[Role, ...] = ()


@dataclass(frozen=True)
class Adapted:
    """A mechanism as it stands in a place.

    Attributes:
        module: the mechanism, or :class:`~foveate.contracts.MapOfTokens` around it.
        role: the role in which it stands; None for a module that states none.
        options: all options that it was built with beside ``dim``: the user's and the place's.
        left_out: what the place offered and the mechanism has no option for; whoever replaces a
            layer by this should say so.
    """

    module: nn.Module
    role: Role | None
    options: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, Any] = field(default_factory=dict)


def create_attention(name: str, *args: Any, role: Role | None = None, **kwargs: Any) -> Attention:
    """Build the mechanism ``name``.

    Args:
        name: as in :func:`foveate.list_attention`.
        *args: passed to its constructor; the first is ``dim``.
        role: ask for this role; a token mixer is made a mixer when ``"mixer"`` is asked for.
        **kwargs: passed to its constructor.

    Raises:
        TypeError: if an argument that it needs, such as ``dim``, is not given.
        ValueError: if the name is unknown, an option is, or the mechanism cannot take the role.
    """
    spec = describe(name)
    constructor = _constructor(name)
    role = _role_here(spec.role, () if role is None else (role,), name)
    constructor.check(kwargs)
    missing = [option for option in constructor.needed[len(args) :] if option not in kwargs]
    if missing:
        call = f"create_attention({name!r}, {', '.join(constructor.needed)})"
        raise TypeError(f"{name} needs {' and '.join(missing)}: {call}")
    return _in_role(spec.cls(*args, **kwargs), role)


def adapt(
    mechanism: Mechanism,
    place: Place,
    options: Mapping[str, Any] | None = None,
    suggested: Mapping[str, Any] | None = None,
) -> Adapted:
    """Build ``mechanism`` for ``place``.

    Args:
        mechanism: a registered name, a class, or a function of ``dim`` and options.
        place: its channels, and what else is known of it.
        options: asked for by the user; they take precedence over the place and ``suggested``.
        suggested: further options, taken where the mechanism has them.

    Returns:
        The module, with what it was built with and what was left out.

    Raises:
        TypeError: if ``mechanism`` is none of the three, or gives no module.
        ValueError: if the name or one of ``options`` is unknown, the mechanism cannot take any
            of the place's roles, or its constructor does not accept the options.
    """
    constructor = _constructor(mechanism)
    options = dict(options or {})
    constructor.check(options)
    if constructor.role is not None:  # before it is built, where the role is known
        _role_here(constructor.role, place.roles, constructor.name)
    offered = {**_known_of(place), **(suggested or {})}
    taken, left_out = constructor.sort_out(offered)
    settings = {**taken, **options}
    if place.shifted and constructor.has("shift_size") and "shift_size" not in settings:
        window = settings.get("window_size", constructor.default("window_size"))
        settings["shift_size"] = tuple(side // 2 for side in pair(window, "window_size"))
    module = constructor.build(place.dim, **settings)
    if not isinstance(module, nn.Module):
        raise TypeError(f"{constructor.name} gives {type(module).__name__}, not a torch.nn.Module")
    role = None
    if isinstance(module, Attention):
        role = _role_here(module.role, place.roles, constructor.name)
        module = _in_role(module, role)
    return Adapted(module, role, settings, left_out)


def options_of(mechanism: Mechanism, offered: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the ``offered`` options that the mechanism has.

    Raises:
        TypeError: if ``mechanism`` is neither a name, a class nor a function.
        ValueError: if the name is unknown.
    """
    return _constructor(mechanism).sort_out(offered)[0]


def _known_of(place: Place) -> dict[str, Any]:
    known = {"num_heads": place.num_heads, "size": place.size}
    return {option: value for option, value in known.items() if value is not None}


def _in_role(module: Attention, role: Role) -> Attention:
    """``module``, wrapped where it is to read a map row by row."""
    wrapped = isinstance(module, TokenMixer) and role == "mixer"
    return MapOfTokens(module) if wrapped else module


def _role_here(role: Role, roles: tuple[Role, ...], name: str) -> Role:
    """The role in which a mechanism of ``role`` stands where ``roles`` may."""
    if not roles or role in roles:
        return role
    if role == "token_mixer" and "mixer" in roles:
        return "mixer"
    article = "an" if role == "aligner" else "a"
    raise ValueError(
        f"attention {name!r} is {article} {role} and cannot stand as a {' or '.join(roles)}"
    )


@dataclass(frozen=True)
class _Constructor:
    """What builds a mechanism, and the options that it has."""

    name: str
    build: Callable[..., nn.Module]
    role: Role | None
    parameters: Mapping[str, inspect.Parameter]

    @property
    def needed(self) -> list[str]:
        """What has no default, in order."""
        return [
            each.name
            for each in self.parameters.values()
            if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD
        ]

    def has(self, option: str) -> bool:
        """Whether it states such an option; what ``**kwargs`` might take is not known."""
        return option in self.parameters

    def default(self, option: str) -> Any:
        return self.parameters[option].default

    def sort_out(self, offered: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The options that it has, and the rest."""
        taken = {option: value for option, value in offered.items() if self.has(option)}
        return taken, {k: value for k, value in offered.items() if k not in taken}

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse options that it has not, unless it takes any by ``**kwargs``."""
        kinds = {parameter.kind for parameter in self.parameters.values()}
        if inspect.Parameter.VAR_KEYWORD in kinds:
            return
        for option in options:
            if not self.has(option):
                known = nearest(option, list(self.parameters))
                raise ValueError(f"{self.name} has no option {option!r}{known}")


def _constructor(mechanism: Mechanism) -> _Constructor:
    if isinstance(mechanism, str):
        spec = describe(mechanism)
        if spec.role == "reducer":
            raise ValueError(
                f"{spec.name} is a reducer, which changes a whole model: "
                f"foveate.reduce(model, {spec.name!r})"
            )
        return _Constructor(spec.name, spec.cls, spec.role, inspect.signature(spec.cls).parameters)
    if not callable(mechanism):
        raise TypeError(
            "expected the name of a mechanism, a class or a function of dim and options, got "
            f"{type(mechanism).__name__}"
        )
    registered = [name for name in list_attention() if describe(name).cls is mechanism]
    if registered:
        return _constructor(registered[0])
    name = getattr(mechanism, "__name__", type(mechanism).__name__)
    role = getattr(mechanism, "role", None)
    return _Constructor(name, mechanism, role, inspect.signature(mechanism).parameters)

"""Mechanisms as they stand in a user's model: inserted behind a module, or instead of one."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy, deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from foveate.contracts import Role
from foveate.surgery._geometry import Geometry
from foveate.surgery._origins import tensors_in
from foveate.surgery.trace import is_tracing


class Standing(nn.Module):
    """A mechanism in a place, whatever the layout of its features.

    Args:
        mechanism: what stands here.
        role: its role; None for a module that states none, which then gets a map.
        geometry: how the features hold a map.
    """

    def __init__(self, mechanism: nn.Module, role: Role | None, geometry: Geometry) -> None:
        super().__init__()
        self.mechanism = mechanism
        self.role = role
        self.geometry = geometry

    def mixed(self, x: Tensor, others: Tensor | None = None) -> Tensor:
        """The mechanism's output in the shape of ``x``.

        Tokens that are not cells are seen by token mixers alone; otherwise they are those of
        ``others``, a tensor of the shape of ``x``, or stay as they are.
        """
        if self.role == "token_mixer":
            tokens, known = self.geometry.sequence(x)
            return self.geometry.unsequence(self.mechanism(tokens), known, x)
        cells, rest, known = self.geometry.split(x)
        if rest is not None and others is not None:
            rest = self.geometry.split(others)[1]
        return self.geometry.join(self.mechanism(cells), rest, known, x)

    def channelwise(self, scale: Tensor) -> Tensor:
        """``scale``, one number a channel, so that it multiplies the features."""
        behind = self.geometry.rank - self.geometry.axis - 1
        return scale.view(-1, *[1] * behind)


class Inserted(Standing):
    """Behind a module: ``x + s (g(x) - x)`` for a gate, ``x + s m(x)`` for a mixer, s a channel.

    With s = 0 nothing changes, exactly; without s the mechanism's output takes the place of ``x``.
    """

    def __init__(
        self, mechanism: nn.Module, role: Role | None, geometry: Geometry, dim: int,
        *, identity: bool,
    ) -> None:  # fmt: skip
        super().__init__(mechanism, role, geometry)
        self.scale = nn.Parameter(torch.zeros(dim)) if identity else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.mixed(x)
        if self.scale is None:
            return y
        if self.role in ("mixer", "token_mixer"):
            return x + self.channelwise(self.scale) * y
        return x + self.channelwise(self.scale) * (y - x)

    def behind(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """The hook on the module behind which this stands."""
        if is_tracing():
            return None
        return with_features(output, self(features_of(output)))


class Handover(Standing):
    """Beside a module: ``old(x) + s (new(x) - old(x))``, s a channel, or ``new(x)`` without s.

    Tokens that are not cells (class and register tokens) keep what the old module gives them.
    """

    def __init__(
        self, mechanism: nn.Module, role: Role | None, geometry: Geometry, dim: int,
        result: Result, *, gradual: bool,
    ) -> None:  # fmt: skip
        super().__init__(mechanism, role, geometry)
        self.result = result
        self.scale = nn.Parameter(torch.zeros(dim)) if gradual else None

    def forward(self, x: Tensor, old: Tensor) -> Tensor:
        new = self.mixed(x, old)
        return new if self.scale is None else old + self.channelwise(self.scale) * (new - old)

    def behind(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """The hook on the module beside which this stands."""
        if is_tracing():
            return None
        x = features_of((args, kwargs))
        return with_features(output, self(x, features_of(output)))


class Replacement(Standing):
    """Instead of a module: takes what it took, gives what it gave.

    Args:
        mechanism: what stands here.
        role: its role.
        geometry: how the features hold a map.
        old: the module that stood here; kept beside, outside of the state, for
            :func:`foveate.restore`. What plain numbers it had as attributes can still be read.
        result: what the old module gave beside its features.
    """

    is_weighted = True  # in a trace that passes it through

    def __init__(
        self, mechanism: nn.Module, role: Role | None, geometry: Geometry, old: nn.Module,
        result: Result,
    ) -> None:  # fmt: skip
        super().__init__(mechanism, role, geometry)
        self.result = result
        self.__dict__["aside"] = Aside(old)
        for name, value in vars(old).items():
            plain = isinstance(value, int | float | str | tuple) and not name.startswith("_")
            if plain and name not in ("training", "role", "scale"):
                self.__dict__.setdefault(name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        x = features_of((args, kwargs))
        y = x.clone() if is_tracing() else self.mixed(x)
        return self.result.around(y, args, kwargs)


class Aside:
    """A module that its holder does not count as its own; a pickle leaves it out."""

    def __init__(self, module: nn.Module | None) -> None:
        self.module = module

    def __reduce__(self) -> Any:
        return Aside, (None,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Aside:
        return Aside(deepcopy(self.module, memo))


class Result:
    """What a module gives: its features, alone or among further values.

    Args:
        output: what it gave once.
        args: what it was called with then.
        kwargs: and by name.
    """

    def __init__(self, output: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.kind = None if isinstance(output, Tensor) else type(output)
        self.others: list[tuple[int | str | None, Any]] = []
        if self.kind is None:
            return
        self.at = next(i for i, value in enumerate(output) if isinstance(value, Tensor))
        offered = {**dict(enumerate(args)), **kwargs}
        for value in output:
            same = [
                key for key, given in offered.items()
                if not tensors_in(given) and given is not None and _equal(given, value)
            ]  # fmt: skip
            constant = None if isinstance(value, Tensor) else value
            self.others.append((same[0] if same else None, constant))

    def around(self, features: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The same for other features; what was an argument is the argument of this call."""
        if self.kind is None:
            return features
        values = []
        for key, constant in self.others:
            named = kwargs.get(key) if isinstance(key, str) else None
            values.append(args[key] if isinstance(key, int) else named or constant)
        values[self.at] = features
        return self.kind(values)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return list(one) == list(other)
    return not isinstance(other, Tensor) and type(one) is type(other) and one == other


def features_of(value: Any) -> Tensor:
    """The first tensor among arguments or results."""
    return value if isinstance(value, Tensor) else tensors_in(value)[0]


def with_features(output: Any, features: Tensor) -> Any:
    """``output`` with its first tensor replaced."""
    if isinstance(output, Tensor):
        return features
    if isinstance(output, dict):  # such as the outputs of transformers' models
        made = copy(output)
        made[next(key for key, value in output.items() if isinstance(value, Tensor))] = features
        return made
    values = list(output)
    at = next(i for i, value in enumerate(values) if isinstance(value, Tensor))
    values[at] = features
    return type(output)(values)

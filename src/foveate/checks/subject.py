"""A mechanism under examination: how it is built small, and what it is fed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from foveate.attention.adapt import create_attention, options_of
from foveate.checks.tables import EXAMPLES
from foveate.contracts import Attention, Role
from foveate.registry import describe, list_attention

Size = tuple[int, int]

DIM = 16
NUM_HEADS = 2


@dataclass(frozen=True)
class Subject:
    """A mechanism with the options it is examined with.

    Sizes are pairs for every role: height and width of a map, the tokens of a sequence read
    from such a map, or queries and memory positions of an aligner.

    Attributes:
        name: what reports call it.
        factory: called with ``dim`` and the options, gives the module.
        role: mixer, gate, token_mixer or aligner.
        tags: capabilities; the checks follow them.
        options: constructor options it is examined with.
        registered: whether ``create_attention`` knows it by ``name``.
        chosen: those of the options that the caller asked for.
    """

    name: str
    factory: Callable[..., nn.Module]
    role: Role
    tags: frozenset[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    registered: bool = False
    chosen: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        chosen = ", ".join(f"{key}={value!r}" for key, value in self.chosen.items())
        return f"{self.name}({chosen})" if chosen else self.name

    @property
    def dim(self) -> int:
        """Channels that it is built with."""
        return self.options.get("dim", DIM)

    def create(self, **changes: Any) -> nn.Module:
        """The module as its constructor leaves it, in training mode."""
        options = {**self.options, **changes}
        return self.factory(options.pop("dim", DIM), **options)

    def build(self, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> nn.Module:
        """The module in eval mode, with seeded parameters of which none is left at zero or one.

        Zero biases, unit scales and fresh batch statistics would hide mistakes: they are moved.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.create(**changes).eval()
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.add_(0.1 * torch.randn_like(parameter))
                for name, buffer in module.named_buffers():
                    if name.endswith("running_mean"):
                        buffer.normal_(0, 0.1)
                    elif name.endswith("running_var"):
                        buffer.uniform_(0.5, 1.5)
        return module.to(dtype)

    def inputs(
        self, size: Size, *, batch: int = 2, dtype: torch.dtype = torch.float32, seed: int = 1
    ) -> tuple[Tensor, ...]:
        """Seeded standard-normal inputs of the role, ``batch`` samples of ``size``."""
        generator = torch.Generator().manual_seed(seed)
        height, width = size
        shapes = {
            "mixer": [(batch, self.dim, height, width)],
            "gate": [(batch, self.dim, height, width)],
            "token_mixer": [(batch, height * width, self.dim)],
            "aligner": [(batch, height, self.dim), (batch, width, self.memory_dim)],
        }[self.role]
        return tuple(torch.randn(shape, generator=generator).to(dtype) for shape in shapes)

    def cost_size(self, size: Size) -> tuple[int, ...]:
        """What ``multiply_adds`` takes for ``size``."""
        return (size[0] * size[1],) if self.role == "token_mixer" else size

    @cached_property
    def memory_dim(self) -> int:
        """Channels of an aligner's memory."""
        return getattr(self.create(), "memory_dim", None) or self.dim


Examinable = str | type[Attention] | Callable[..., nn.Module] | Subject


def examine(
    attention: Examinable,
    /,
    *,
    tags: frozenset[str] | set[str] | tuple[str, ...] | None = None,
    **options: Any,
) -> Subject:
    """The subject that ``attention`` stands for.

    Args:
        attention: a registered name, a class that obeys a contract, or a function of ``dim`` and
            options that builds a module of such a class.
        tags: capabilities to examine; those of the registration by default, else none.
        **options: constructor options to examine it with.

    Raises:
        TypeError: if ``attention`` is neither, or what it builds has no role.
        ValueError: if the name is unknown.
    """
    if isinstance(attention, Subject):
        merged = {**attention.options, **options}
        return replace(attention, options=merged, chosen={**attention.chosen, **options})
    if isinstance(attention, type):
        names = [name for name in list_attention() if describe(name).cls is attention]
        attention = names[0] if names else attention
    if isinstance(attention, str):
        spec = describe(attention)
        if spec.role == "reducer":
            raise ValueError(f"{attention} is a reducer: foveate.checks.check_reducer examines it")
        name, role, known = spec.name, spec.role, spec.tags
        factory: Callable[..., nn.Module] = partial(create_attention, name)
    elif callable(attention):
        factory, known = attention, frozenset()
        name = getattr(attention, "__name__", type(attention).__name__)
        made_by = attention if isinstance(attention, type) else attention(DIM, **options)
        role = getattr(made_by, "role", None)
        if role is None:
            raise TypeError(
                f"{name} has no role: derive it from Mixer, Gate, TokenMixer or Aligner "
                "of foveate.contracts"
            )
    else:
        raise TypeError(f"expected a name, a class or a function, got {type(attention).__name__}")
    tags = known if tags is None else frozenset(tags)
    heads = options_of(attention, {"num_heads": NUM_HEADS})
    registered = isinstance(attention, str)
    example = EXAMPLES.get(name, {}) if registered else {}
    return Subject(
        name, factory, role, tags, {**heads, **example, **options}, registered, chosen=options
    )  # fmt: skip

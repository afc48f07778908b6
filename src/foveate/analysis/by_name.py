"""A mechanism or a model by its name, with the size of input to measure it on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import timm
from torch import nn

import foveate.models  # noqa: F401  registers the library's own with timm
from foveate.arguments import nearest
from foveate.attention.adapt import Place, adapt
from foveate.registry import list_attention


class Named(NamedTuple):
    """What a name stands for.

    Attributes:
        module: the mechanism or model.
        input_size: of one sample; two sizes for an aligner.
    """

    module: nn.Module
    input_size: tuple[Any, ...]


def by_name(
    name: str,
    size: Sequence[int] = (),
    *,
    dim: int = 64,
    num_heads: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Named:
    """The mechanism called ``name``, or else the timm model.

    Args:
        name: as in ``list_attention`` or ``timm.list_models``.
        size: height and width of map or image, one number for both, or nothing: 56x56 for a
            mechanism, its own for a model. Queries and keys of an aligner.
        dim: channels of a mechanism.
        num_heads: heads of a mechanism; None for an even number, about one per 32 channels.
        options: further constructor options.

    Raises:
        ValueError: if there is neither, or it cannot be built with these options.
    """
    if len(size) > 2 or any(length < 1 for length in size):
        raise ValueError(f"size takes one or two positive numbers, got {list(size)}")
    both = [*size, *size][:2]
    if name in list_attention():
        height, width = both or (56, 56)
        return _mechanism(name, height, width, dim, num_heads, dict(options or {}))
    return _model(name, both, dict(options or {}))


def _mechanism(
    name: str, height: int, width: int, dim: int, num_heads: int | None, options: dict[str, Any]
) -> Named:
    heads = num_heads or _heads(dim)
    made = adapt(name, Place(dim, num_heads=heads, roles=("mixer", "gate", "aligner")), options)
    size = ((height, dim), (width, dim)) if made.role == "aligner" else (dim, height, width)
    return Named(made.module, size)


def _heads(dim: int) -> int:
    """Heads of about 32 channels; an even number, since some mechanisms halve them."""
    return 2 * max(1, dim // 64)


def _model(name: str, size: list[int], options: dict[str, Any]) -> Named:
    if not timm.is_model(name):
        known = nearest(name, [*list_attention(), *timm.list_models()])
        raise ValueError(f"neither a mechanism nor a model is called {name!r}{known}")
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if size and config is not None and config.fixed_input_size:
        options["img_size"] = tuple(size)
    try:
        model: Any = timm.create_model(name, **options)
    except (TypeError, AssertionError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be built with {options}: {error}") from error
    channels, *own = model.default_cfg.get("input_size", (3, 224, 224))
    return Named(model, (channels, *(size or own)))

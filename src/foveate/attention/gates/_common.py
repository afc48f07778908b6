"""What several gates share: the bottleneck's width, and the reading of published names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from foveate.arguments import positive


def reduced_width(dim: int, reduction: int, divisor: int | None = None) -> int:
    """Channels of a bottleneck: ``dim / reduction``, at least one.

    Args:
        dim: channels.
        reduction: by how much they shrink.
        divisor: round to the nearest multiple of this, as timm does with 8; None rounds down.
    """
    positive(dim, "dim")
    positive(reduction, "reduction")
    if divisor is None:
        return max(1, dim // reduction)
    positive(divisor, "divisor")
    return max(divisor, int(dim / reduction + divisor / 2) // divisor * divisor)


def rename(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """``state`` with the leading module names replaced: ``{"fc.0": "fc1"}``.

    The first of ``names`` that a key starts with, as whole parts between dots, is replaced.
    """
    converted = {}
    for key, value in state.items():
        for old, new in names.items():
            if f"{key}.".startswith(f"{old}."):
                key = new + key[len(old) :]
                break
        converted[key.removeprefix(".")] = value
    return converted


def as_linear(weight: Tensor) -> Tensor:
    """The matrix of a 1x1 convolution; anything else as it is."""
    return weight.flatten(1) if weight.dim() == 4 and weight.shape[2:] == (1, 1) else weight

"""The attention map of a query: how much each position counts for the output at one of them.

Two measures, both computed from the module and normalised to sum to one:

*weights*, where the module shows dense attention: the query's row, averaged over heads;
*gradient*, everywhere else (the effective receptive field): the norm of
``d out[:, :, i, j] / d x[:, :, i', j']`` over both channel axes, position by position. It includes
what the module does beside attending, such as a residual.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from foveate.contracts import Gate, MapOfTokens, Mixer

EXACT_CHANNELS = 64


@dataclass(frozen=True)
class AttentionMap:
    """How much each position counts for one query.

    Attributes:
        map: ``(H, W)``, sums to one.
        query: row and column of the query.
        measure: ``"weights"`` or ``"gradient"``, what the map was computed from.
    """

    map: Tensor
    query: tuple[int, int]
    measure: Literal["weights", "gradient"]


def attention_map(module: nn.Module, x: Tensor, query: tuple[int, int]) -> AttentionMap:
    """How much each position counts for the output of ``module`` at ``query``, in eval mode.

    Args:
        module: maps ``(B, C, H, W)`` to the same; a mechanism or any other such module.
        x: its input; the samples of the batch are averaged.
        query: row and column.

    Raises:
        ValueError: if ``x`` is not a map with samples, or the query is outside of it.
    """
    if x.dim() != 4 or not x.numel():
        raise ValueError(f"expected a feature map (B, C, H, W), got {tuple(x.shape)}")
    height, width = x.shape[2:]
    if not (isinstance(query, Sequence) and len(query) == 2):
        raise ValueError(f"a query is a row and a column, got {query!r}")
    row, column = query
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"query {query} is outside the {height}x{width} map")
    with eval_mode(module):
        if shows_weights(module):
            counts, measure = _by_weights(module, x, row * width + column), "weights"
        else:
            counts, measure = _by_gradient(module, x, row, column), "gradient"
    counts = counts.double().reshape(height, width)
    shares = counts / counts.sum().clamp_min(torch.finfo(counts.dtype).tiny)
    return AttentionMap(shares.cpu(), query, measure)


def what_a_query_sees(module: nn.Module, x: Tensor, query: tuple[int, int]) -> AttentionMap:
    """The name of :func:`attention_map` in release 0.1; the next release drops it."""
    warnings.warn(
        "what_a_query_sees is now called attention_map; the old name goes with the next release",
        DeprecationWarning,
        stacklevel=2,
    )
    return attention_map(module, x, query)


def attention_layers(model: nn.Module) -> dict[str, Mixer | Gate]:
    """The mixers and gates of ``model`` by their names, without those inside another one."""
    found: dict[str, Mixer | Gate] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") or not outer for outer in found)
        if isinstance(module, (Mixer, Gate)) and not inside:
            found[name] = module
    return found


def layer_inputs(model: nn.Module, images: Tensor, layers: list[str]) -> dict[str, Tensor]:
    """The input of each of the named layers when ``model`` runs on ``images``, in eval mode."""
    captured: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            captured.setdefault(name, inputs[0].detach())

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(keep(name)) for name in layers]
    try:
        with eval_mode(model), torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return captured


def shows_weights(module: nn.Module) -> bool:
    """Whether a mechanism computes dense weights of its own to show."""
    if isinstance(module, MapOfTokens):
        module = module.token_mixer
    owner = next((cls for cls in type(module).__mro__ if "weights" in vars(cls)), None)
    # The contracts' own `weights` only raises that there are none.
    return owner is not None and owner.__module__ != Mixer.__module__


def _by_weights(module: nn.Module, x: Tensor, index: int) -> Tensor:
    with torch.no_grad():
        return module.weights(x)[:, :, index].mean((0, 1))  # pyrefly: ignore[not-callable]


def _by_gradient(module: nn.Module, x: Tensor, row: int, column: int) -> Tensor:
    """The Frobenius norm of each position's Jacobian, exact or from random directions."""
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        out = module(x)[:, :, row, column]  # (B, C)
    squares = torch.zeros(x.shape[0], *x.shape[2:], device=x.device)
    for direction in _directions(out):
        (gradient,) = torch.autograd.grad(out, x, direction.expand_as(out), retain_graph=True)
        squares += gradient.float().square().sum(1)
    return squares.sqrt().mean(0)


def _directions(out: Tensor) -> Tensor:
    channels = out.shape[1]
    if channels <= EXACT_CHANNELS:
        directions = torch.eye(channels)
    else:
        directions = torch.randn(
            EXACT_CHANNELS, channels, generator=torch.Generator().manual_seed(0)
        )
    return directions.to(out)


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Within, ``module`` and all in it are in eval mode; then each is as it was."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode

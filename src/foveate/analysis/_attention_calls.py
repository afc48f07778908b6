"""Every attention that a model computes, in the order in which it does.

The model runs as it is, once. What its layers hand to PyTorch's fused attention, and the weights
that others hand to their dropout, are what they really used; weights of a fused attention are
computed beside it, for the queries that are asked for. Mechanisms of this library show theirs from
the input that they get.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from foveate._attention_rows import AttentionObserver, FusedAttention, picked
from foveate.analysis.attention_map import eval_mode, shows_weights
from foveate.contracts import Aligner, Attention, Gate

Rows = Callable[[Tensor | None], Tensor]

LARGEST = 2**30
"""Bytes that the maps of all layers take at most, and those of a mechanism that shows all pairs."""


class CannotShowError(Exception):
    """Why a layer that attends has no maps."""


class Running(NamedTuple):
    """A module that runs: its name, itself, and what it was called with."""

    name: str
    module: nn.Module
    inputs: tuple[Any, ...]


class Call(NamedTuple):
    """An attention that a layer computed.

    Attributes:
        layer: its name in the model.
        module: the layer.
        parents: those that it is in, the nearest first.
        inputs: what it was called with.
        shape: of the weights: samples, heads, queries and keys.
        rows: weights of some queries (B, h, R, M), given their numbers (R,); of all, given None.
    """

    layer: str
    module: nn.Module
    parents: tuple[Running, ...]
    inputs: tuple[Any, ...]
    shape: tuple[int, int, int, int]
    rows: Rows


def watch_attention(
    model: nn.Module,
    images: Tensor,
    note: Callable[[str, Callable[[], Call]], None],
    refuse: Callable[[str, str], None],
) -> None:
    """Run ``model`` on ``images`` in eval mode, without gradients.

    Args:
        model: any module.
        images: its input.
        note: told the layer's name at each attention, and what gives the attention itself, while
            it is computed.
        refuse: told layers that cannot show weights, and why.
    """
    observer = _Observer(model, note, refuse)
    fast = torch.backends.mha.get_fastpath_enabled()
    # Its encoder layers otherwise run as one operator, in which no attention can be seen.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with eval_mode(model), torch.no_grad(), observer.attached(), observer:
            model(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Observer(AttentionObserver):
    """Knows at each attention which module runs."""

    def __init__(
        self,
        model: nn.Module,
        note: Callable[[str, Callable[[], Call]], None],
        refuse: Callable[[str, str], None],
    ) -> None:
        super().__init__()
        self.model, self.note, self.refuse = model, note, refuse
        self.running: list[Running] = []
        self.calls: dict[str, int] = {}
        self.within = 0
        """How many mechanisms of this library run: what they compute inside is theirs to show."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Within, modules say when they begin and end."""
        with ExitStack() as stack:
            for name, module in self.model.named_modules():
                begin, end = self._begin(name or type(module).__name__), self._end
                for handle in (
                    module.register_forward_pre_hook(begin, prepend=True, with_kwargs=True),
                    module.register_forward_hook(end, always_call=True),
                ):
                    stack.callback(handle.remove)
            yield

    def _begin(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if isinstance(module, Attention) and not self.within:
                self._mechanism(Running(name, module, args), kwargs)
            elif name.rpartition(".")[2] == "attn_drop" and args and args[0].dim() == 4:
                weights, (batch, heads, queries, keys) = args[0], args[0].shape
                self._note((batch, heads, queries, keys), partial(picked, weights))
            self.running.append(Running(name, module, (*args, *kwargs.values())))
            self.within += isinstance(module, Attention)

        return hook

    def _end(self, module: nn.Module, *_: Any) -> None:
        if self.running and self.running[-1].module is module:
            self.running.pop()
            self.within -= isinstance(module, Attention)

    def fused(self, call: FusedAttention) -> None:
        if call.query.dim() == 4:
            (batch, heads, queries, _), keys = call.query.shape, call.key.shape[2]
            self._note((batch, heads, queries, keys), call.rows)

    def multi_head(self, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = inspect.signature(call).bind(*args, **kwargs)
        given.apply_defaults()
        query, key = given.arguments["query"], given.arguments["key"]  # (N, B, C) and (M, B, C)
        if query.dim() != 3:
            return
        shape = (query.shape[1], given.arguments["num_heads"], query.shape[0], key.shape[0])

        def rows(queries: Tensor | None) -> Tensor:
            asked: dict[str, Any] = {"need_weights": True, "average_attn_weights": False}
            mask = given.arguments["attn_mask"]
            if queries is not None:
                asked["query"] = query[queries]
                asked["attn_mask"] = None if mask is None else mask[..., queries, :]
            return call(**{**given.arguments, **asked, "is_causal": False})[1]

        self._note(shape, rows)

    def _note(self, shape: tuple[int, int, int, int], rows: Rows) -> None:
        if self.within:
            return
        layer = self.running[-1]
        parents = tuple(reversed(self.running[:-1]))
        name = self._name(layer.name)
        call = Call(name, layer.module, parents, layer.inputs, shape, rows)
        self.note(name, lambda: call)

    def _name(self, name: str) -> str:
        """Of a layer's first attention its own name, of others that with a number."""
        self.calls[name] = self.calls.get(name, 0) + 1
        return name if self.calls[name] == 1 else f"{name} ({self.calls[name]})"

    def _mechanism(self, layer: Running, kwargs: dict[str, Any]) -> None:
        """A mechanism's own weights, as it shows them for its input."""
        module = layer.module
        if not shows_weights(module):
            self.refuse(layer.name, _why_not(module))
            return
        parents = tuple(reversed(self.running))
        name = self._name(layer.name)

        def made() -> Call:
            weights = _weights(module, layer.inputs, kwargs)
            batch, heads, queries, keys = weights.shape
            shape = (batch, heads, queries, keys)
            return Call(name, module, parents, layer.inputs, shape, partial(picked, weights))

        self.within += 1
        try:
            self.note(name, made)
        finally:
            self.within -= 1


def _weights(module: Any, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Those that a mechanism shows, all pairs at once.

    Raises:
        CannotShowError: if they take too much memory.
    """
    x = inputs[0]
    count = x.shape[1] if x.dim() == 3 else x.shape[2] * x.shape[3]
    if 4 * len(x) * getattr(module, "num_heads", 1) * count**2 > LARGEST:
        raise CannotShowError(f"it shows all {count} x {count} pairs at once, more than 1 GiB")
    return module.weights(*inputs, **kwargs)


def _why_not(module: nn.Module) -> str:
    if isinstance(module, Gate):
        return f"{type(module).__name__} is a gate: it multiplies features and weighs no positions"
    if isinstance(module, Aligner):
        return f"{type(module).__name__} attends to a memory and not to the image"
    return f"{type(module).__name__} has no dense weights of positions to show"

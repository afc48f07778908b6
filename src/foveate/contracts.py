"""The roles of attention: what a mechanism takes, gives back and can show.

Everything that works on *any* mechanism (surgery, comparison, profiling, pictures, export, the
common checks) is written against the contracts of four roles. The fifth, the reducer, changes a
whole vision transformer and not a layer. B batch, C channels, H height, W width, N tokens, h heads,
T queries, S memory positions, M memory channels.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from foveate.arguments import check_map
from foveate.layout import map_to_tokens, tokens_to_map

__all__ = [
    "Aligner",
    "Attention",
    "Gate",
    "MapOfTokens",
    "Mixer",
    "OneStep",
    "Reducer",
    "Role",
    "TokenMixer",
]

Role = Literal["mixer", "gate", "token_mixer", "aligner", "reducer"]
"""What a mechanism may be; the base classes of this module state what each one promises."""


class OneStep(nn.Module):
    """A module that symbolic tracing (``torch.fx``, torchvision's features) takes as one step.

    Such a module chooses its path by shapes or values, which a symbol does not have.
    ``torch.jit.trace``, which would keep the path of its example for all sizes, is refused.
    """

    by_shape: ClassVar[bool] = True
    """Whether shapes choose the path, so that no trace of one example is right for others."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.by_shape and torch.jit.is_tracing():
            raise RuntimeError(
                f"{type(self).__name__} goes by the size of its input, and torch.jit.trace keeps "
                "that of the example: use torch.export.export, or torch.onnx.export with "
                "dynamo=True; to count, foveate.count_flops"
            )
        tracer = _tracer((*args, *kwargs.values()))
        if tracer is None:
            return super().__call__(*args, **kwargs)

        def step(*args: Any, **kwargs: Any) -> Any:
            return tracer.create_proxy("call_module", tracer.path_of_module(self), args, kwargs)

        return tracer.call_module(self, step, args, kwargs)


def _tracer(values: tuple[Any, ...]) -> Any:
    """What traces symbols among ``values``; None where there are none."""
    for value in values:
        if isinstance(value, Proxy):
            return value.tracer
        if isinstance(value, tuple) and (found := _tracer(value)) is not None:
            return found
    return None


class Attention(OneStep):
    """Base of every mechanism, whatever its role.

    ``print(module)`` shows the options that it was built with; a subclass has nothing to write
    for it.
    """

    role: ClassVar[Role]
    cancelled: ClassVar[tuple[str, ...]] = ()
    """Parameters that the equation cancels: checkpoints hold them, and no gradient reaches them."""
    _options: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Options such as qkv_bias leave no attribute behind, so what was passed is kept here. A
        # copy or an unpickled module is made without arguments and gets the options of its origin.
        module = super().__new__(cls)
        module.__dict__["_options"] = _plain_options(cls, args, kwargs)
        return module

    def extra_repr(self) -> str:
        """The options it was built with: sizes and heads always, switches unless by default."""
        options = inspect.signature(type(self)).parameters.values()
        return ", ".join(
            f"{option.name}={self._options[option.name]!r}"
            for option in options
            if option.name in self._options
            and (
                option.kind is not inspect.Parameter.KEYWORD_ONLY
                or self._options[option.name] != option.default
            )
        )

    def multiply_adds(self, *size: int) -> int:
        """Multiply-adds of one sample in closed form; ``size`` is the role's.

        Matrix products, convolutions and the library's own operators count; softmax,
        normalisation and element-wise work do not.
        """
        raise NotImplementedError(f"{type(self).__name__} states no closed form")


class Mixer(Attention):
    """``(B, C, H, W) -> (B, C, H, W)``: mixes positions by content, where self-attention stands.

    ``multiply_adds(height, width)``. A mixer tagged ``weights`` also has ``weights(x)`` and
    ``apply_weights(x, weights)``, and ``apply_weights(x, weights(x))`` is its output in eval mode.
    """

    role = "mixer"
    dim: int

    def weights(self, x: Tensor) -> Tensor:
        """``(B, h, H*W, H*W)``: what each query gives each key; every row sums to one."""
        raise NotImplementedError(f"{type(self).__name__} has no dense weights to show")

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        """The output with ``weights`` (as from :meth:`weights`) in place of the computed ones."""
        raise NotImplementedError(f"{type(self).__name__} has no dense weights to apply")


class Gate(Attention):
    """``(B, C, H, W) -> (B, C, H, W)``: re-weights features, where a convolution has been.

    ``multiply_adds(height, width)``.
    """

    role = "gate"
    by_shape = False
    dim: int

    def gate(self, x: Tensor) -> Tensor:
        """The factor of ``x``, broadcastable to it: the output is their product."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class TokenMixer(Attention):
    """``(B, N, C) -> (B, N, C)``: mixes the tokens of a sequence.

    ``forward(x, key_mask=None)`` takes a boolean ``(B, N)`` mask, True where a token may be
    attended. ``multiply_adds(tokens)``.
    """

    role = "token_mixer"
    dim: int

    def weights(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """``(B, h, N, N)``: what each query gives each key; every row sums to one."""
        raise NotImplementedError(f"{type(self).__name__} has no dense weights to show")

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        """The output with ``weights`` (as from :meth:`weights`) in place of the computed ones."""
        raise NotImplementedError(f"{type(self).__name__} has no dense weights to apply")


class Aligner(Attention):
    """``(query (B, T, C), memory (B, S, M)) -> (context (B, T, M), weights (B, T, S))``.

    ``forward(query, memory, memory_mask=None)`` takes a boolean ``(B, S)`` mask, True where a
    memory position may be attended. ``multiply_adds(queries, positions)``.
    """

    role = "aligner"


class Reducer(nn.Module):
    """A vision transformer in, a cheaper one out: fewer tokens, channels or attention maps.

    :func:`foveate.reduce` calls :meth:`reduce` with the options that the user gave. What comes out
    is a model of the same interface; with the options :attr:`unreduced` it computes what it did.
    """

    role: ClassVar[Role] = "reducer"
    unreduced: ClassVar[Mapping[str, Any]] = {}
    """Options with which nothing is reduced, so that the model computes what it did before."""
    afterwards: str = ""
    """What makes the model cheaper once it is trained; empty where nothing is left to do."""
    steps: str = ""
    """What a training does with the model beside learning, in words; empty where it is nothing."""
    prunes_after: float | None = None
    """Share of a training's epochs after which :meth:`finish` is due; None where it is not."""
    settles: bool = False
    """Whether :meth:`settle` is due once the model is trained."""
    options: Mapping[str, Any] = {}
    """Those that the user gave."""
    watch: Any = None
    """What notes a forward, within :func:`foveate.reduction.watching`."""

    @classmethod
    def reduce(cls, model: nn.Module, **options: Any) -> nn.Module:
        """``model`` with fewer tokens, channels or maps.

        Raises:
            ValueError: if the model is of a kind that cannot be reduced, or an option is wrong.
        """
        raise NotImplementedError

    def undo(self, model: nn.Module) -> None:
        """Make ``model``, which this has reduced, what it was, with the weights that it has now.

        Raises:
            ValueError: if what it lost is not there any more.
        """
        raise ValueError(f"what {type(self).__name__} took from the model is not there any more")

    def added(self) -> list[nn.Parameter]:
        """Parameters that the model did not have before."""
        return []

    def multiply_adds(self, tokens: int) -> int:
        """Multiply-adds of the blocks in closed form, in eval mode, given so many ``tokens``."""
        raise NotImplementedError(f"{type(self).__name__} states no closed form")

    def image_multiply_adds(self, size: tuple[int, int]) -> int:
        """Those of an image of ``size`` (H, W), of a reducer that is a new model and no blocks."""
        raise NotImplementedError(f"{type(self).__name__} states no closed form")

    def progress(self, done: float) -> None:
        """Told in training what share of it is over: as each epoch begins, and 1 at the end."""

    def penalties(self, watch: Any) -> dict[str, Tensor]:
        """What is to be added to the loss in training, by name.

        Args:
            watch: what the forward of a batch noted.
        """
        return {}

    def finish(self) -> None:
        """End what only training needs, in place and for good; few reducers have such."""

    def settle(self, batches: Iterable[Tensor]) -> None:
        """Choose, on images that were not trained on, what is not learnt; few reducers do.

        Args:
            batches: images as the model takes them, (B, 3, H, W) each.
        """


class MapOfTokens(Mixer):
    """A token mixer as a mixer: it gets the map's positions, row by row, as its sequence.

    Args:
        token_mixer: maps ``(B, N, C)`` to ``(B, N, C)``.
    """

    def __init__(self, token_mixer: TokenMixer) -> None:
        super().__init__()
        self.token_mixer = token_mixer
        self.dim = token_mixer.dim

    def multiply_adds(self, height: int, width: int) -> int:
        return self.token_mixer.multiply_adds(height * width)

    def weights(self, x: Tensor) -> Tensor:
        return self.token_mixer.weights(map_to_tokens(x))  # (B, h, H*W, H*W)

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        tokens = self.token_mixer.apply_weights(map_to_tokens(x), weights)
        return tokens_to_map(tokens, *x.shape[2:], like=x)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        return tokens_to_map(self.token_mixer(map_to_tokens(x)), *x.shape[2:], like=x)


def _plain_options(
    cls: type[Attention], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any]:
    """The constructor's arguments by name, defaults included, without None, tensors and modules."""
    try:
        given = inspect.signature(cls).bind(*args, **kwargs)
    except TypeError:  # the constructor itself refuses them next, or nothing is constructed
        return {}
    given.apply_defaults()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        name: value
        for name, value in given.arguments.items()
        if given.signature.parameters[name].kind in named
        and value is not None
        and not isinstance(value, Tensor | nn.Module)
    }

"""Makes an operator one of PyTorch's: schema, fake kernels, autograd, FLOPs, compilers.

An operator is a NamedTuple of its arguments and a body a backend (:class:`Operator`). From these
``foveate::NAME`` and ``foveate::NAME_backward`` are registered, opaque to compilers: which backend
computes is decided where they run. Only Triton kernels are visible to the compiler, which then
starts them itself.

The forward gives its output and what it kept for a backward (``kept``: a log-sum-exp, the
probabilities, or nothing). A gradient that is to be differentiated again, forward mode and
``torch.func`` transforms go through the portable form.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar, get_type_hints

import torch
from torch import SymInt, Tensor
from torch.utils.flop_counter import register_flop_formula

from foveate.arguments import one_of
from foveate.layout import in_format, memory_format
from foveate.ops._backends import (
    BACKENDS,
    choose,
    default_backend,
    interpreted,
    launching_on,
    requested_backend,
    unsupported_in_transform,
    unsupported_tensors,
    visible_to_compiler,
)
from foveate.ops._dropout import draw_seed
from foveate.ops._torch import (
    FunctionalTensorMode,
    autograd_in_body,
    below_autograd,
    has_tangent,
    in_transform,
    watched,
)
from foveate.ops.native import library

A = TypeVar("A", bound=tuple)
Result = tuple[Tensor, Tensor | None]  # output, and what was kept

_SCHEMA_TYPES = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    Sequence[int]: "int[]",
    Sequence[int | SymInt]: "SymInt[]",
    float: "float",
    bool: "bool",
    str: "str",
}
_library = torch.library.Library("foveate", "FRAGMENT")


class Flags(NamedTuple):
    """What a forward is given beside the operator's arguments.

    Attributes:
        return_kept: whether the caller reads what is kept.
        training: whether a backward may follow.
    """

    return_kept: bool
    training: bool


class Given(NamedTuple):
    """What a backward is given beside the operator's arguments.

    Attributes:
        grad_out: the gradient of the output.
        grad_kept: that of what was kept, where it is differentiable.
        out: the output, for a backward that reads it.
        kept: what the forward kept.
        parameter_grads: whether the gradients of the operator's ``parameters`` are wanted.
    """

    grad_out: Tensor
    grad_kept: Tensor | None
    out: Tensor | None
    kept: Tensor
    parameter_grads: bool


class Body(NamedTuple):
    """An operator's computation by a compiled backend."""

    forward: Callable[[Any, Flags], Result]
    backward: Callable[[Given, Any], Sequence[Tensor]]


def attended(a: Any) -> Tensor:
    """The output of attention, still empty: ``(B, H, W, heads, Dv)``."""
    return a.q.new_empty((*a.q.shape[:4], a.v.shape[4]))


@dataclass(eq=False)
class Operator(Generic[A]):
    """An operator, registered with PyTorch when it is made.

    Attributes:
        name: ``foveate::`` follows from it.
        arguments: a NamedTuple whose annotations are the schema; ``dropout_p`` comes with ``seed``.
        parameters: names of what has a gradient beside the maps; the last may be None.
        portable: output, and what is kept if the flags ask for it.
        exported: the same in the form for exported programs.
        any_derivative: the same by a form that has derivatives of every order and mode.
        native: the CPU kernels.
        triton: loads a module with the ``forward`` and ``backward`` of a :class:`Body`; None: there
            are no Triton kernels.
        limits: why a backend cannot take these arguments, beyond what holds for all operators.
        kept_shape: the shape of what is kept, by whether a backward may follow; None: nothing is.
        flops: of a forward; tensors are shapes there.
        backward_flops: of a backward, by whether it computes gradients of parameters.
        kept_has_gradient: whether what is kept is differentiable.
        triton_reads_out: whether the Triton backward reads the output.
        opaque_on: the one type of device where compilers see this operator, and autograd does
            unless a backend is asked for; elsewhere they see its portable form. None: they see the
            operator everywhere.
        maps: names of the tensors that it mixes; the first says device and dtype.
        output: the output of these arguments, still empty.
        keeps_format: whether results that are maps ``(B, C, H, W)`` have the memory format of the
            map that they belong to; all others are contiguous.
    """

    name: str
    arguments: type[A]
    parameters: tuple[str, ...]
    portable: Callable[[A, Flags], Result]
    exported: Callable[[A, Flags], Result]
    any_derivative: Callable[[A], Result]
    native: Body
    triton: Callable[[], ModuleType] | None
    limits: Callable[[str, A], str]
    kept_shape: Callable[[A, bool], Sequence[int] | None]
    flops: Callable[[A], int]
    backward_flops: Callable[[A, bool], int]
    kept_has_gradient: bool = False
    triton_reads_out: bool = False
    opaque_on: str | None = None
    maps: tuple[str, ...] = ("q", "k", "v")
    output: Callable[[A], Tensor] = attended
    keeps_format: bool = False

    overload: Any = field(init=False)
    backward_overload: Any = field(init=False)

    def __post_init__(self) -> None:
        arguments, backward = _schema(self.arguments), f"{self.name}_backward"
        # A schema of one result would not return a tuple: a second gradient is empty.
        self._gradients = max(2, len(self.maps + self.parameters))
        gradients = ", ".join(["Tensor"] * self._gradients)
        _library.define(f"{self.name}({arguments}, {_schema(Flags)}) -> (Tensor, Tensor)")
        _library.define(f"{backward}({_schema(Given)}, {arguments}) -> ({gradients})")
        forward_packet = getattr(torch.ops.foveate, self.name)
        backward_packet = getattr(torch.ops.foveate, backward)
        self.overload, self.backward_overload = forward_packet.default, backward_packet.default

        hints = get_type_hints(self.arguments)
        self._count = len(hints)
        self._tensors = [
            i for i, kind in enumerate(hints.values()) if kind in (Tensor, Tensor | None)
        ]
        self._differentiable = [
            self.arguments._fields.index(name) for name in self.maps + self.parameters
        ]
        self._first_parameter = min(self._differentiable[len(self.maps) :], default=self._count)
        self._function = _autograd_function(self)

        _library.impl(self.name, self._run, "CompositeExplicitAutograd")
        _library.impl(backward, self._run_backward, "CompositeExplicitAutograd")
        _library.impl(self.name, self._with_autograd, "Autograd")
        for name, fake, visible in (
            (self.name, self._fake, self._visible),
            (backward, self._fake_backward, self._visible_backward),
        ):
            qualified = f"foveate::{name}"
            torch.library.register_fake(qualified, fake, lib=_library)
            torch.library.register_torch_dispatch(
                qualified, FunctionalTensorMode, visible, lib=_library
            )
        register_flop_formula(forward_packet)(self._count_flops)
        register_flop_formula(backward_packet)(self._count_backward_flops)

    def __call__(self, a: A, *, return_kept: bool = False) -> Result:
        """Output of checked arguments, and what was kept if asked for; draws dropout's seed."""
        if getattr(a, "dropout_p", 0.0):
            a = a._replace(seed=draw_seed())
        if in_transform():
            choose(self.name, unsupported_in_transform)
            return self.any_derivative(a)
        if torch.compiler.is_exporting() or torch.jit.is_tracing():
            return self.exported(a, Flags(return_kept, training=False))
        transparent = self.opaque_on and self._first(a).device.type != self.opaque_on
        # The compiler does not see what is requested.
        if transparent and (torch.compiler.is_compiling() or self.backend(a) == "portable"):
            return self.portable(a, Flags(return_kept, training=False))
        if watched([a[i] for i in self._tensors]):
            return self.overload(*a, return_kept, False)
        return self._computed(a, Flags(return_kept, training=False), self.backend(a))

    def _backward_reads_out(self, values: Sequence[Any]) -> bool:
        """Whether a Triton backward may follow that reads the output."""
        if not self.triton_reads_out or (values[0].device.type == "cpu" and not interpreted()):
            return False
        return not self.unsupported(self._split(values)[0], "triton")

    def unsupported(self, a: A, backend: str) -> str:
        """Why a backend cannot take these arguments; empty if it can."""
        if backend == "triton" and self.triton is None:
            return f"it has no kernel for {self.name}"
        tensors = [a[i] for i in self._tensors]
        maps = [getattr(a, name) for name in self.maps]
        return unsupported_tensors(backend, maps, tensors) or self.limits(backend, a)

    def backend(self, a: A) -> str:
        """The backend that runs these arguments now; raises if a requested one cannot."""
        return choose(self.name, partial(self.unsupported, a))

    # ---- what PyTorch calls

    def _first(self, a: A) -> Tensor:
        return getattr(a, self.maps[0])

    def _split(self, values: Sequence[Any]) -> tuple[A, Flags]:
        return self.arguments(*values[: self._count]), Flags(*values[self._count :])

    def _split_backward(self, values: Sequence[Any]) -> tuple[Given, A]:
        count = len(Given._fields)
        return Given(*values[:count]), self.arguments(*values[count:])

    def _run(self, *values: Any) -> tuple[Tensor, Tensor]:
        a, flags = self._split(values)
        out, kept = self._computed(a, flags, self.backend(a))
        return out, self._filled(a, flags, kept)

    def _computed(self, a: A, flags: Flags, backend: str) -> Result:
        """What a backend gives."""
        if backend == "native":
            return self.native.forward(a, flags)
        if backend == "triton":
            with launching_on(self._first(a).device):
                return self.triton().forward(a, flags)
        out, kept = self.portable(a, flags)
        out = self._laid_out(out, self._first(a))
        return out, None if kept is None else kept.contiguous()

    def _run_backward(self, *values: Any) -> tuple[Tensor, ...]:
        given, a = self._split_backward(values)
        backend = self.backend(a)
        if backend == "native":
            return self._all(self.native.backward(given, a))
        if backend == "triton":
            with launching_on(self._first(a).device):
                return self._all(self.triton().backward(given, a))
        wanted = self._wanted(a, given)
        with autograd_in_body():
            a = a._replace(**{name: getattr(a, name).detach().requires_grad_() for name in wanted})
            result = self.portable(a, Flags(given.grad_kept is not None, training=False))
            grads = _gradients(result, [getattr(a, name) for name in wanted], given)
        results = zip(grads, wanted, strict=True)
        return self._all([self._laid_out(grad, getattr(a, name)) for grad, name in results])

    def _with_autograd(self, *values: Any) -> tuple[Tensor, Tensor]:
        leaves = [x for i in self._differentiable if (x := values[i]) is not None]
        if has_tangent(leaves):
            a, flags = self._split(values)
            out, kept = self.any_derivative(a)
            return out, self._filled(a, flags, kept)
        if torch.is_grad_enabled() and any(x.requires_grad for x in leaves):
            return self._function.apply(*values[:-1], True)  # training
        with below_autograd():
            return self.overload(*values)

    def _fake(self, *values: Any) -> tuple[Tensor, Tensor]:
        a, flags = self._split(values)
        return self.output(a), self._filled(a, flags, None)

    def _fake_backward(self, *values: Any) -> tuple[Tensor, ...]:
        given, a = self._split_backward(values)
        maps = [getattr(a, name) for name in self._wanted(a, given)]
        if self.keeps_format:
            return self._all([empty(x.shape, x) for x in maps])
        return self._all([x.new_empty(x.shape) for x in maps])

    def _visible(self, mode: Any, op: Any, types: Any, args: tuple, kwargs: dict) -> Any:
        a, flags = self._split(args)
        if not visible_to_compiler(self.backend(a)):
            return mode.__torch_dispatch__(op, types, args, kwargs)
        with mode:
            return self.triton().forward(a, flags)

    def _visible_backward(self, mode: Any, op: Any, types: Any, args: tuple, kwargs: dict) -> Any:
        given, a = self._split_backward(args)
        if not visible_to_compiler(self.backend(a)):
            return mode.__torch_dispatch__(op, types, args, kwargs)
        with mode:
            return self._all(self.triton().backward(given, a))

    def _count_flops(self, *values: Any, **kwargs: Any) -> int:
        return self.flops(self._split(values)[0])

    def _count_backward_flops(self, *values: Any, **kwargs: Any) -> int:
        given, a = self._split_backward(values)
        return self.backward_flops(a, given.parameter_grads)

    def _filled(self, a: A, flags: Flags, kept: Tensor | None) -> Tensor:
        """What was kept; NaN in its shape where it was not computed."""
        if kept is not None:
            return kept
        like = self._first(a)
        dtype = torch.float64 if like.dtype is torch.float64 else torch.float32
        shape = self.kept_shape(a, flags.training)
        if shape is None:
            return like.new_empty(0, dtype=dtype)
        return like.new_full(shape, float("nan"), dtype=dtype)

    def _laid_out(self, x: Tensor, like: Tensor) -> Tensor:
        """A result that belongs to ``like``, in the format in which every body gives it."""
        return in_format(x, _format(x.dim(), like)) if self.keeps_format else x.contiguous()

    def _wanted(self, a: A, given: Given) -> list[str]:
        """Names of the tensors whose gradients are wanted."""
        parameters = self.parameters if given.parameter_grads else ()
        return [name for name in (*self.maps, *parameters) if getattr(a, name) is not None]

    def _all(self, grads: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The gradients, and empty tensors for those that were not wanted.

        A list could not be batched by ``vmap``.
        """
        missing = self._gradients - len(grads)
        return (
            (*grads, *(grads[0].new_empty(0) for _ in range(missing))) if missing else tuple(grads)
        )


def _format(axes: int, like: Tensor) -> torch.memory_format:
    return memory_format(like) if axes == like.dim() == 4 else torch.contiguous_format


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """An empty tensor for a result that belongs to ``like``, a map in the same memory format."""
    kind = _format(len(shape), like)
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=kind)


def _schema(arguments: type) -> str:
    """A schema's arguments from the annotations of a NamedTuple."""
    kinds = get_type_hints(arguments)
    return ", ".join(f"{_SCHEMA_TYPES[kind]} {name}" for name, kind in kinds.items())


def _gradients(
    result: Result, wanted: list[Tensor], given: Given, *, again: bool = False
) -> tuple[Tensor, ...]:
    """Gradients of a result of the portable form, differentiable ``again`` if asked."""
    results, grads = [result[0]], [given.grad_out]
    if given.grad_kept is not None:
        results, grads = list(result), [given.grad_out, given.grad_kept]
    return torch.autograd.grad(results, wanted, grads, create_graph=again, materialize_grads=True)


def _autograd_function(op: Operator) -> type[torch.autograd.Function]:
    """The operator with its backward, which runs by the backend requested for the forward."""

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *values: Any) -> tuple[Tensor, Tensor]:
            with below_autograd():
                out, kept = op.overload(*values)
            reads_out = op._backward_reads_out(values)
            tensors = [values[i] for i in op._tensors]
            ctx.save_for_backward(out if reads_out else None, kept, *tensors)
            ctx.settings = settings = list(values)
            for i in op._tensors:
                settings[i] = None
            ctx.requested = requested_backend()
            ctx.set_materialize_grads(False)
            if not op.kept_has_gradient:
                ctx.mark_non_differentiable(kept)
            return out, kept

        @staticmethod
        def backward(ctx: Any, grad_out: Tensor | None, grad_kept: Tensor | None) -> tuple:
            out, kept, *tensors = ctx.saved_tensors
            values = list(ctx.settings)
            for i, x in zip(op._tensors, tensors, strict=True):
                values[i] = x
            if grad_out is None:
                grad_out = op.output(op._split(values)[0]).zero_()
            wanted = [i for i in op._differentiable if ctx.needs_input_grad[i]]
            found: list[Tensor | None] = [None] * len(values)
            parameter_grads = bool(wanted) and wanted[-1] >= op._first_parameter
            given = Given(grad_out, grad_kept, out, kept, parameter_grads)
            if torch.is_grad_enabled():  # the gradient is to be differentiated again
                # Views: each gradient is that of one argument, though a tensor be given twice.
                for i in wanted:
                    values[i] = values[i].view_as(values[i])
                result = op.any_derivative(op._split(values)[0])
                grads = _gradients(result, [values[i] for i in wanted], given, again=True)
                for i, grad in zip(wanted, grads, strict=True):
                    found[i] = grad
            else:
                again = default_backend(ctx.requested) if ctx.requested else nullcontext()
                with again:
                    grads = op.backward_overload(*given, *values[: op._count])
                for i, grad in zip(op._differentiable, grads, strict=False):
                    found[i] = grad if i in wanted else None
            return tuple(found)

    return Differentiable


# ---- explanations

_explained: dict[str, tuple[Operator, Callable[..., Any], Callable[..., Any]]] = {}


def explainable(op: Operator, public: Callable[..., Any], check: Callable[..., Any]) -> None:
    """Let :func:`explain` tell of calls of ``public``.

    ``check`` makes the arguments of ``op`` of those of ``public``, by the same names.
    """
    _explained[op.name] = op, public, check


def explain(op_name: str, *args: Any, **kwargs: Any) -> str:
    """Which backend would run this call of an operator, and why not the others.

    Args:
        op_name: the operator's name, such as ``"local_attention"``.
        *args: the operator's arguments, as in a call.
        **kwargs: its keyword arguments.
    """
    op, public, check = _explained[one_of(op_name, _explained, "operator")]
    call = inspect.signature(public).bind(*args, **kwargs)
    call.apply_defaults()
    a = check(**{name: call.arguments[name] for name in inspect.signature(check).parameters})
    unsupported = unsupported_in_transform if in_transform() else partial(op.unsupported, a)
    reasons = {name: unsupported(name) for name in BACKENDS}

    requested = requested_backend()
    chosen = requested or next(name for name in BACKENDS if not reasons[name])
    verb = "cannot run" if reasons[chosen] else "runs"
    lines = [f"{op_name} {verb} by the {chosen} backend" + (" (forced)" if requested else "")]
    for name in BACKENDS:
        state = f"cannot: {reasons[name]}" if reasons[name] else "can run"
        if name == "native" and not reasons[name]:
            known = (f"instruction set {library.instruction_set()}", library.threads())
            state += f" ({', '.join(filter(None, known))})"
        lines.append(f"  {name}: {state}")
    return "\n".join(lines)


# ---- FLOPs


def product_flops(a: Any, pairs: int, of_q: int, of_v: int) -> int:
    """FLOPs of so many products a pair of a query and a key, over channels of q and of v.

    ``a.q`` and ``a.v`` are shapes; FLOPs are two a multiply-add.
    """
    return 2 * pairs * (of_q * a.q[-1] + of_v * a.v[-1])

"""One forward of a model, watched: which modules ran, what they took and gave, what came of what.

The forward runs on fake tensors, which have shapes and no numbers: it costs seconds and no memory,
copies nothing and changes nothing. Where a model cannot run on them (its control flow asks for
values), it runs on real ones.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn.modules import module as module_hooks
from torch.overrides import TorchFunctionMode

from foveate.surgery import _origins as origins
from foveate.surgery._origins import CONVOLUTIONS, LINEAR, Origin, tensors_in

DEFAULT_SIZE = (3, 224, 224)
_running = threading.local()


class TraceError(ValueError):
    """A model could not be run to see what is in it."""


@dataclass(eq=False)
class Node:
    """A tensor as it was after one operation.

    Attributes:
        index: when it came to be.
        op: the operator that gave it; empty for what came from outside.
        inputs: what it was computed from, of what depends on the input.
        constants: the parameters and buffers that went in.
        shape: its shape.
        depth: how many weighted layers lie behind it.
        origin: where its elements come from, if that is known.
        call: the innermost module that was running.
        args: positional arguments of the operator, tensors as nodes where they are active.
    """

    index: int
    op: str
    inputs: list[Node]
    constants: list[Tensor]
    shape: torch.Size
    depth: int
    origin: Origin | None
    call: Call | None
    args: tuple[Any, ...] = ()


@dataclass(eq=False)
class Call:
    """One call of a module.

    Attributes:
        module: the module.
        path: its name in the model, "" for the model.
        parent: the call that it happened in.
        start: index of the first node made inside.
        end: index of the first node made after it.
        args: what it was called with.
        kwargs: what it was called with by name.
        inputs: nodes of the tensors among these, the first being the features.
        output: what it gave.
        outputs: nodes of the tensors in it.
    """

    module: nn.Module
    path: str
    parent: Call | None
    start: int
    end: int = -1
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    inputs: list[Node] = field(default_factory=list)
    output: Any = None
    outputs: list[Node] = field(default_factory=list)

    def holds(self, node: Node) -> bool:
        """Whether ``node`` was made during this call."""
        return self.start <= node.index < self.end

    def ancestors(self) -> Iterator[Call]:
        """The calls around this one, innermost first."""
        call = self.parent
        while call is not None:
            yield call
            call = call.parent


@dataclass
class Trace:
    """What was seen.

    Attributes:
        calls: in the order of their beginning.
        nodes: in the order of their making.
        images: the input's image, if it has one: (B, H, W).
        fake: whether it ran on fake tensors.
        notes: what was chosen for the user.
        names: all paths of every module of the model.
    """

    calls: list[Call]
    nodes: list[Node]
    images: tuple[int, int, int] | None
    fake: bool
    notes: list[str]
    names: Mapping[nn.Module, list[str]]


def is_tracing() -> bool:
    """Whether a model is being looked at now; changed places then pass their features through."""
    return getattr(_running, "passing", False)


def is_watching() -> bool:
    """Whether this forward is one that :func:`trace` runs."""
    return getattr(_running, "watching", False)


@contextmanager
def passing_through() -> Iterator[None]:
    """Let replaced modules give back what they take, and inserted ones add nothing."""
    before = is_tracing()
    _running.passing = True
    try:
        yield
    finally:
        _running.passing = before


def trace(
    model: nn.Module, example: Any = None, size: Sequence[int] | None = None, *,
    through: bool = True,
) -> Trace:  # fmt: skip
    """Run ``model`` once and watch it.

    Args:
        model: any module.
        example: its input: a tensor, a tuple of arguments or a dict of named ones; by default a
            batch of two images of the size that timm states for the model, else of 224 x 224.
        size: (C, H, W) of the images to make when there is no example.
        through: whether places that were changed before are passed through, so that the model is
            seen as it was.

    Raises:
        TypeError: if ``model`` is no module.
        TraceError: if the forward fails on fake and on real tensors.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}")
    args, kwargs, notes = _arguments(model, example, size)
    with _unchanged(model), passing_through() if through else nullcontext(), _quiet():
        try:
            return _watch(model, args, kwargs, notes, fake=True)
        except Exception as error:
            return _really(model, args, kwargs, notes, error)


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Put ``model`` in evaluation mode, and back; forget what its modules kept meanwhile.

    Some keep tables that they compute once (LeViT's biases), which are fake after a fake forward.
    """
    before = {}
    for module in model.modules():
        held = {k: v.copy() for k, v in vars(module).items() if isinstance(v, dict | list)}
        before[module] = (dict(vars(module)), held)
    model.eval()
    try:
        yield
    finally:
        for module, (attributes, held) in before.items():
            vars(module).clear()
            vars(module).update(attributes)
            for name, content in held.items():
                container = attributes[name]
                container.clear()
                container.update(content) if isinstance(content, dict) else container.extend(
                    content
                )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without PyTorch's log of a failure on fake tensors, which is expected and told."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before


def _really(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], notes: list[str],
    fake_error: Exception,
) -> Trace:  # fmt: skip
    try:
        said = f"ran on real tensors, since fake ones fail: {line_of(fake_error)}"
        return _watch(model, args, kwargs, [*notes, said], fake=False)
    except Exception as error:
        raise TraceError(
            f"{type(model).__name__} could not be run to find its places: {line_of(error)}\n"
            "Give an input that it accepts: example=tensor, a tuple of arguments or a dict"
        ) from error


def line_of(error: BaseException | None) -> str:
    """An error in one line, with its class, as some say nothing else."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"[:300]


def _arguments(
    model: nn.Module, example: Any, size: Sequence[int] | None
) -> tuple[tuple[Any, ...], dict[str, Any], list[str]]:
    if isinstance(example, Mapping):
        return (), dict(example), []
    if isinstance(example, tuple | list):
        return tuple(example), {}, []
    if isinstance(example, Tensor):
        return (example,), {}, []
    if example is not None:
        raise TypeError(
            f"expected example to be a tensor, a tuple or a dict, got {type(example).__name__}"
        )
    notes = []
    if size is None:
        size = input_size(model)
        if size is None:
            size = DEFAULT_SIZE
            notes.append("the model does not state its input: seen with images of 3 x 224 x 224")
    reference = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return (torch.zeros(2, *size, device=reference.device, dtype=reference.dtype),), {}, notes


def input_size(model: nn.Module) -> tuple[int, int, int] | None:
    """(C, H, W) as timm's configuration states it, with what the model was made with instead."""
    made_with = getattr(model, "_model_args", {})  # timm's own note
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        if isinstance(config, Mapping) and config.get("input_size"):
            channels, height, width = config["input_size"]
            size = made_with.get("img_size") or (height, width)
            height, width = (size, size) if isinstance(size, int) else size
            return made_with.get("in_chans") or channels, height, width
    return None


def image_channels(model: nn.Module) -> int:
    """Of the images that a model reads: what it says, or its first convolution."""
    said = getattr(model, "in_chans", None)
    if isinstance(said, int):
        return said
    first = next((each for each in model.modules() if isinstance(each, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def _watch(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], notes: list[str], *, fake: bool
) -> Trace:
    watcher = _Watcher(model)
    mode = FakeTensorMode(allow_non_fake_inputs=True) if fake else None

    def prepared(value: Any) -> Any:
        if isinstance(value, Tensor):
            known = mode.from_tensor(value) if mode is not None else value
            watcher.take_input(known, value)
            return known
        if isinstance(value, tuple | list):
            return type(value)(map(prepared, value))
        if isinstance(value, dict):
            return {key: prepared(item) for key, item in value.items()}
        return value

    given, named = prepared(args), prepared(kwargs)
    hooks = [
        module_hooks.register_module_forward_pre_hook(watcher.enter),
        module_hooks.register_module_forward_hook(watcher.leave, with_kwargs=True),
    ]
    outer = is_watching()
    _running.watching = True
    try:
        with torch.no_grad(), mode if mode is not None else nullcontext(), watcher:
            model(*given, **named)
    finally:
        _running.watching = outer
        for hook in hooks:
            hook.remove()
    return Trace(watcher.calls, watcher.nodes, watcher.images, fake, notes, watcher.names)


class _Watcher(TorchFunctionMode):
    """Takes down every operation and every module call of one forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names: dict[nn.Module, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            self.names.setdefault(module, []).append(name)
        self.calls: list[Call] = []
        self.nodes: list[Node] = []
        self.images: tuple[int, int, int] | None = None
        self._stack: list[Call] = []
        self._latest: dict[int, Node] = {}
        self._alive: list[Any] = []  # an id is a tensor's own only while that lives

    def take_input(self, tensor: Tensor, given: Tensor) -> None:
        is_image = given.dim() == 4 and given.is_floating_point()
        if is_image and self.images is None:
            self.images = (given.shape[0], *given.shape[2:])
        origin = origins.of_image(given.shape) if is_image else None
        self._add(tensor, Node(len(self.nodes), "", [], [], given.shape, 0, origin, None))

    def _add(self, tensor: Tensor, node: Node) -> None:
        self.nodes.append(node)
        self._latest[id(tensor)] = node
        self._alive.append(tensor)

    def find(self, tensor: Tensor) -> Node | None:
        return self._latest.get(id(tensor))

    def _origin(self, tensor: Tensor) -> Origin | None:
        node = self.find(tensor)
        return None if node is None else node.origin

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        outputs = tensors_in(result)
        if outputs:
            self._note(_name(func), func, args, kwargs, outputs)
        return result

    def _note(
        self, name: str, func: Any, args: Any, kwargs: dict[str, Any], outputs: list[Tensor]
    ) -> None:
        given = tensors_in((args, kwargs))
        if name == "__setitem__" or not given:
            return
        inputs = [node for tensor in given if (node := self.find(tensor)) is not None]
        if not inputs:
            return
        constants = [tensor for tensor in given if self.find(tensor) is None]
        weighted = (name in LINEAR or name in CONVOLUTIONS) and len(constants) > 0
        depth = max(node.depth for node in inputs) + weighted
        with unset_fake_temporarily():
            found = origins.after(name, func, args, kwargs, self._origin, outputs)
            if weighted and found[0] is not None:
                axis = -1 if name in LINEAR else 1
                found[0] = origins.of_layer(found[0], len(self.nodes), axis)
        call = self._stack[-1] if self._stack else None
        nodes = tuple(self.find(v) or v if isinstance(v, Tensor) else v for v in args)
        named = {k: (self.find(v) or v) if isinstance(v, Tensor) else v for k, v in kwargs.items()}
        for tensor, origin in zip(outputs, found, strict=True):
            node = Node(
                len(self.nodes), name, inputs, constants, tensor.shape, depth, origin, call,
                (*nodes, named),
            )  # fmt: skip
            self._add(tensor, node)

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        path = self.names.get(module, [""])[0]
        parent = self._stack[-1] if self._stack else None
        call = Call(module, path, parent, len(self.nodes))
        self.calls.append(call)
        self._stack.append(call)

    def leave(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        call = self._stack.pop()
        call.args, call.kwargs, call.output = args, kwargs, output
        self._alive.append((args, kwargs, output))
        call.inputs = [n for t in tensors_in((args, kwargs)) if (n := self.find(t)) is not None]
        for tensor in tensors_in(output):
            if (node := self.find(tensor)) is None:
                depth = max((n.depth for n in call.inputs), default=0) + 1
                node = Node(
                    len(self.nodes), "opaque", call.inputs, [], tensor.shape, depth, None, call
                )
                self._add(tensor, node)
            first = call.inputs[0] if call.inputs else None
            if node.origin is None and first is not None and node.shape == first.shape:
                node.origin = first.origin  # a layer that keeps its shape keeps its places
            if getattr(module, "is_weighted", False) is True and is_tracing():
                node.depth += 1
            call.outputs.append(node)
        call.end = len(self.nodes)


def _name(function: Any) -> str:
    name = getattr(function, "__name__", type(function).__name__)
    if name == "__get__":  # x.T and the like
        name = getattr(getattr(function, "__self__", None), "__name__", name)
    return name

"""Where attention stands, or could, in a model: found by watching one forward.

No class is known by name. What a place is follows from what is computed there:

    attention    the smallest module that multiplies two activations as matrices, climbed to the
                 first one that keeps its shape and holds no residual addition
    gate         features times a factor that was computed from these features and is squashed, or
                 pooled over positions, in a module that keeps its shape
    branch       the end of a residual branch: of ``a + b`` the side with more weighted layers
                 behind it; in a model without residual additions, what is concatenated
    conv, depthwise   a convolution of more than one pixel that keeps its shape, dense or grouped,
                 and with a filter a channel
    stage        the last map of each size

Which cell of the map each token holds follows from :mod:`foveate.surgery._origins`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from foveate.arguments import nearest
from foveate.contracts import Gate, Mixer, TokenMixer
from foveate.surgery import token_map
from foveate.surgery._origins import tensors_in, words
from foveate.surgery.token_map import TokenMap
from foveate.surgery.trace import Call, Node, Trace, trace

Kind = Literal["attention", "gate", "branch", "stage", "conv", "depthwise", "module"]
KINDS: tuple[Kind, ...] = ("attention", "gate", "branch", "stage", "conv", "depthwise")
Where = str | type | Callable[["Place"], bool] | Iterable[Any]

_PRODUCTS = words(
    "matmul __matmul__ __rmatmul__ bmm baddbmm einsum scaled_dot_product_attention "
    "multi_head_attention_forward"
)
_ADDITIONS = words("add add_ __add__ __iadd__ __radd__")
_SUBTRACTIONS = words("sub sub_ subtract __sub__ __isub__")
_SLICES = words("__getitem__ narrow split split_with_sizes tensor_split chunk")
_MULTIPLICATIONS = words("mul mul_ multiply __mul__ __imul__ __rmul__")
_SQUASHES = words(
    "sigmoid sigmoid_ hardsigmoid hardtanh hardtanh_ relu6 tanh tanh_ softmax clamp clamp_"
)
_CONCATENATIONS = frozenset({"cat", "concat", "concatenate"})
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_LOOK_BACK = 8


@dataclass(frozen=True)
class Place:
    """One place in a model.

    Attributes:
        path: the module's name in the model.
        kind: attention, gate, branch, stage, conv or depthwise.
        cls: its class.
        layout: NCHW, NHWC, BNC, or empty where it cannot be read as a map.
        channels: how many.
        size: height and width of its map, for the images that were traced.
        prefix_tokens: class and register tokens before the cells.
        windows: into how many windows every sample is cut here; 1 for none.
        row_major: whether its cells lie row by row; if not, their order is known all the same.
        arguments: what the module is called with beside its features, which a replacement does
            not get.
        host: name of the module that an insertion is attached to.
        unusable: why nothing can be put here; empty where it can.
    """

    path: str
    kind: Kind
    cls: str
    layout: str = ""
    channels: int = 0
    size: tuple[int, int] = (0, 0)
    prefix_tokens: int = 0
    windows: int = 1
    row_major: bool = True
    arguments: tuple[str, ...] = ()
    host: str = ""
    unusable: str = ""
    calls: tuple[Call, ...] = field(default=(), repr=False, compare=False)
    maps: tuple[TokenMap, ...] = field(default=(), repr=False, compare=False)
    trace: Trace | None = field(default=None, repr=False, compare=False)

    @property
    def glob(self) -> str:
        """The path with every number a star."""
        return glob_of(self.path)

    @property
    def module(self) -> nn.Module:
        """The module that was there when the model was looked at."""
        return self.calls[0].module

    @property
    def is_last_mixing(self) -> bool:
        """Whether no attention comes behind it, by which class tokens could see what it does."""
        nodes = [] if self.trace is None else self.trace.nodes
        end = max(call.end for call in self.calls)
        return not any(node.op in _PRODUCTS for node in nodes[end:])

    @property
    def names(self) -> list[str]:
        """All names under which the module is registered."""
        return self.trace.names[self.module] if self.trace is not None else [self.path]


def glob_of(path: str) -> str:
    """``path`` with every number a star."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", path)


class Places(Sequence[Place]):
    """The places of a model, in the order of the forward; prints as a table.

    Attributes:
        notes: what was chosen for the user when the model was looked at.
    """

    def __init__(self, found: Iterable[Place], watched: Trace) -> None:
        self._places = tuple(found)
        self.trace = watched
        self.notes = tuple(watched.notes)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Place: ...
    @overload
    def __getitem__(self, index: slice) -> Places: ...
    def __getitem__(self, index: int | slice) -> Place | Places:
        if isinstance(index, slice):
            return Places(self._places[index], self.trace)
        return self._places[index]

    def __iter__(self) -> Iterator[Place]:
        return iter(self._places)

    def of(self, *kinds: str) -> Places:
        """Those of these kinds."""
        return Places((place for place in self if place.kind in kinds), self.trace)

    def where(self, where: Where) -> Places:
        """Those that ``where`` chooses.

        Args:
            where: a glob of paths such as ``"blocks.*.attn"`` (a star stands for anything, dots
                too), a class of modules, a function of a :class:`Place`, or several of these, of
                which one must hold.

        Raises:
            TypeError: if it is none of these.
        """
        return Places((place for place in self if _chosen(place, where)), self.trace)

    def table(self) -> list[dict[str, str]]:
        """The rows that are printed: places of one glob and kind together."""
        groups: dict[tuple[Any, ...], list[Place]] = {}
        for place in self:
            key = (place.kind, place.glob, place.cls, place.layout, place.prefix_tokens,
                   place.windows > 1, place.row_major, place.unusable)  # fmt: skip
            groups.setdefault(key, []).append(place)
        return [_row(group) for group in groups.values()]

    def __repr__(self) -> str:
        lines = [as_table(self.table()) or "no places", *self.notes]
        return "\n".join(lines)

    __str__ = __repr__


def _row(group: list[Place]) -> dict[str, str]:
    first = group[0]
    notes = []
    if first.windows > 1:
        notes.append("windows cut: attends beyond them once replaced")
    if not first.row_major and first.windows == 1:
        notes.append("tokens are not row by row: their order is known")
    if any(place.arguments for place in group):
        notes.append("without " + ", ".join(first.arguments or group[-1].arguments))
    if first.unusable:
        notes.append("left alone: " + first.unusable)
    return {
        "path": first.path if len(group) == 1 else first.glob,
        "kind": first.kind,
        "n": str(len(group)),
        "class": first.cls,
        "layout": first.layout or "?",
        "channels": _range(place.channels for place in group),
        "map": _range(f"{p.size[0]}x{p.size[1]}" for p in group),
        "prefix": str(first.prefix_tokens or ""),
        "note": "; ".join(notes),
    }


def _range(values: Iterable[Any]) -> str:
    seen = list(dict.fromkeys(values))
    return ", ".join(map(str, seen)) if len(seen) <= 4 else f"{seen[0]} ... {seen[-1]}"


def as_table(rows: list[dict[str, str]]) -> str:
    """Rows as aligned text, without the columns that are empty."""
    if not rows:
        return ""
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in columns}
    head = "  ".join(name.ljust(widths[name]) for name in columns)
    body = ["  ".join(row[name].ljust(widths[name]) for name in columns) for row in rows]
    return "\n".join(line.rstrip() for line in (head, *body))


def _chosen(place: Place, where: Where) -> bool:
    if isinstance(where, str):
        return any(fnmatch.fnmatchcase(name, where) for name in {place.path, place.host})
    if isinstance(where, type):
        return isinstance(place.module, where)
    if callable(where):
        return bool(where(place))
    if isinstance(where, Iterable):
        return any(_chosen(place, one) for one in where)
    raise TypeError(
        "expected where= as a glob of paths, a class, a function of a place or several of these, "
        f"got {type(where).__name__}"
    )


def nothing_matched(where: Where, known: Places) -> str:
    """A sentence for an error: what was asked for, and the nearest paths."""
    said = repr(where) if isinstance(where, str) else getattr(where, "__name__", repr(where))
    paths = sorted({name for place in known for name in (place.path, place.glob)})
    if not paths:
        return f"no place matches {said}; there is none of this kind"
    close = nearest(str(where), paths) if isinstance(where, str) else ""
    return f"no place matches {said}{close or '; there are ' + ', '.join(paths[:12])}"


def places(model: nn.Module, example: Any = None) -> Places:
    """Find where attention stands in ``model``, and where it could.

    One forward is watched, on fake tensors where the model can run on them (no numbers are
    computed and nothing is copied), else on real ones. The model stays as it is. What was inserted
    by :func:`foveate.insert` is passed by; what was replaced is no place for another replacement
    until :func:`foveate.restore`.

    Args:
        model: any module that takes images.
        example: an input that it accepts, with a batch of two or more for the surest reading:
            a tensor, a tuple of arguments or a dict of named ones. By default images of the size
            that timm states for the model, else 224 x 224, which is then noted.

    Returns:
        The places; printed, a table by glob.

    Raises:
        TypeError: if ``model`` is no module or ``example`` of another kind.
        ValueError: if the model cannot be run.
    """
    return find(trace(model, example))


def find(watched: Trace) -> Places:
    """The places in what was watched."""
    finder = _Finder(watched)
    return Places(finder.found(), watched)


def named(watched: Trace, what: Where) -> Places:
    """Modules that ``what`` chooses and that keep the shape of a map that they are given."""
    finder = _Finder(watched)
    made = (
        finder.place(module, "module")
        for module, names in watched.names.items()
        if names[0] and finder.keeps_shape(module)
    )
    return Places((place for place in made if _chosen(place, what)), watched)


class Reader:
    """Reads maps off a trace."""

    def __init__(self, watched: Trace) -> None:
        self.trace = watched
        self.batch = watched.images[0] if watched.images else 1
        self._maps: dict[tuple[Node, int | None], TokenMap | str] = {}
        self._by_module: dict[nn.Module, list[Call]] = {}
        self._by_output: dict[Node, list[Call]] = {}
        for call in watched.calls:
            self._by_module.setdefault(call.module, []).append(call)
            if call.outputs:
                self._by_output.setdefault(call.outputs[0], []).append(call)

    def maps(self, path: str, *, at_output: bool) -> list[TokenMap]:
        """How what the module ``path`` takes or gives holds a map, call by call."""
        calls = [c for c in self.trace.calls if path in self.trace.names.get(c.module, ())]
        read = [self._read(call, at_output) for call in calls]
        return [found for found in read if isinstance(found, TokenMap)]

    def _read(self, call: Call, at_output: bool) -> TokenMap | str:
        nodes = call.outputs if at_output else call.inputs
        if not nodes:
            return "it takes no tensors"
        return self._map(nodes[0], _channel_axis(call.module))

    def _map(self, node: Node, prefer: int | None = None) -> TokenMap | str:
        key = (node, prefer)
        if key not in self._maps:
            self._maps[key] = token_map.read(tuple(node.shape), node.origin, self.batch, prefer)
        return self._maps[key]


class _Finder(Reader):
    def __init__(self, watched: Trace) -> None:
        super().__init__(watched)
        self.residuals = [n for n in watched.nodes if n.op in _ADDITIONS and self._is_residual(n)]

    def keeps_shape(self, module: nn.Module) -> bool:
        """Whether it ran and every call kept the shape."""
        calls = self._by_module.get(module, [])
        return bool(calls) and all(self._keeps_shape(call) for call in calls)

    def found(self) -> list[Place]:
        gates = self.gates()
        attention = self.attention({place.module for place in gates})
        inside = [
            call for place in (*attention, *gates) if not place.unusable for call in place.calls
        ]
        found = [
            *attention, *gates, *self.branches(inside), *self.convolutions(), *self.stages(inside)
        ]  # fmt: skip
        return sorted(found, key=lambda p: (KINDS.index(p.kind), p.calls[0].start))

    # What is computed

    def _descends(self, later: Node, earlier: Node) -> bool:
        """Whether ``later`` was computed from ``earlier``."""
        return bool(self._between(earlier, later))

    def _between(self, earlier: Node, later: Node) -> set[Node]:
        """What lies on the ways from ``earlier`` to ``later``, which it holds; empty if none."""
        behind, todo = {later}, [later]
        while todo:
            for node in todo.pop().inputs:
                if node.index >= earlier.index and node not in behind:
                    behind.add(node)
                    todo.append(node)
        if earlier not in behind or earlier is later:
            return set()
        reached = {earlier}
        for node in sorted(behind, key=lambda n: n.index):
            if any(source in reached for source in node.inputs):
                reached.add(node)
        return reached - {earlier}

    def _operands(self, node: Node) -> tuple[Node, Node] | None:
        two = [value for value in node.args[:2] if isinstance(value, Node)]
        return (two[0], two[1]) if len(two) == 2 else None

    def _is_residual(self, node: Node) -> bool:
        """Whether a branch with weights is added to what it started from."""
        two = self._operands(node)
        if two is None or two[0].shape != two[1].shape or two[0] is two[1]:
            return False
        start, end = sorted(two, key=lambda n: n.index)
        return end.depth > start.depth and self._descends(end, start)

    def _holds_residual(self, call: Call) -> bool:
        return any(call.holds(node) for node in self.residuals)

    @staticmethod
    def _keeps_shape(call: Call) -> bool:
        if not call.inputs or not call.outputs or not tensors_in(call.args)[:1]:
            return bool(
                call.inputs and call.outputs and call.inputs[0].shape == call.outputs[0].shape
                and len(call.inputs[0].shape) >= 3
            )  # fmt: skip
        return call.inputs[0].shape == call.outputs[0].shape and len(call.inputs[0].shape) >= 3

    # Kinds of places

    def attention(self, gates: set[nn.Module]) -> list[Place]:
        chosen: dict[nn.Module, str] = {}
        for call in self.trace.calls:
            inside = any(outer.module in chosen for outer in call.ancestors())
            ours = isinstance(call.module, Mixer | TokenMixer) and not inside
            if ours and self._keeps_shape(call):
                chosen[call.module] = ""
        for node in self.trace.nodes:
            if node.op not in _PRODUCTS or node.call is None or not self._two_activations(node):
                continue
            around = {node.call.module, *(call.module for call in node.call.ancestors())}
            if around & gates or around & {m for m, why in chosen.items() if not why}:
                continue
            call, why = self._climbed(node.call)
            chosen.setdefault(call.module, why)
        return [self.place(module, "attention", why) for module, why in chosen.items()]

    def _two_activations(self, node: Node) -> bool:
        if node.op == "multi_head_attention_forward":
            return True
        if node.op == "einsum":
            return len(node.inputs) > 1
        return self._operands(node) is not None

    def _climbed(self, call: Call) -> tuple[Call, str]:
        for candidate in (call, *call.ancestors()):
            if self._holds_residual(candidate) or not candidate.path:
                break
            if self._keeps_shape(candidate):
                return candidate, ""
        return call, "its output has another shape than its input, or it holds its own residual"

    def gates(self) -> list[Place]:
        chosen: dict[nn.Module, str] = {}
        for call in self.trace.calls:
            inside = any(outer.module in chosen for outer in call.ancestors())
            if isinstance(call.module, Gate) and self._keeps_shape(call) and not inside:
                chosen[call.module] = ""
        for node in self.trace.nodes:
            call = self._gate_around(node) if node.op in _MULTIPLICATIONS else None
            if call is not None and not {c.module for c in call.ancestors()} & chosen.keys():
                chosen.setdefault(call.module, "")
        return [self.place(module, "gate", why) for module, why in chosen.items()]

    def _gate_around(self, node: Node) -> Call | None:
        """The module whose features are re-weighted at the product ``node``."""
        two = self._operands(node)
        if two is None or node.call is None:
            return None
        for features, factor in (two, two[::-1]):
            if factor.index < features.index or not self._weighs(features, factor):
                continue
            between = self._between(features, factor)
            if not between:
                continue
            squashed = any(n.op in _SQUASHES for n in between)
            weighted = factor.depth > features.depth
            if not (squashed and weighted) and not self._pooled(features, factor):
                continue
            for call in (node.call, *node.call.ancestors()):
                if not call.path or self._holds_residual(call):
                    break
                if self._keeps_shape(call) and all(call.holds(n) for n in between):
                    return call
        return None

    @staticmethod
    def _weighs(features: Node, factor: Node) -> bool:
        if features.origin is None or factor.origin is None:
            return len(factor.shape) == len(features.shape)
        return True

    def _pooled(self, features: Node, factor: Node) -> bool:
        """Whether the factor is one a channel, of features that vary over the map, and weighted."""
        if features.origin is None or factor.origin is None or len(features.shape) < 3:
            return False
        row, column = factor.origin.row, factor.origin.column
        spread = features.origin.row, features.origin.column
        one = all(
            c.shape[i] == 1 or c.stride(i) == 0 for c in (row, column) for i in range(1, c.dim())
        )
        varies = any(c.shape[i] > 1 and c.stride(i) != 0 for c in spread for i in range(1, c.dim()))
        small = torch.Size(factor.shape).numel() < torch.Size(features.shape).numel()
        channels = torch.Size(factor.shape).numel() > self.batch
        return one and varies and small and channels

    def branches(self, inside: list[Call]) -> list[Place]:
        hosts: dict[nn.Module, Call] = {}
        residuals, certain = set(self.residuals), set()
        for node in self.trace.nodes:
            if node.op not in _ADDITIONS or any(call.holds(node) for call in inside):
                continue
            two = self._operands(node)
            if two is None or two[0].shape != two[1].shape or two[0].depth == two[1].depth:
                continue
            shallow, deep = sorted(two, key=lambda n: n.depth)
            host = self._host(deep, node)
            if host is None and node not in residuals and shallow.depth:
                host = self._host(shallow, node)  # beside what was upsampled, in a pyramid
            if host is not None:
                hosts.setdefault(host.module, host)
                if node in residuals:
                    certain.add(host.module)
        if not hosts:
            for node in self.trace.nodes:
                if node.op in _CONCATENATIONS and not any(call.holds(node) for call in inside):
                    for operand in node.inputs:
                        host = self._host(operand, node) if operand.depth else None
                        if host is not None:
                            hosts.setdefault(host.module, host)
        made = (self.place(module, "branch", at_output=True) for module in hosts)
        return [place for place in made if not place.unusable or place.module in certain]

    def _host(self, node: Node, before: Node) -> Call | None:
        """The module that gave ``node``, or what it was scaled or reshaped from."""
        for _ in range(_LOOK_BACK):
            calls = [
                call for call in self._by_output.get(node, ())
                if call.end <= before.index and call.path and not self._is_container(call)
            ]  # fmt: skip
            weighted = [c for c in calls if any(True for _ in c.module.parameters())]
            calls = weighted or [c for c in calls if len(self._by_module[c.module]) == 1]
            if calls:
                return min(calls, key=lambda call: call.path.count("."))
            source = self._scaled_or_reshaped(node)
            if source is None:
                return None
            node = source
        return None

    def _scaled_or_reshaped(self, node: Node) -> Node | None:
        """What ``node`` holds in another form, if that is how it came to be."""
        if node.op in _SUBTRACTIONS and (two := self._operands(node)) is not None:
            return max(two, key=lambda n: n.depth)  # x + s (f(x) - x): the branch is f
        if len(node.inputs) != 1 or node.depth != node.inputs[0].depth:
            return None
        source = node.inputs[0]
        if torch.Size(node.shape).numel() == torch.Size(source.shape).numel():
            return source
        return source if self._is_some_channels(node, source) else None

    def _is_some_channels(self, node: Node, source: Node) -> bool:
        """Whether ``node`` is a slice of the channels of the map ``source``."""
        if node.op not in _SLICES:
            return False
        part, whole = self._map(node), self._map(source)
        known = isinstance(part, TokenMap) and isinstance(whole, TokenMap)
        return known and part.size == whole.size and part.layout == whole.layout

    @staticmethod
    def _is_container(call: Call) -> bool:
        """Whether a further child of the module would be run as one of its own."""
        return isinstance(call.module, _CONTAINERS)

    def convolutions(self) -> list[Place]:
        made = []
        for module in self._by_module:
            if not isinstance(module, nn.Conv2d) or max(module.kernel_size) == 1:
                continue
            if not all(self._keeps_shape(call) for call in self._by_module[module]):
                continue
            depthwise = module.groups == module.in_channels
            made.append(self.place(module, "depthwise" if depthwise else "conv"))
        return [place for place in made if not place.unusable]

    def stages(self, inside: list[Call]) -> list[Place]:
        last: dict[tuple[int, int], Node] = {}
        for call in reversed(self.trace.calls):
            if not call.outputs or len(tensors_in(call.output)) != 1 or not call.path:
                continue
            node = call.outputs[0]
            if any(other.holds(node) and other.outputs[:1] != [node] for other in inside):
                continue
            found = self._map(node)
            if isinstance(found, str) or found.windows > 1 or max(found.size) == 1:
                continue
            if self.trace.images and found.size == self.trace.images[1:]:
                continue
            if self._is_transition(call, found.size):
                continue
            if found.size not in last or node.index > last[found.size].index:
                last[found.size] = node
        made = []
        for node in last.values():
            calls = [call for call in self._by_output[node] if call.path]
            hosts = [call for call in calls if not self._is_container(call)]
            hosts = [c for c in hosts if len(self._by_module[c.module]) == 1] or hosts
            if hosts:
                top = min(calls, key=lambda call: call.path.count("."))
                host = min(hosts, key=lambda call: call.path.count("."))
                made.append(self.place(host.module, "stage", at_output=True, shown=top.path))
        return [place for place in made if not place.unusable]

    def _is_transition(self, call: Call, size: tuple[int, int]) -> bool:
        """Whether this is on the way from a stage to the next: in a module that shrinks the map."""
        for outer in call.ancestors():
            if outer.path and outer.inputs and outer.outputs:
                before, behind = self._map(outer.inputs[0]), self._map(outer.outputs[0])
                known = isinstance(before, TokenMap) and isinstance(behind, TokenMap)
                if known and before.size == size and behind.size != size:
                    return True
        return False

    # Records

    def place(
        self, module: nn.Module, kind: Kind, why: str = "", *, at_output: bool = False,
        shown: str | None = None,
    ) -> Place:  # fmt: skip
        """The record of the place that ``module`` is."""
        calls = self._by_module[module]
        maps: list[TokenMap] = []
        for call in calls:
            found = self._read(call, at_output)
            if isinstance(found, str):
                why = why or found
            else:
                maps.append(found)
        if not at_output and not why:
            why = _other_results(calls)
        path = calls[0].path if shown is None else shown
        arguments = () if at_output else _further_arguments(calls[0])
        cls = type(calls[0].module).__name__
        if not maps:
            return Place(
                path, kind, cls, arguments=arguments, host=calls[0].path,
                unusable=why, calls=tuple(calls), trace=self.trace,
            )  # fmt: skip
        first = maps[0]
        return Place(
            path, kind, cls, first.layout, first.channels, first.size, len(first.prefix),
            first.windows, first.row_major, arguments, calls[0].path, why, tuple(calls),
            tuple(maps), self.trace,
        )  # fmt: skip


def _channel_axis(module: nn.Module) -> int | None:
    """1 or the last, as the first weighted layer inside says; None if none does."""
    for inner in module.modules():
        if isinstance(inner, nn.Linear | nn.LayerNorm):
            return None
        if isinstance(inner, nn.Conv2d | nn.BatchNorm2d):
            return 1
    return None


def _further_arguments(call: Call) -> tuple[str, ...]:
    """What else the module is called with, in words."""
    first = True
    said = []
    named = [("", value) for value in call.args] + [(f"{k}=", v) for k, v in call.kwargs.items()]
    features = tensors_in((call.args, call.kwargs))[:1]
    for name, value in named:
        if isinstance(value, Tensor) and features and value is features[0]:
            first = False
            continue
        if value is None or isinstance(value, bool) or (first and not isinstance(value, Tensor)):
            continue
        shapes = [f"T{tuple(t.shape)}" for t in tensors_in(value)]
        said.append(name + (", ".join(shapes) if shapes else str(value)))
    return tuple(said)


def _other_results(calls: list[Call]) -> str:
    """Why what it gives beside the features cannot be given by a replacement, or nothing."""
    for call in calls:
        if not isinstance(call.output, Tensor | tuple | list):
            return f"it gives a {type(call.output).__name__}"
        if len(tensors_in(call.output)) > 1:
            return "it gives a second tensor beside its features"
    return ""

"""The compiled kernels' interface in Python, field by field; needs no PyTorch.

A kernel takes the address of one C struct. Each struct of the C sources (``*/arguments.h``) has a
twin here with the same fields in the same order, packed as C lays them out. The library holds a
table of its own structs, constants and kernels; :class:`Library` compares it with the twins, so
that one changed without the other is an error when the library is loaded.
"""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Callable, Iterator
from enum import IntEnum
from itertools import chain, count
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

Address = Annotated[int, "P"]
Int64 = Annotated[int, "q"]
Double = Annotated[float, "d"]


class Storage(IntEnum):
    """How a tensor keeps its numbers."""

    FLOAT32 = 0
    BFLOAT16 = 1
    FLOAT16 = 2


class Border(IntEnum):
    """What queries near the edge of a map see; for REFLECT, keys come padded."""

    SHIFT = 0
    ZERO = 1
    MASK = 2
    REFLECT = 3


class TapBorder(IntEnum):
    """What taps read beyond a map."""

    ZERO = 0
    REFLECT = 1


class Relation(IntEnum):
    """What is made of a query and the keys around it."""

    DIFFERENCE = 0
    CONCATENATION = 1


class Bias(IntEnum):
    """Nothing, a relative table, or numbers for each query and tap."""

    NONE = 0
    TABLE = 1
    EACH = 2


class Combination(IntEnum):
    """How the factors of a map become one."""

    PRODUCT = 0
    MEAN = 1
    SIGN = 2


class View(NamedTuple):
    """A tensor (B, H, W, heads, D): address, and strides in elements."""

    data: Address = 0
    image: Int64 = 0
    row: Int64 = 0
    column: Int64 = 0
    head: Int64 = 0
    channel: Int64 = 0


ABSENT = View()


class Run(NamedTuple):
    """Threads, dropout and the factor of the logits."""

    threads: Int64
    seed_low: Int64
    seed_high: Int64
    threshold: Int64
    scale: Double
    keep_scale: Double


class LocalArguments(NamedTuple):
    """Those of ``native/local``."""

    run: Run
    q: View
    k: View
    v: View
    bias: View
    key_mask: View
    grad_out: View
    lse: Address
    batch: Int64
    height: Int64
    width: Int64
    heads: Int64
    dim: Int64
    value_dim: Int64
    key_height: Int64
    key_width: Int64
    kernel_h: Int64
    kernel_w: Int64
    dilation_h: Int64
    dilation_w: Int64
    border: Int64
    bias_kind: Int64
    storage: Int64
    bias_storage: Int64
    out: Address = 0
    grad_lse: Address = 0
    dq: Address = 0
    dk: Address = 0
    dv: Address = 0
    d_bias: Address = 0


class SlideArguments(NamedTuple):
    """Those of ``native/slide``."""

    run: Run
    q: View
    k: View
    v: View
    grad_out: View
    key_weight: Address
    key_bias: Address
    value_weight: Address
    value_bias: Address
    key_bias_stride: Int64
    value_bias_stride: Int64
    batch: Int64
    height: Int64
    width: Int64
    heads: Int64
    dim: Int64
    value_dim: Int64
    kernel_h: Int64
    kernel_w: Int64
    storage: Int64
    probabilities: Address = 0
    out: Address = 0
    dq: Address = 0
    dk: Address = 0
    dv: Address = 0
    d_key_weight: Address = 0
    d_key_bias: Address = 0
    d_value_weight: Address = 0
    d_value_bias: Address = 0


class WindowArguments(NamedTuple):
    """Those of ``native/window``."""

    run: Run
    q: View
    k: View
    v: View
    grad_out: View
    batch: Int64
    height: Int64
    width: Int64
    heads: Int64
    dim: Int64
    value_dim: Int64
    window_h: Int64
    window_w: Int64
    windows_h: Int64
    windows_w: Int64
    shift_h: Int64
    shift_w: Int64
    spread: Int64
    storage: Int64
    bias: Address = 0
    out: Address = 0
    dq: Address = 0
    dk: Address = 0
    dv: Address = 0
    d_bias: Address = 0


class AggregateArguments(NamedTuple):
    """Those of ``native/aggregate``."""

    run: Run
    values: View
    weights: View
    grad_out: View
    batch: Int64
    height: Int64
    width: Int64
    share: Int64
    groups: Int64
    kernel_h: Int64
    kernel_w: Int64
    dilation_h: Int64
    dilation_w: Int64
    border: Int64
    normalize: Int64
    storage: Int64
    probabilities: Address = 0
    out: Address = 0
    d_values: Address = 0
    d_weights: Address = 0


class RelationArguments(NamedTuple):
    """Those of ``native/relation``."""

    run: Run
    q: View
    k: View
    batch: Int64
    height: Int64
    width: Int64
    dim: Int64
    kernel_h: Int64
    kernel_w: Int64
    dilation_h: Int64
    dilation_w: Int64
    border: Int64
    relation: Int64
    storage: Int64
    scale: Address = 0
    shift: Address = 0
    out: Address = 0
    grad_out: Address = 0
    dq: Address = 0
    dk: Address = 0
    d_scale: Address = 0
    d_shift: Address = 0


class AxisPoolArguments(NamedTuple):
    """Those of ``native/gates/axis_pool.c``."""

    over_outer: View
    over_middle: View
    over_inner: View
    index_outer: View
    index_middle: View
    index_inner: View
    threads: Int64
    batch: Int64
    outer: Int64
    middle: Int64
    inner: Int64
    largest: Int64
    x: Address = 0
    dx: Address = 0


class ScaleArguments(NamedTuple):
    """Those of ``native/gates/scale.c``."""

    first: View
    second: View
    third: View
    d_first: View
    d_second: View
    d_third: View
    threads: Int64
    batch: Int64
    outer: Int64
    middle: Int64
    inner: Int64
    combination: Int64
    x: Address
    grad_out: Address
    out: Address


class NarrowConvArguments(NamedTuple):
    """Those of ``native/gates/narrow_conv.c``."""

    x: View
    grad_out: View
    threads: Int64
    batch: Int64
    height: Int64
    width: Int64
    in_channels: Int64
    out_channels: Int64
    kernel_h: Int64
    kernel_w: Int64
    weight: Address
    out: Address = 0
    dx: Address = 0
    d_weight: Address = 0


INSTRUCTION_SETS = (("generic", "v3", "v4"), ("neon",))
"""Of x86-64 and others, and of ARM: a machine that can run one can run those before it."""

Arguments = (
    LocalArguments
    | SlideArguments
    | WindowArguments
    | AggregateArguments
    | RelationArguments
    | AxisPoolArguments
    | ScaleArguments
    | NarrowConvArguments
)

STRUCTS: dict[str, type] = {
    "fv_view": View,
    "fv_run": Run,
    "fv_local_arguments": LocalArguments,
    "fv_slide_arguments": SlideArguments,
    "fv_window_arguments": WindowArguments,
    "fv_aggregate_arguments": AggregateArguments,
    "fv_relation_arguments": RelationArguments,
    "fv_axis_pool_arguments": AxisPoolArguments,
    "fv_scale_arguments": ScaleArguments,
    "fv_narrow_conv_arguments": NarrowConvArguments,
}
CONSTANTS: dict[str, type[IntEnum]] = {
    "STORAGE": Storage,
    "BORDER": Border,
    "BIAS": Bias,
    "TAP": TapBorder,
    "RELATION": Relation,
    "COMBINATION": Combination,
}
KERNELS: dict[str, type] = {
    f"{operator}_{way}": arguments
    for operator, arguments in (
        ("local", LocalArguments),
        ("slide", SlideArguments),
        ("window", WindowArguments),
        ("aggregate", AggregateArguments),
        ("relation", RelationArguments),
        ("axis_pool", AxisPoolArguments),
        ("scale", ScaleArguments),
        ("narrow_conv", NarrowConvArguments),
    )
    for way in ("forward", "backward")
}


class Field(NamedTuple):
    """How a field lies in its struct."""

    kind: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.size} bytes of kind {self.kind} at byte {self.offset}"


class MismatchError(RuntimeError):
    """The library was built from other sources than this Python code goes with."""


def layout(twin: type) -> tuple[str, dict[str, Field]]:
    """A twin's format, as for ``struct``, and its fields; the last, of no name, is all of it."""
    whole, fields = "", {}
    for name, hint in get_type_hints(twin, include_extras=True).items():
        inner = next((c_name for c_name, other in STRUCTS.items() if other is hint), None)
        part = layout(hint)[0] if inner else hint.__metadata__[0]
        whole += part
        size = struct.calcsize(part)
        fields[name] = Field(inner or part, struct.calcsize(whole) - size, size)
    return whole, fields | {"": Field("", 0, struct.calcsize(whole))}


def as_words(arguments: Any) -> array[int]:
    """A struct as the 64-bit words of which all are made, to be copied and changed by the word."""
    return array("q", packer(type(arguments))(arguments))


def places(twin: type, *names: str) -> list[int]:
    """Which words of a twin's these fields begin with; ``run.seed_low`` lies in a struct inside."""
    found = []
    for name in names:
        inside, offset = twin, 0
        for part in name.split("."):
            offset += layout(inside)[1][part].offset
            inside = get_type_hints(inside)[part]
        found.append(offset // 8)
    return found


def packer(twin: type) -> Callable[[Any], bytes]:
    """What makes a C struct of its twin; the structs inside it come first, which flattens fast."""
    pack = struct.Struct(layout(twin)[0]).pack
    kinds = [field.kind for field in layout(twin)[1].values()]
    inner = sum(kind in STRUCTS for kind in kinds)
    if any(kind in STRUCTS for kind in kinds[inner:]):
        raise TypeError(f"{twin.__name__}: fields that are structs must come first")

    def packed(arguments: tuple[Any, ...]) -> bytes:
        return pack(*chain.from_iterable(arguments[:inner]), *arguments[inner:])

    return packed


class _Row(ctypes.Structure):
    """A row of the table in ``native/common/layouts.c``."""

    _fields_ = (
        ("group", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("kind", ctypes.c_char_p),
        ("offset", ctypes.c_int64),
        ("size", ctypes.c_int64),
    )


class Library:
    """A shared library of kernels, found to agree with the twins.

    Raises:
        OSError: if it does not load.
        MismatchError: if a struct, a constant or a kernel differs; the message says which.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._functions = ctypes.CDLL(str(path))
        difference = next(_differences(self._table()), None)
        if difference:
            raise MismatchError(
                f"{path} and the Python code that calls it were not made for each other: "
                f"{difference}. Build it anew with tools/build_native.sh, or install foveate again"
            )

    def instruction_set(self) -> str:
        """The best that was built and that this machine can run: v4, v3, generic; neon on ARM."""
        function = self._functions.foveate_isa
        function.restype = ctypes.c_char_p
        return function().decode()

    def instruction_sets(self) -> list[str]:
        """All that were built and that this machine can run, the best one last."""
        best = self.instruction_set()
        family = next(names for names in INSTRUCTION_SETS if best in names)
        return [isa for isa in family[: family.index(best) + 1] if self._has(isa)]

    def one_thread(self) -> bool:
        """Whether the kernels were built without OpenMP, as they are for macOS."""
        return hasattr(self._functions, "foveate_one_thread")

    def _has(self, isa: str) -> bool:
        """Whether the kernels were built for an instruction set."""
        return all(hasattr(self._functions, f"{name}_{isa}") for name in KERNELS)

    def kernel(self, name: str, isa: str) -> Callable[[Arguments | array[int]], None]:
        """A kernel for an instruction set, as a function of its arguments or their words.

        Raises:
            RuntimeError: by that function, when the kernel finds no memory to work in.
        """
        function = getattr(self._functions, f"{name}_{isa}")
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_int
        packed = packer(KERNELS[name])

        def call(arguments: Arguments | array[int]) -> None:
            if isinstance(arguments, array):
                failed = function(arguments.buffer_info()[0])
            else:
                failed = function(packed(arguments))
            if failed:
                raise RuntimeError(f"{name}: out of memory for the kernel's working space")

        return call

    def _table(self) -> dict[str, dict[str, Field]]:
        try:
            function = self._functions.foveate_layouts
        except AttributeError:
            return {}
        function.restype = ctypes.POINTER(_Row)
        rows = function()
        table: dict[str, dict[str, Field]] = {}
        for place in count():
            row = rows[place]
            if row.group is None:
                return table
            group = table.setdefault(row.group.decode(), {})
            group[row.name.decode()] = Field(row.kind.decode(), row.offset, row.size)
        return table


def _expected() -> dict[str, dict[str, Field]]:
    """The table that the library should hold."""
    names = {twin: c_name for c_name, twin in STRUCTS.items()}
    table = {c_name: layout(twin)[1] for c_name, twin in STRUCTS.items()}
    for group, members in CONSTANTS.items():
        table[group] = {member.name: Field("", member.value, 0) for member in members}
    table["KERNEL"] = {name: Field(names[twin], 0, 0) for name, twin in KERNELS.items()}
    return table


def _differences(table: dict[str, dict[str, Field]]) -> Iterator[str]:
    """What the library's table and the expected one disagree in, in words."""
    if not table:
        yield "it holds no table of its structs"
        return
    for group, expected in _expected().items():
        found = table.get(group, {})
        names = [*found, *(name for name in expected if name not in found)]
        for name in sorted(names, key=lambda name: not name):  # a field before the whole struct
            there, here = found.get(name), expected.get(name)
            if there == here:
                continue
            if group in STRUCTS and there and here and not name:
                yield f"{group} has {there.size} bytes in C and {here.size} in Python"
            elif group in STRUCTS:
                yield f"{group}.{name} is {there or 'absent'} in C and {here or 'absent'} in Python"
            else:
                yield f"{group} {name} is {there} in C and {here} in Python"

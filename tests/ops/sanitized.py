"""Runs the compiled kernels over random small cases; started by ``test_sanitizers``.

    python tests/ops/sanitized.py LIBRARY CASES

The library is built with sanitizers, which end the process at the first error; the case that was
running is the last one named. Every instruction set that was built and that this machine can run
gets the same cases. Nothing here imports PyTorch, which does not bear the address sanitizer: the
kernels are called with NumPy's arrays, through the same description of their arguments that the
operators use.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import random
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np

INTERFACE = Path(__file__).parents[2] / "src/foveate/ops/native/interface.py"
_SPEC = importlib.util.spec_from_file_location("interface", INTERFACE)
interface = sys.modules["interface"] = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(interface)

Array = np.ndarray
Size = tuple[int, ...]
Storage, Border, Bias = interface.Storage, interface.Border, interface.Bias

STORAGES = (Storage.FLOAT32, Storage.FLOAT32, Storage.BFLOAT16, Storage.FLOAT16)
DTYPES = {Storage.FLOAT32: np.float32, Storage.BFLOAT16: np.uint16, Storage.FLOAT16: np.float16}
TOLERANCES = {Storage.FLOAT32: 1e-3, Storage.BFLOAT16: 3e-2, Storage.FLOAT16: 4e-3}
CHANNELS_TOGETHER = ("packed", "projection", "heads first", "crop", "expanded")
ANY_STRIDES = (*CHANNELS_TOGETHER, "channels first", "reversed")
DIMS = (1, 3, 8, 15, 16, 31, 32, 33, 64, 128)
MOST_PRODUCTS = 150_000  # of one case: unoptimized code takes its time
MOST_WEIGHTS = 20_000  # of slide attention, in each of its two kernels


class Memory:
    """Arrays in allocations of their own, of which the sanitizer guards both ends.

    NumPy would round small ones up, and reuse them. Fresh memory is full of NaN, by what the
    sanitizer is told.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.malloc.restype = ctypes.c_void_p
        self._library.malloc.argtypes = [ctypes.c_size_t]
        self._library.free.argtypes = [ctypes.c_void_p]
        self._addresses: list[int] = []

    def empty(self, size: Size, dtype: type = np.float32) -> Array:
        count = math.prod(size) * np.dtype(dtype).itemsize
        if not count:
            return np.empty(size, dtype)
        address = self._library.malloc(count)
        self._addresses.append(address)
        flat = np.frombuffer((ctypes.c_char * count).from_address(address), dtype)
        return flat.reshape(size)

    def copy(self, x: Array) -> Array:
        y = self.empty(x.shape, x.dtype.type)
        y[...] = x
        return y

    def free(self) -> None:
        for address in self._addresses:
            self._library.free(address)
        self._addresses.clear()


MEMORY = Memory()


def stored(x: Array, storage: Storage) -> Array:
    """Numbers of float32 as a tensor keeps them."""
    if storage == Storage.BFLOAT16:
        return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return x.astype(DTYPES[storage])


def numbers(x: Array, storage: Storage) -> Array:
    """The reverse of :func:`stored`."""
    if storage == Storage.BFLOAT16:
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float32)


def normal(pick: random.Random, size: Size) -> Array:
    generator = np.random.default_rng(pick.randrange(2**32))
    return generator.standard_normal(size, np.float32)


def laid_out(pick: random.Random, size: Size, storage: Storage, layouts: tuple[str, ...]) -> Array:
    """Random numbers ``(B, H, W, heads, D)`` in one of the ways that views lie in memory.

    What surrounds them is in other allocations or NaN, so that a read of it shows.
    """
    layout, x = pick.choice(layouts), stored(normal(pick, size), storage)
    dtype = x.dtype.type
    if layout == "packed":
        return MEMORY.copy(x)
    if layout == "expanded":
        return np.broadcast_to(MEMORY.copy(x[:1]), size)
    if layout == "crop":
        inner = MEMORY.empty(tuple(n + 3 for n in size), dtype)
        inner = inner[tuple(slice(1, 1 + n) for n in size)]
    elif layout == "projection":
        inner = MEMORY.empty((*size[:3], 3, *size[3:]), dtype)[:, :, :, pick.randrange(3)]
    else:
        orders = {"heads first": (0, 3, 1, 2, 4), "channels first": (0, 3, 4, 1, 2)}
        order = orders.get(layout, (4, 3, 2, 1, 0))
        inner = MEMORY.empty(tuple(size[i] for i in order), dtype)
        inner = inner.transpose([order.index(i) for i in range(5)])
    inner[...] = x
    return inner


def address(x: Array | None) -> int:
    return 0 if x is None or not x.size else x.__array_interface__["data"][0]


def view(x: Array | None) -> interface.View:
    """As ``view`` in ``native/tensors.py``; a mask has no heads, a bias more than channels."""
    if x is None:
        return interface.ABSENT
    strides = [stride // x.itemsize for stride in x.strides]
    return interface.View(address(x), *[*strides, 0, 0][:4], *(strides[4:5] or [0]))


def pick_run(pick: random.Random, dim: int) -> interface.Run:
    dropout = pick.choice([0.0, 0.3])
    seeds = pick.randrange(2**32), pick.randrange(2**30)
    threshold = round(dropout * 2**32)
    return interface.Run(pick.randint(1, 2), *seeds, threshold, dim**-0.5, 1 / (1 - dropout))


def pick_map(pick: random.Random, reach: tuple[int, int], any_size: bool) -> tuple[int, int]:
    """Height and width: around the kernel's reach, or also below it if ``any_size``."""
    if any_size and pick.random() < 0.5:
        return pick.choice([(1, 1), (1, pick.randint(2, 40)), (pick.randint(2, 20), 1), (3, 5)])
    return reach[0] + pick.randint(0, 3), reach[1] + pick.choice([0, 0, 1, 2, 5, 17])


def pick_batch(pick: random.Random) -> int:
    return pick.choice([0, *[1, 2] * 12])


Outputs = list[tuple[Array, Storage]]
Case = tuple[str, Callable[[interface.Library, str], Outputs]]


def local_case(pick: random.Random, number: int) -> Case:
    border, dim = Border(number % 4), DIMS[number // 4 % len(DIMS)]
    while True:
        kernel = pick.randint(1, 13), pick.randint(1, 13)
        dilation = pick.randint(1, 3), pick.randint(1, 3)
        reach = kernel[0] * dilation[0], kernel[1] * dilation[1]
        height, width = pick_map(pick, reach, border in (Border.ZERO, Border.MASK))
        batch, heads = pick_batch(pick), pick.randint(1, 3)
        queries = batch * height * width * heads
        if queries * kernel[0] * kernel[1] * dim <= MOST_PRODUCTS * (4 if dim > 32 else 1):
            break
    more = [(n - 1) * d * (border == Border.REFLECT) for n, d in zip(kernel, dilation, strict=True)]
    value_dim = pick.choice([dim, dim, pick.choice(DIMS)])
    storage, bias_storage = pick.choice(STORAGES), Storage.FLOAT32
    size, keys = (batch, height, width, heads), (batch, height + more[0], width + more[1], heads)
    maps = [(*size, dim), (*keys, dim), (*keys, value_dim), (*size, value_dim)]
    q, k, v, grad = (laid_out(pick, size, storage, CHANNELS_TOGETHER) for size in maps)
    bias, bias_kind = None, pick.choice(list(Bias))
    if bias_kind == Bias.TABLE:
        bias = MEMORY.copy(normal(pick, (heads, 2 * kernel[0] - 1, 2 * kernel[1] - 1)))
    elif bias_kind == Bias.EACH:
        bias_storage = pick.choice(STORAGES)
        each = normal(pick, (batch, heads, height, width, *kernel))
        each = MEMORY.copy(stored(each, bias_storage)).transpose(0, 2, 3, 1, 4, 5)
        bias = each if pick.random() < 0.5 else MEMORY.copy(each)
    visible = pick.choice([None, 0.0, 0.6, 0.6])
    mask = None if visible is None else MEMORY.copy(np.abs(normal(pick, keys[:3])) < visible)
    grad_lse = MEMORY.copy(normal(pick, size)) if pick.random() < 0.5 else None
    bias_view = interface.View(address(bias))
    if bias_kind == Bias.EACH:
        bias_view = view(bias)._replace(channel=1)
    common = interface.LocalArguments(
        pick_run(pick, dim), view(q), view(k), view(v), bias_view, view(mask), interface.ABSENT, 0,
        *size, dim, value_dim, *keys[1:3], *kernel, *dilation, border, bias_kind, storage,
        bias_storage,
    )  # fmt: skip

    def run(library: interface.Library, isa: str) -> Outputs:
        lse = MEMORY.empty(size)
        out = MEMORY.empty((*size, value_dim), DTYPES[storage])
        arguments = common._replace(lse=address(lse), out=address(out))
        library.kernel("local_forward", isa)(arguments)
        grads = [MEMORY.empty(x.shape, DTYPES[storage]) for x in (q, k, v)]
        d_bias = None if bias is None else MEMORY.empty(bias.shape, DTYPES[bias_storage])
        if d_bias is not None and bias_kind == Bias.TABLE:
            d_bias[...] = 0
        library.kernel("local_backward", isa)(
            arguments._replace(
                out=0,
                grad_out=view(grad),
                grad_lse=address(grad_lse),
                d_bias=address(d_bias),
                **dict(zip(("dq", "dk", "dv"), map(address, grads), strict=True)),
            )
        )
        finite = np.where(np.isinf(lse), 0, lse)  # of queries that see no key
        outputs = [(out, storage), (finite, Storage.FLOAT32), *((x, storage) for x in grads)]
        return outputs if d_bias is None else [*outputs, (d_bias, bias_storage)]

    layout = [x.strides for x in (q, k, v)]
    return f"{layout} {common} grad_lse {grad_lse is not None}", run


def slide_case(pick: random.Random, number: int) -> Case:
    dim = DIMS[number % len(DIMS)]
    while True:
        kernel = pick.choice([(3, 3), (3, 3), (pick.randint(1, 7), pick.randint(1, 7))])
        taps = kernel[0] * kernel[1]
        height, width = pick_map(pick, kernel, True)
        batch, heads = pick_batch(pick), pick.randint(1, 3)
        value_dim = pick.choice([dim, dim, pick.choice(DIMS)])
        wider = max(dim, value_dim)
        products = batch * height * width * heads * taps * taps * wider
        if products <= MOST_PRODUCTS * 4 and taps * taps * wider <= MOST_WEIGHTS:
            break
    size, storage = (batch, height, width, heads), pick.choice(STORAGES)
    maps = [(*size, d) for d in (dim, dim, value_dim, value_dim)]
    q, k, v, grad = (laid_out(pick, size, storage, ANY_STRIDES) for size in maps)
    weights = []
    for d in (dim, value_dim):
        weights.append(MEMORY.copy(normal(pick, (taps, taps, d))))
        weights.append(MEMORY.copy(normal(pick, (pick.choice([1, heads]), taps, d))))
    weight_grads = pick.random() < 0.8
    common = interface.SlideArguments(
        pick_run(pick, dim), view(q), view(k), view(v), interface.ABSENT, *map(address, weights),
        *(taps * x.shape[2] * (x.shape[0] > 1) for x in weights[1::2]),
        *size, dim, value_dim, *kernel, storage,
    )  # fmt: skip

    def run(library: interface.Library, isa: str) -> Outputs:
        out = MEMORY.empty((*size, value_dim), DTYPES[storage])
        probabilities = MEMORY.empty((batch, heads, taps, height, width))
        arguments = common._replace(probabilities=address(probabilities))
        library.kernel("slide_forward", isa)(arguments._replace(out=address(out)))
        grads = [MEMORY.empty(x.shape, DTYPES[storage]) for x in (q, k, v)]
        others = [MEMORY.empty(x.shape) for x in weights] if weight_grads else []
        names = ("dq", "dk", "dv", "d_key_weight", "d_key_bias", "d_value_weight", "d_value_bias")
        library.kernel("slide_backward", isa)(
            arguments._replace(
                grad_out=view(grad),
                **dict(zip(names, map(address, grads + others), strict=False)),
            )
        )
        return [
            (out, storage), (probabilities, Storage.FLOAT32), *((x, storage) for x in grads),
            *((x, Storage.FLOAT32) for x in others),
        ]  # fmt: skip

    return f"{[x.strides for x in (q, k, v)]} {common}", run


def window_case(pick: random.Random, number: int) -> Case:
    dim, spread = DIMS[number % len(DIMS)], pick.random() < 0.3
    while True:
        height, width = pick_map(pick, (pick.randint(1, 13), pick.randint(1, 13)), True)
        window = tuple(pick.choice([side, pick.randint(1, side)]) for side in (height, width))
        cells = window[0] * window[1]
        batch, heads = pick_batch(pick), pick.randint(1, 3)
        if batch * heads * height * width * cells * dim <= MOST_PRODUCTS * (4 if dim > 32 else 1):
            break
    size, storage = (batch, height, width, heads), pick.choice(STORAGES)
    value_dim = pick.choice([dim, dim, pick.choice(DIMS)])
    maps = [(*size, d) for d in (dim, dim, value_dim, value_dim)]
    q, k, v, grad = (laid_out(pick, size, storage, CHANNELS_TOGETHER) for size in maps)
    bias = MEMORY.copy(normal(pick, (heads, cells, cells))) if pick.random() < 0.5 else None
    shift = (0, 0) if spread else tuple(pick.choice([0, pick.randrange(n)]) for n in window)
    windows = [-(-side // n) for side, n in zip((height, width), window, strict=True)]
    common = interface.WindowArguments(
        pick_run(pick, dim), view(q), view(k), view(v), interface.ABSENT, *size, dim, value_dim,
        *window, *windows, *shift, int(spread), storage, address(bias),
    )  # fmt: skip

    def run(library: interface.Library, isa: str) -> Outputs:
        out = MEMORY.empty((*size, value_dim), DTYPES[storage])
        library.kernel("window_forward", isa)(common._replace(out=address(out)))
        grads = [MEMORY.empty(x.shape, DTYPES[storage]) for x in (q, k, v)]
        d_bias = None if bias is None else MEMORY.empty(bias.shape)
        library.kernel("window_backward", isa)(
            common._replace(
                grad_out=view(grad),
                d_bias=address(d_bias),
                **dict(zip(("dq", "dk", "dv"), map(address, grads), strict=True)),
            )
        )
        outputs = [(out, storage), *((x, storage) for x in grads)]
        return outputs if d_bias is None else [*outputs, (d_bias, Storage.FLOAT32)]

    return f"{[x.strides for x in (q, k, v)]} {common}", run


def pick_taps(pick: random.Random, numbers: int) -> tuple[Size, list[int]]:
    """Batch, height and width, and fields of kernel, dilation and border."""
    while True:
        kernel, dilation = (pick.randint(1, 7), pick.randint(1, 7)), pick.choices((1, 2, 3), k=2)
        height, width = pick_map(pick, kernel, True)
        batch = pick_batch(pick)
        if batch * height * width * kernel[0] * kernel[1] * numbers <= MOST_PRODUCTS * 4:
            break
    border = pick.choice(list(interface.TapBorder))
    return (batch, height, width), [*kernel, *dilation, border]


def laid_out_map(pick: random.Random, size: Size) -> Array:
    """Float32 ``(B, H, W, C)``, channels side by side."""
    return laid_out(pick, (*size[:3], 1, size[3]), Storage.FLOAT32, CHANNELS_TOGETHER)[:, :, :, 0]


def map_view(x: Array) -> interface.View:
    strides = [stride // x.itemsize for stride in x.strides]
    return interface.View(address(x), *strides[:3], 0, 1)


def aggregate_case(pick: random.Random, number: int) -> Case:
    share, groups = pick.choice([(8, 2), (8, 8), (3, 5), (9, 16), (1, 1), (2, 12), (7, 1)])
    size, taps = pick_taps(pick, share * groups)
    storage, normalize = pick.choice(STORAGES), number % 2
    count, channels = taps[0] * taps[1], share * groups
    values, grad = (laid_out_map(pick, (*size, channels)) for _ in range(2))
    weights = laid_out(pick, (*size, count, groups), storage, ANY_STRIDES)
    common = interface.AggregateArguments(
        pick_run(pick, 1), map_view(values), view(weights), interface.ABSENT, *size, share, groups,
        *taps, normalize, storage,
    )  # fmt: skip

    def run(library: interface.Library, isa: str) -> Outputs:
        out = MEMORY.empty((*size, channels))
        kept = MEMORY.empty((*size, count, groups)) if normalize else None
        arguments = common._replace(probabilities=address(kept))
        library.kernel("aggregate_forward", isa)(arguments._replace(out=address(out)))
        d_values = MEMORY.empty((*size, channels))
        d_weights = MEMORY.empty((*size, count, groups), DTYPES[storage])
        library.kernel("aggregate_backward", isa)(
            arguments._replace(
                grad_out=map_view(grad),
                d_values=address(d_values),
                d_weights=address(d_weights),
            )
        )
        floats = [(x, Storage.FLOAT32) for x in (out, d_values, kept) if x is not None]
        return [*floats, (d_weights, storage)]

    return f"{values.strides} {common}", run


def relation_case(pick: random.Random, number: int) -> Case:
    dim, relation = DIMS[number % len(DIMS)], pick.choice(list(interface.Relation))
    size, taps = pick_taps(pick, dim)
    batch, storage, count = size[0], pick.choice(STORAGES), taps[0] * taps[1]
    q, k = (laid_out_map(pick, (*size, dim)) for _ in range(2))
    rows = count + (relation == interface.Relation.CONCATENATION)
    grad = MEMORY.copy(stored(normal(pick, (*size, rows * dim)), storage))
    affine = dim * (rows if relation == interface.Relation.CONCATENATION else 1)
    activated = pick.random() < 0.5
    scale, shift = (MEMORY.copy(np.abs(normal(pick, (affine,))) + 0.1) for _ in range(2))
    common = interface.RelationArguments(
        pick_run(pick, 1), map_view(q), map_view(k), *size, dim, *taps, relation, storage,
        *(map(address, (scale, shift)) if activated else ()),
    )  # fmt: skip

    def run(library: interface.Library, isa: str) -> Outputs:
        out = MEMORY.empty((*size, rows * dim), DTYPES[storage])
        library.kernel("relation_forward", isa)(common._replace(out=address(out)))
        grads = [MEMORY.empty((*size, dim)) for _ in range(2)]
        if activated and batch:
            grads += [MEMORY.empty((affine,)) for _ in range(2)]
        names = ("dq", "dk", "d_scale", "d_shift")
        library.kernel("relation_backward", isa)(
            common._replace(
                grad_out=address(grad), **dict(zip(names, map(address, grads), strict=False))
            )
        )
        return [(out, storage), *((x, Storage.FLOAT32) for x in grads)]

    return f"{q.strides} {common}", run


def axis_pool_case(pick: random.Random, number: int) -> Case:
    batch, *sides = pick_batch(pick), *(pick.choice([1, pick.randint(1, 33)]) for _ in range(3))
    statistics = 1 + (number % 3 > 0)
    keep = statistics == 2 and pick.random() < 0.7
    x = MEMORY.copy(normal(pick, (batch, *sides)))
    pooled = [axis for axis in range(3) if pick.random() < 0.7] or [pick.randrange(3)]
    planes = [[n for i, n in enumerate(sides) if i != axis] for axis in pooled]
    turned = [pick.random() < 0.5 for _ in pooled]
    common = interface.AxisPoolArguments(
        *[interface.ABSENT] * 6, pick.randint(1, 2), batch, *sides, statistics - 1, address(x)
    )

    def views(kind: str, arrays: list[Array]) -> dict[str, interface.View]:
        found = {}
        for axis, array, turn in zip(pooled, arrays, turned, strict=True):
            image, statistic, row, column = (n // array.itemsize for n in array.strides)
            row, column = (column, row) if turn else (row, column)
            name = f"{kind}_{('outer', 'middle', 'inner')[axis]}"
            found[name] = interface.View(address(array), image, row, column, statistic)
        return found

    def empty(statistics: int) -> list[Array]:
        sizes = [p[::-1] if turn else p for p, turn in zip(planes, turned, strict=True)]
        return [MEMORY.empty((batch, statistics, *size)) for size in sizes]

    def run(library: interface.Library, isa: str) -> Outputs:
        out, index = empty(statistics), empty(1) if keep else []
        told = common._replace(**views("over", out), **(views("index", index) if keep else {}))
        library.kernel("axis_pool_forward", isa)(told)
        if statistics == 2 and not keep:
            return [(y, Storage.FLOAT32) for y in out]
        dx = MEMORY.empty(x.shape)
        library.kernel("axis_pool_backward", isa)(told._replace(dx=address(dx)))
        return [(y, Storage.FLOAT32) for y in [*out, *index, dx]]

    return f"{common} {pooled} {turned}", run


def scale_case(pick: random.Random, number: int) -> Case:
    batch, *sides = pick_batch(pick), *(pick.choice([1, pick.randint(1, 33)]) for _ in range(3))
    combination = list(interface.Combination)[number % 3]
    count = 2 if combination == interface.Combination.SIGN else pick.randint(1, 3)
    x, grad = (MEMORY.copy(normal(pick, (batch, *sides))) for _ in range(2))
    sizes = [(batch, *(pick.choice([1, n]) for n in sides)) for _ in range(count)]
    factors = [MEMORY.copy(normal(pick, size)) for size in sizes]
    threads = pick.randint(1, 2)

    def views(arrays: list[Array]) -> list[interface.View]:
        found = []
        for array in arrays:
            image, *steps = (n // array.itemsize for n in array.strides)
            row, column, channel = (
                step * (n > 1) for step, n in zip(steps, array.shape[1:], strict=True)
            )
            found.append(interface.View(address(array), image, row, column, 0, channel))
        return [*found, *[interface.ABSENT] * (3 - len(found))]

    def told(grads: list[Array], coming: Array | None, out: Array) -> interface.ScaleArguments:
        return interface.ScaleArguments(
            *views(factors), *views(grads), threads, batch, *sides, combination, address(x),
            address(coming), address(out),
        )  # fmt: skip

    def run(library: interface.Library, isa: str) -> Outputs:
        out, dx = MEMORY.empty(x.shape), MEMORY.empty(x.shape)
        grads = [MEMORY.empty(size) for size in sizes]
        library.kernel("scale_forward", isa)(told([], None, out))
        library.kernel("scale_backward", isa)(told(grads, grad, dx))
        return [(y, Storage.FLOAT32) for y in [out, dx, *grads]]

    return f"{batch} {sides} {combination} {sizes} {threads}", run


def narrow_conv_case(pick: random.Random, number: int) -> Case:
    kernel = [7, 7] if number % 2 else [pick.randrange(1, 12, 2) for _ in range(2)]
    batch, height, width = pick_batch(pick), pick.randint(1, 37), pick.randint(1, 90)
    channels = pick.randint(1, 4), pick.randint(1, 4)
    x, grad = (MEMORY.copy(normal(pick, (batch, n, height, width))) for n in channels)
    weight = MEMORY.copy(normal(pick, (channels[1], channels[0], *kernel)))
    weight_grad = pick.random() < 0.8

    def of_map(array: Array) -> interface.View:
        image, channel, row, column = (n // array.itemsize for n in array.strides)
        return interface.View(address(array), image, row, column, channel)

    common = interface.NarrowConvArguments(
        of_map(x), interface.ABSENT, pick.randint(1, 2), batch, height, width, *channels, *kernel,
        address(weight),
    )  # fmt: skip

    def run(library: interface.Library, isa: str) -> Outputs:
        out, dx, d_weight = (MEMORY.empty(y.shape) for y in (grad, x, weight))
        library.kernel("narrow_conv_forward", isa)(common._replace(out=address(out)))
        library.kernel("narrow_conv_backward", isa)(
            common._replace(
                grad_out=of_map(grad),
                dx=address(dx),
                d_weight=address(d_weight) if weight_grad else 0,
            )
        )
        written = [out, dx, d_weight] if weight_grad else [out, dx]
        return [(y, Storage.FLOAT32) for y in written]

    return f"{common} weight_grad {weight_grad}", run


CASES = (
    local_case, slide_case, window_case, aggregate_case, relation_case,
    axis_pool_case, scale_case, narrow_conv_case,
)  # fmt: skip


def check(found: list[Array], first: list[Array], storages: list[Storage]) -> None:
    """That all numbers were written, and that the instruction sets agree on them."""
    for place, (x, y, storage) in enumerate(zip(found, first, storages, strict=True)):
        if not np.isfinite(x).all():
            sys.exit(f"memory was read before it was written, or beside what was given ({place})")
        scale = max(1.0, float(np.abs(y).max(initial=0)))
        if np.abs(x - y).max(initial=0) > TOLERANCES[storage] * scale:
            sys.exit(f"the instruction sets differ by {np.abs(x - y).max()} ({place})")


def main() -> None:
    library, cases = interface.Library(Path(sys.argv[1])), int(sys.argv[2])
    sets = library.instruction_sets()
    for number, make in product(range(cases), CASES):
        pick = random.Random(f"{make.__name__} {number}")
        told, run = make(pick, number)
        first: list[Array] = []
        for isa in sets:
            print(make.__name__, number, isa, told, file=sys.stderr, flush=True)
            outputs = run(library, isa)
            found = [numbers(x, storage) for x, storage in outputs]
            first = first or found
            check(found, first, [storage for _, storage in outputs])
        MEMORY.free()
    print("instruction sets:", *sets)


if __name__ == "__main__":
    main()

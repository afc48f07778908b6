"""Which weights of a replaced attention serve its successor.

In the trace every channel carries the number of the linear layer that made it. Where activations
are multiplied, the query's, key's and value's channels are read off, with the heads that they
belong to: whatever the layers are called, fused or not, in whatever order heads are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from foveate.contracts import MapOfTokens
from foveate.surgery._origins import CONVOLUTIONS, LAYER, LINEAR, words
from foveate.surgery.trace import Call, Node

_PAIR_PRODUCTS = words("matmul __matmul__ bmm baddbmm")


@dataclass
class Projection:
    """Rows of a linear layer: ``weight`` (C', C) and ``bias`` (C'), None where there is none."""

    weight: Tensor
    bias: Tensor | None


@dataclass
class Projections:
    """What an attention projects with.

    Attributes:
        num_heads: heads.
        q: for queries, rows head by head.
        k: for keys.
        v: for values.
        proj: of the output; its input channels are head by head. None if there is none to keep.
        sources: the parameters that these come from.
    """

    num_heads: int
    q: Projection
    k: Projection
    v: Projection
    proj: Projection | None
    sources: list[Tensor]


def projections(call: Call, nodes: Sequence[Node]) -> Projections | str:
    """The projections of the attention that ran in ``call``, or why they cannot be told."""
    inside = nodes[call.start : call.end]
    if any(isinstance(layer_of(node)[1], FakeTensor) for node in inside):
        _compute_biases(call, inside)
    for node in inside:
        if node.op == "multi_head_attention_forward":
            return _of_pytorch(node)
    by_index = {node.index: node for node in inside}
    found = _query_key_value(inside)
    if isinstance(found, str):
        return found
    query, key, value, product = found
    num_heads = query.shape[0]
    parts = [_rows(codes, by_index) for codes in (query, key, value)]
    if any(isinstance(part, str) for part in parts):
        return next(part for part in parts if isinstance(part, str))
    rows = [part for part in parts if not isinstance(part, str)]
    sources = [tensor for _, used in rows for tensor in used]
    proj = _output(inside, product, value.flatten())
    if proj is not None:
        sources += [t for t in (proj[1].weight_source, proj[1].bias_source) if t is not None]
    q, k, v = (row for row, _ in rows)
    return Projections(num_heads, q, k, v, None if proj is None else proj[0], sources)


@dataclass
class _Layer:
    weight_source: Tensor
    bias_source: Tensor | None


def _of_pytorch(node: Node) -> Projections | str:
    """Of ``torch.nn.MultiheadAttention``, whose layers are arguments of one function."""
    heads, weight, bias = node.args[4:7]
    if not isinstance(weight, Tensor) or len(node.args) < 13:
        return "its projections are separate"
    rows = weight.detach().chunk(3)
    biases = bias.detach().chunk(3) if isinstance(bias, Tensor) else (None,) * 3
    q, k, v = (Projection(w, b) for w, b in zip(rows, biases, strict=True))
    out, out_bias = node.args[11:13]
    named = [t for t in (weight, bias, out, out_bias) if isinstance(t, Tensor)]
    proj = Projection(out.detach(), out_bias.detach() if isinstance(out_bias, Tensor) else None)
    return Projections(heads, q, k, v, proj, named)


def _query_key_value(inside: Sequence[Node]) -> tuple[Tensor, Tensor, Tensor, Node] | str:
    """Channel codes (h, D) of query, key and value, and the product that has the values."""
    for number, node in enumerate(inside):
        if node.op == "scaled_dot_product_attention":
            named = node.args[-1]
            three = (*node.args[:3], *map(named.get, ("query", "key", "value")))
            operands = [a for a in three if isinstance(a, Node)][:3]
            if len(operands) < 3:
                break
            codes = [_codes(operand, -1) for operand in operands]
            return _checked(codes, node)
        two = [a for a in node.args[:2] if isinstance(a, Node)]
        if node.op in _PAIR_PRODUCTS and len(two) == 2:
            query, key = _codes(two[0], -1), _codes(two[1], -2)
            for later in inside[number + 1 :]:
                second = [a for a in later.args[:2] if isinstance(a, Node)]
                if later.op in _PAIR_PRODUCTS and len(second) == 2:
                    return _checked([query, key, _codes(second[1], -1)], later)
            break
    return "its query, key and value are not products of linear layers that can be told apart"


def _checked(codes: list[Tensor | None], node: Node) -> tuple[Tensor, Tensor, Tensor, Node] | str:
    q, k, v = codes
    if q is None or k is None or v is None:
        return "its heads' channels cannot be told apart"
    if q.shape != k.shape or v.shape[0] != q.shape[0]:
        return f"its queries have {tuple(q.shape)} channels a head, its keys {tuple(k.shape)}"
    return q, k, v, node


def _codes(node: Node, axis: int) -> Tensor | None:
    """``(h, D)``: the channel codes of an operand whose channels lie along ``axis``."""
    if node.origin is None:
        return None
    c = node.origin.channel
    if c.dim() == 3:
        c = _heads_of_batch(c) if c.stride(0) != 0 else c.unsqueeze(1)
    c = _without_windows(c)
    if c.dim() != 4:
        return None
    tokens = -2 if axis == -1 else -1
    uniform = [0, c.dim() + tokens]
    if any(c.shape[i] > 1 and c.stride(i) != 0 for i in uniform):
        return None
    c = c.select(tokens, 0)[0]
    return c.contiguous() if bool((c >= 0).all()) else None


def _without_windows(c: Tensor) -> Tensor:
    """Codes without the axes in the middle along which they do not vary: windows have their own."""
    while c.dim() > 4:
        same = [i for i in range(1, c.dim() - 2) if c.shape[i] == 1 or c.stride(i) == 0]
        if not same:
            break
        c = c.select(same[-1], 0)
    return c


def _heads_of_batch(c: Tensor) -> Tensor:
    """``(1, h, N, D)`` of codes ``(B h, N, D)``, whose heads were put beside the samples."""
    again = (c[:, 0, 0] == c[0, 0, 0]).nonzero().flatten().tolist()
    heads = again[1] if len(again) > 1 else len(c)
    return c[:heads].unsqueeze(0)


def _rows(codes: Tensor, by_index: dict[int, Node]) -> tuple[Projection, list[Tensor]] | str:
    codes = codes.flatten()
    layers = (codes // LAYER).long()
    weights, biases, used = [], [], []
    for layer in layers.unique_consecutive().tolist():
        node = by_index.get(layer)
        weight, bias = (None, None) if node is None else layer_of(node)
        if weight is None:
            return "it projects with more than matrices"
        if isinstance(weight, FakeTensor) or isinstance(bias, FakeTensor):
            return "its projections' weights are computed on the way"
        rows = (codes[layers == layer] % LAYER).long()
        weights.append(weight.detach().flatten(1)[rows.to(weight.device)])
        biases.append(None if bias is None else bias.detach()[rows.to(weight.device)])
        used += [t for t in (weight, bias) if t is not None]
    width = {tuple(w.shape[1:]) for w in weights}
    if len(width) > 1:
        return "its projections have several widths"
    if any(bias is not None for bias in biases):
        biases = [w.new_zeros(len(w)) if b is None else b
                  for w, b in zip(weights, biases, strict=True)]  # fmt: skip
        return Projection(torch.cat(weights), torch.cat(biases)), used
    return Projection(torch.cat(weights), None), used


def layer_of(node: Node) -> tuple[Tensor | None, Tensor | None]:
    """Weight and bias of a linear layer or 1x1 convolution; None for anything else."""
    if node.op not in LINEAR and node.op not in CONVOLUTIONS:
        return None, None
    named = node.args[-1]
    given = [*node.args[1:-1]]
    weight = given[0] if given else named.get("weight")
    bias = given[1] if len(given) > 1 else named.get("bias")
    if not isinstance(weight, Tensor) or weight.shape[2:].numel() != 1:
        return None, None
    return weight, bias if isinstance(bias, Tensor) else None


def _compute_biases(call: Call, inside: Sequence[Node]) -> None:
    """Put real biases in place of those that are put together on the way, as BEiT's are.

    A trace on fake tensors knows their shapes alone, so the module is run on zeros.
    """
    real = _Biases()

    def zeros(value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.zeros(value.shape, dtype=value.dtype, device=value.device)
        if isinstance(value, tuple | list):
            return type(value)(map(zeros, value))
        return value

    modes = {module: module.training for module in call.module.modules()}
    call.module.eval()
    try:
        with torch.no_grad(), real:
            call.module(*zeros(call.args), **{k: zeros(v) for k, v in call.kwargs.items()})
    finally:
        for module, training in modes.items():
            module.training = training
    for node in inside:
        weight, bias = layer_of(node)
        if isinstance(bias, FakeTensor) and id(weight) in real.found:
            at = next((i for i, value in enumerate(node.args) if value is bias), None)
            if at is None:
                node.args[-1]["bias"] = real.found[id(weight)]
            else:
                node.args = (*node.args[:at], real.found[id(weight)], *node.args[at + 1 :])


class _Biases(TorchFunctionMode):
    """Takes down the bias that each weight is used with."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in LINEAR or name in CONVOLUTIONS:
            weight = args[1] if len(args) > 1 else kwargs.get("weight")
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            if isinstance(bias, Tensor):
                self.found[id(weight)] = bias.detach()
        return func(*args, **kwargs)


def _output(
    inside: Sequence[Node], product: Node, value: Tensor
) -> tuple[Projection, _Layer] | None:
    """The layer that the product's output goes into, with its input head by head."""
    for node in inside:
        if node.index <= product.index:
            continue
        weight, bias = layer_of(node)
        source = node.args[0] if node.args and isinstance(node.args[0], Node) else None
        if weight is None or source is None or source.origin is None:
            continue
        if isinstance(weight, FakeTensor) or isinstance(bias, FakeTensor):
            return None
        axis = -1 if node.op in LINEAR else 1
        codes = source.origin.channel
        for i in range(codes.dim()):
            if i != axis % codes.dim():
                codes = codes.narrow(i, 0, 1)
        codes = codes.flatten()
        place = {code: i for i, code in enumerate(codes.tolist())}
        if len(codes) != len(value) or set(place) != set(value.tolist()):
            return None
        columns = torch.tensor([place[code] for code in value.tolist()])
        kept = Projection(
            weight.detach().flatten(1)[:, columns.to(weight.device)],
            None if bias is None else bias.detach(),
        )
        return kept, _Layer(weight, bias)
    return None


def keep_in(module: nn.Module, old: Projections) -> list[str]:
    """Copy what fits of ``old`` into ``module``; says what was kept."""
    target = module.token_mixer if isinstance(module, MapOfTokens) else module
    three = (old.q, old.k, old.v)
    kept = []
    if (qkv := _matrix(target, "qkv")) is not None and _copy(qkv, three):
        kept.append("qkv")
    elif (q := _matrix(target, "q")) is not None and _copy(q, three[:1]):
        kept.append("q")
        if (kv := _matrix(target, "kv")) is not None and _copy(kv, three[1:]):
            kept.append("kv")
        for name, part in (("k", three[1:2]), ("v", three[2:])):
            if (layer := _matrix(target, name)) is not None and _copy(layer, part):
                kept.append(name)
    proj = _matrix(target, "proj")
    if proj is not None and old.proj is not None and _copy(proj, (old.proj,)):
        kept.append("proj")
    return kept


def _matrix(module: nn.Module, name: str) -> nn.Linear | nn.Conv2d | None:
    layer = getattr(module, name, None)
    if isinstance(layer, nn.Linear):
        return layer
    one = isinstance(layer, nn.Conv2d) and max(layer.kernel_size) == 1 and layer.groups == 1
    return layer if one else None


def _copy(layer: nn.Linear | nn.Conv2d, parts: Sequence[Projection]) -> bool:
    weight = torch.cat([part.weight for part in parts])
    if weight.shape != layer.weight.flatten(1).shape:
        return False
    with torch.no_grad():
        layer.weight.copy_(weight.view_as(layer.weight))
        if layer.bias is not None:
            layer.bias.zero_()
            rows = 0
            for part in parts:
                size = len(part.weight)
                if part.bias is not None:
                    layer.bias[rows : rows + size] = part.bias
                rows += size
    return True


def unkept(old: nn.Module, sources: Sequence[Tensor]) -> list[str]:
    """Names of what ``old`` learned and that was not taken from it."""
    used = {id(tensor) for tensor in sources}
    names = [
        name for name, parameter in old.named_parameters()
        if id(parameter) not in used and not _in_any(parameter, sources)
    ]  # fmt: skip
    return list(dict.fromkeys(name.rsplit(".", 1)[0] if "." in name else name for name in names))


def _in_any(parameter: Tensor, sources: Sequence[Tensor]) -> bool:
    """Whether a vector is a stretch of a bias that was put together from several."""
    if parameter.dim() != 1:
        return False
    return any(
        torch.equal(source[i : i + len(parameter)], parameter)
        for source in sources
        if source.dim() == 1 and len(source) % len(parameter) == 0
        for i in range(0, len(source), len(parameter))
    )

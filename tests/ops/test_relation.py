"""Local relations: every backend is the definition, for both kinds."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from foveate import ops
from foveate.ops.native import library
from foveate.ops.relation import native, reference

needs_native = pytest.mark.skipif(not library.available(), reason=library.why_not())
BACKENDS = [*["native"] * library.available(), "portable"]

# (batch, height, width, channels), kernel, dilation, border
CASES = [
    ((2, 5, 6, 18), (3, 3), (1, 1), "reflect"),
    ((1, 9, 8, 8), (7, 7), (1, 1), "reflect"),
    ((2, 5, 7, 3), (4, 3), (1, 2), "zero"),
    ((1, 4, 9, 33), (3, 5), (2, 3), "zero"),
    ((1, 1, 7, 4), (3, 3), (1, 1), "reflect"),
    ((2, 3, 4, 1), (1, 1), (1, 1), "zero"),
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)
either = pytest.mark.parametrize("relation", ["difference", "concatenation"])


def make(case, dtype=torch.float32, affine_of=None):
    """q and k, and scale and shift for one of the relations."""
    size, kernel, _, _ = case
    tensors = [torch.randn(size, dtype=dtype) for _ in range(2)]
    if affine_of:
        count = size[3] * (1 if affine_of == "difference" else 1 + kernel[0] * kernel[1])
        tensors += [torch.randn(count, dtype=dtype) for _ in range(2)]
    return [x.requires_grad_() for x in tensors]


def relate(tensors, case, relation):
    _, kernel, dilation, border = case
    q, k, *affine = tensors
    named = dict(zip(("scale", "shift"), affine, strict=False))
    return ops.local_relation(q, k, kernel, dilation, relation=relation, border=border, **named)


def gradients(out, tensors):
    grad = torch.cos(torch.arange(out.numel()).double()).view(out.shape).to(out.dtype)
    return torch.autograd.grad(out, tensors, grad)


def assert_is_definition(case, relation, tolerance, dtype=torch.float32, affine=False):
    tensors = make(case, dtype, relation if affine else None)
    precise = [x.detach().double().requires_grad_() for x in tensors]
    _, kernel, dilation, border = case
    out = relate(tensors, case, relation)
    expected = reference.local_relation(
        *precise[:2], kernel, dilation, relation, border, *precise[2:]
    )
    assert out.dtype is dtype
    found = [out, *gradients(out, tensors)]
    wanted = [expected, *gradients(expected, precise)]
    for ours, theirs in zip(found, wanted, strict=True):
        largest = theirs.abs().max().clamp_min(1e-3)
        assert ours.shape == theirs.shape
        assert ((ours.double() - theirs).abs().max() / largest).item() <= tolerance


@every_case
@either
def test_portable_is_the_definition(case, relation):
    with ops.use_backend("portable"):
        assert_is_definition(case, relation, 1e-12, torch.float64)
        assert_is_definition(case, relation, 1e-12, torch.float64, affine=True)


@needs_native
@every_case
@either
def test_native_is_the_definition(case, relation, poisoned_memory):
    with ops.use_backend("native"):
        assert_is_definition(case, relation, 1e-6)
        assert_is_definition(case, relation, 3e-6, affine=True)


@needs_native
@pytest.mark.parametrize("isa", library.instruction_sets() if library.available() else [])
@either
def test_every_instruction_set_is_right(isa, relation, monkeypatch):
    monkeypatch.setattr(native.library, "kernel", partial(library.kernel, isa=isa))
    for case in CASES:
        assert_is_definition(case, relation, 3e-6, affine=True)


@needs_native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@either
def test_half_precision(dtype, relation):
    assert_is_definition(CASES[1], relation, 2e-2, dtype)


@needs_native
@either
def test_threads_share_the_rows(two_threads, relation):
    case = ((3, 11, 7, 10), (5, 5), (1, 1), "reflect")
    assert_is_definition(case, relation, 3e-6, affine=True)


@pytest.mark.parametrize("backend", BACKENDS)
@either
def test_any_strides(backend, relation):
    q, k = (x.detach() for x in make(CASES[0]))
    first = q.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    joined = torch.cat([q, k], -1)[..., 18:]
    with ops.use_backend(backend):
        torch.testing.assert_close(
            relate([first, joined], CASES[0], relation), relate([q, k], CASES[0], relation)
        )


@either
def test_gradients_by_differences(relation):
    for border, affine_of in (("zero", None), ("reflect", relation)):
        case = ((1, 3, 4, 2), (3, 3), (1, 1), border)
        tensors = make(case, torch.float64, affine_of)
        torch.autograd.gradcheck(lambda *x, c=case: relate(x, c, relation), tensors)
        torch.autograd.gradgradcheck(lambda *x, c=case: relate(x, c, relation), tensors)


@pytest.mark.parametrize("case", [CASES[0], CASES[2]], ids=str)
@either
def test_operators_keep_the_rules(case, relation):
    _, kernel, dilation, border = case
    for affine_of in (None, relation):
        q, k, *affine = make(case, affine_of=affine_of)
        options = (list(kernel), list(dilation), border, relation, *(affine or (None, None)))
        torch.library.opcheck(
            torch.ops.foveate.local_relation.default, (q, k, *options, False, True)
        )
        q, k, *options = (
            x.detach() if isinstance(x, torch.Tensor) else x for x in (q, k, *options)
        )
        out, kept = torch.ops.foveate.local_relation(q, k, *options, False, True)
        torch.library.opcheck(
            torch.ops.foveate.local_relation_backward.default,
            (torch.ones_like(out), None, None, kept, bool(affine), q, k, *options),
        )


@needs_native
@either
def test_compiled_whole(relation):
    case, tensors = CASES[0], make(CASES[0], affine_of=relation)
    run = torch.compile(lambda *x: relate(x, case, relation), fullgraph=True, backend="aot_eager")
    out, expected = run(*tensors), relate(tensors, case, relation)
    torch.testing.assert_close(out, expected)
    for ours, theirs in zip(gradients(out, tensors), gradients(expected, tensors), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("backend", BACKENDS)
@either
def test_empty_batch(backend, relation):
    case = ((0, 6, 6, 4), (3, 3), (1, 1), "zero")
    tensors = make(case, affine_of=relation)
    with ops.use_backend(backend):
        out = relate(tensors, case, relation)
        found = gradients(out, tensors)
    assert not any(x.any() for x in found[2:])
    assert out.shape[:3] == (0, 6, 6)
    assert all(g.shape == x.shape for g, x in zip(found, tensors, strict=True))


def test_what_is_refused():
    q, k = make(CASES[0])
    with pytest.raises(ValueError, match="same shape"):
        ops.local_relation(q, k[..., :3], 3)
    with pytest.raises(ValueError, match="share one dtype"):
        ops.local_relation(q, k.double(), 3)
    with pytest.raises(ValueError, match=r"q must be \(B, H, W, C\)"):
        ops.local_relation(q[0], k[0], 3)
    with pytest.raises(ValueError, match="relation"):
        ops.local_relation(q, k, 3, relation="product")
    with pytest.raises(ValueError, match="given together"):
        ops.local_relation(q, k, 3, scale=torch.ones(18))
    with pytest.raises(ValueError, match=r"shift must be \(18,\), got \(3,\)"):
        ops.local_relation(q, k, 3, scale=torch.ones(18), shift=torch.ones(3))
    with pytest.raises(TypeError, match=r"k must be a torch\.Tensor, got float"):
        ops.local_relation(q, 1.0, 3)

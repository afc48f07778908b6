"""What every aligner owes its contract, with its options in turn."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from foveate.attention.sequence.additive import AdditiveAligner
from foveate.attention.sequence.concat import ConcatAligner
from foveate.attention.sequence.dot_product import DotProductAligner
from foveate.attention.sequence.general import GeneralAligner
from foveate.attention.sequence.local_alignment import (
    LocalMonotonicAligner,
    LocalPredictiveAligner,
)
from foveate.attention.sequence.location import LocationAligner
from foveate.contracts import Aligner

DIM = 8


ALIGNERS = {
    "dot_product": lambda: DotProductAligner(DIM),
    "dot_product-scaled": lambda: DotProductAligner(DIM, scale=0.5, learned_scale=True),
    "general": lambda: GeneralAligner(DIM, 6),
    "additive": lambda: AdditiveAligner(DIM, 6),
    "additive-normalized": lambda: AdditiveAligner(DIM, hidden=5, bias=True, normalize=True),
    "concat": lambda: ConcatAligner(DIM, 6, hidden=5),
    "location": lambda: LocationAligner(DIM, 6, max_positions=20),
    "local_monotonic": lambda: LocalMonotonicAligner(DIM, 6, window=2),
    "local_monotonic-dot": lambda: LocalMonotonicAligner(DIM, score="dot", window=3),
    "local_predictive": lambda: LocalPredictiveAligner(DIM, 6, window=2),
    "local_predictive-concat": lambda: LocalPredictiveAligner(
        DIM, 6, score="concat", hidden=5, window=4, position_hidden=3, bias=True
    ),
    "local_predictive-zero": lambda: LocalPredictiveAligner(DIM, 6, window=4, border="zero"),
}


every_aligner = pytest.mark.parametrize("build", ALIGNERS.values(), ids=ALIGNERS)


def _inputs(aligner, batch: int = 3, queries: int = 4, positions: int = 7):
    torch.manual_seed(0)
    query = torch.randn(batch, queries, aligner.dim)
    return query, torch.randn(batch, positions, aligner.memory_dim)


@every_aligner
def test_weights_give_the_context(build) -> None:
    aligner: Aligner = build()
    query, memory = _inputs(aligner)
    context, weights = aligner(query, memory)
    assert weights.shape == (3, 4, 7)
    if isinstance(aligner, LocalPredictiveAligner):
        assert (weights.sum(-1) <= 1).all()
    else:
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4))
    torch.testing.assert_close(context, weights @ memory)
    assert aligner(query[:0], memory[:0])[0].shape == context[:0].shape


@every_aligner
def test_mask_is_as_good_as_a_shorter_memory(build) -> None:
    aligner = build()
    query, memory = _inputs(aligner)
    mask = torch.arange(7) < torch.tensor([5, 7, 0])[:, None]
    query.requires_grad_()
    context, weights = aligner(query, memory, mask)
    short_context, short_weights = aligner(query[:1], memory[:1, :5])
    torch.testing.assert_close(context[:1], short_context)
    torch.testing.assert_close(weights[:1, :, :5], short_weights)
    torch.testing.assert_close(context[1:2], aligner(query[1:2], memory[1:2])[0])
    assert not weights[2].any()
    assert not context[2].any()
    context.sum().backward()
    assert query.grad.isfinite().all()
    assert not query.grad[2].any()


@every_aligner
def test_closed_form_equals_the_counter(build) -> None:
    aligner = build()
    with FlopCounterMode(display=False) as counter:
        aligner(*_inputs(aligner, batch=1))
    assert aligner.multiply_adds(4, 7) * 2 == counter.get_total_flops()


@pytest.mark.slow  # as registered they are compiled and exported by the common checks
@every_aligner
def test_compiles_and_exports_whole(build) -> None:
    torch._dynamo.reset()
    aligner = build().eval()
    mask = torch.tensor([[True] * 6 + [False]] * 3)
    inputs = (*_inputs(aligner), mask)
    compiled = torch.compile(aligner, fullgraph=True, dynamic=True, backend="eager")
    batch, queries, positions = (torch.export.Dim(name, min=2, max=20) for name in "bts")
    shapes = ({0: batch, 1: queries}, {0: batch, 1: positions}, {0: batch, 1: positions})
    exported = torch.export.export(aligner, inputs, dynamic_shapes=shapes).module()
    for arguments in (inputs, (*_inputs(aligner, 2, 5, 9), torch.rand(2, 9) < 0.5)):
        torch.testing.assert_close(compiled(*arguments), aligner(*arguments))
        torch.testing.assert_close(exported(*arguments), aligner(*arguments))


@every_aligner
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(build, dtype: torch.dtype) -> None:
    aligner = build()
    query, memory = _inputs(aligner)
    mask = torch.rand(3, 7) < 0.7
    expected, _ = aligner(query, memory, mask)
    context, weights = aligner.to(dtype)(query.to(dtype), memory.to(dtype), mask)
    assert context.dtype == weights.dtype == dtype
    torch.testing.assert_close(context.float(), expected, rtol=0.05, atol=0.05)


@every_aligner
def test_refuses_what_does_not_belong_together(build) -> None:
    aligner = build()
    query, memory = _inputs(aligner)
    with pytest.raises(ValueError, match=r"query \(B, N, 8\)"):
        aligner(query[..., 1:], memory)
    with pytest.raises(ValueError, match="expected memory"):
        aligner(query, memory[..., 1:])
    with pytest.raises(ValueError, match="one batch size, got 3 and 2"):
        aligner(query, memory[1:])
    with pytest.raises(ValueError, match="memory_mask must have shape"):
        aligner(query, memory, torch.ones(3, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="memory_mask must be boolean"):
        aligner(query, memory, torch.ones(3, 7))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LocationAligner(DIM, max_positions=0), "max_positions"),
        (lambda: LocalMonotonicAligner(DIM, score="additive"), "unknown score 'additive'"),
        (lambda: LocalMonotonicAligner(DIM, window=0), "window"),
        (lambda: LocalMonotonicAligner(DIM, 6, score="dot"), "needs memory_dim=8, got 6"),
        (lambda: LocalMonotonicAligner(DIM, hidden=4), "hidden is of the concat score"),
        (lambda: LocalPredictiveAligner(DIM, border="wrap"), "unknown border 'wrap'"),
        (lambda: DotProductAligner(0), "dim"),
        (lambda: GeneralAligner(DIM, -1), "memory_dim"),
        (lambda: AdditiveAligner(DIM, hidden=0), "hidden"),
    ],
)
def test_refuses_wrong_options(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()

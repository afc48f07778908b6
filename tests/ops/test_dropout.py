"""The seed of dropout in compiled code."""

from __future__ import annotations

import torch
from torch._functorch import config

from foveate import ops


def test_a_recomputed_forward_drops_what_the_first_dropped() -> None:
    q, k, v = torch.randn(3, 1, 8, 8, 2, 8, generator=torch.Generator().manual_seed(0))

    def attend(v: torch.Tensor) -> torch.Tensor:
        return ops.local_attention(q.sin(), k, 1.5 * v, 5, dropout_p=0.5)

    for budget in (1.0, 0.5, 0.1):
        torch._dynamo.reset()
        with config.patch(activation_memory_budget=budget), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            leaf = v.clone().requires_grad_()
            compiled = torch.compile(attend, backend="aot_eager_decomp_partition", fullgraph=True)
            out = compiled(leaf)
            grad = torch.randn_like(out)
            (dv,) = torch.autograd.grad(out, leaf, grad)
        # The output is linear in v, so these are one number if the same weights were dropped.
        torch.testing.assert_close((out * grad).sum(), (leaf * dv).sum())


def test_two_calls_of_a_compiled_graph_drop_differently() -> None:
    x = torch.randn(1, 8, 8, 2, 8, generator=torch.Generator().manual_seed(0))

    def twice(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(ops.local_attention(x, x, x, 3, dropout_p=0.5) for _ in range(2))

    torch._dynamo.reset()
    first, second = torch.compile(twice, backend="aot_eager_decomp_partition")(x)
    assert not torch.equal(first, second)

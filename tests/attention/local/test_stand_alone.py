"""Stand-alone attention: the paper's equation, its border, weights and cost."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from foveate.analysis.flops import count_flops
from foveate.attention.local.stand_alone import StandAloneAttention


def _module(**options) -> StandAloneAttention:
    torch.manual_seed(0)
    return StandAloneAttention(8, 2, **{"kernel_size": 3, **options}).eval()


def _reference(m: StandAloneAttention, x: torch.Tensor) -> torch.Tensor:
    """The paper's equation, neighbour by neighbour, with zero vectors beyond the border."""
    kh, kw = m.kernel_size
    h, half = m.num_heads, m.head_dim // 2
    height, width = x.shape[2:]
    q, k, v = m.qkv(x.permute(0, 2, 3, 1)).unflatten(-1, (3, h, -1)).unbind(3)
    around = (0, 0, 0, 0, kw // 2, kw // 2, kh // 2, kh // 2)
    k, v = F.pad(k, around), F.pad(v, around)
    logits, values = [], []
    for a in range(kh):
        for b in range(kw):
            row = m.rel_h[:, a].view(h, half).expand(*q.shape[:-1], half)
            column = m.rel_w[:, b].view(h, half).expand(*q.shape[:-1], half)
            key = k[:, a : a + height, b : b + width] + torch.cat([row, column], -1)
            logits.append((q * key).sum(-1))
            values.append(v[:, a : a + height, b : b + width])
    weights = torch.stack(logits, -1).softmax(-1)
    y = (torch.stack(values, -1) * weights[..., None, :]).sum(-1)
    return y.flatten(-2).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(6, 5), (2, 9), (1, 1)])
@pytest.mark.parametrize("options", [{}, {"kernel_size": (3, 5), "qkv_bias": True, "out_dim": 12}])
def test_equals_the_papers_equation(size, options):
    m, x = _module(**options), torch.randn(2, 8, *size)
    torch.testing.assert_close(m(x), _reference(m, x))


@pytest.mark.parametrize("options", [{}, {"num_heads": 8}, {"kernel_size": 4, "out_dim": 4}])
def test_weights_reproduce_the_output_and_the_cost_is_counted(options):
    torch.manual_seed(0)
    m = StandAloneAttention(8, **{"num_heads": 2, "kernel_size": 3, **options}).eval()
    x = torch.randn(2, 8, 7, 4)
    torch.testing.assert_close(m.apply_weights(x, m.weights(x)), m(x))
    assert count_flops(m, x[:1]) == 2 * m.multiply_adds(7, 4)


def test_only_the_border_loses_weight_to_what_is_beyond():
    sums = _module().weights(torch.randn(2, 8, 5, 6)).sum(-1).view(2, 2, 5, 6)
    torch.testing.assert_close(sums[..., 1:-1, 1:-1], torch.ones(2, 2, 3, 4))
    assert (sums[..., 0, :] < 1).all()


@pytest.mark.parametrize(("options", "message"), [
    ({"out_dim": 9, "num_heads": 3}, "even number"), ({"out_dim": 10, "num_heads": 4}, "divide"),
])  # fmt: skip
def test_refuses_what_does_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        StandAloneAttention(8, **options)

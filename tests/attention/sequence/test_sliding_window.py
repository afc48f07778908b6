"""Sliding window attention: window, dilation, padding, global tokens, weights and cost."""

from __future__ import annotations

import pytest
import torch

import foveate
from foveate.analysis.flops import count_flops
from foveate.attention.sequence.sliding_window import SlidingWindowAttention


def _module(**options) -> SlidingWindowAttention:
    torch.manual_seed(0)
    return SlidingWindowAttention(8, 2, **{"window": 2, "num_global": 3, **options}).eval()


def _masks(tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The second sequence is padded; they have two global tokens and one."""
    keys = torch.ones(2, tokens, dtype=torch.bool)
    keys[1, -tokens // 3 :] = False
    marked = torch.zeros(2, tokens, dtype=torch.bool)
    marked[0, [0, tokens // 2]] = True
    marked[1, 1] = True
    return keys, marked


def _reference(m, x, keys=None, marked=None):
    """One dense softmax a token, with the window and the global tokens allowed."""
    tokens = x.shape[1]
    keys = torch.ones(x.shape[:2], dtype=torch.bool) if keys is None else keys
    marked = torch.zeros(x.shape[:2], dtype=torch.bool) if marked is None else marked
    place = torch.arange(tokens)
    apart = place - place[:, None]
    dilation = torch.tensor(m.dilation).expand(m.num_heads)[:, None, None]
    near = (apart.abs() <= m.window * dilation) & (apart % dilation == 0)  # (h, N, N)
    allowed = (near | marked[:, None, None]) & keys[:, None, None]  # (B, h, N, N)

    def attend(names, allowed):
        q, k, v = (m._heads(getattr(m, name)(x)).transpose(1, 2) for name in names)
        logits = q @ k.mT * m.head_dim**-0.5
        return logits.masked_fill(~allowed, float("-inf")).softmax(-1) @ v

    y = attend(("query", "key", "value"), allowed)
    if marked.any():
        everything = keys[:, None, None]
        y_global = attend(("query_global", "key_global", "value_global"), everything)
        y = torch.where(marked[:, None, :, None], y_global, y)
    y = y.masked_fill(~keys[:, None, :, None], 0)
    return m.proj(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("tokens", [1, 3, 12])
@pytest.mark.parametrize("options", [{}, {"dilation": 2}, {"window": 40}, {"dilation": (3, 1)}])
def test_equals_a_dense_softmax(tokens, options):
    m, x = _module(**options), torch.randn(2, tokens, 8)
    torch.testing.assert_close(m(x), _reference(m, x))


@pytest.mark.parametrize("options", [{}, {"dilation": 3}, {"window": 40}, {"dilation": [1, 2]}])
def test_equals_a_dense_softmax_with_padding_and_global_tokens(options):
    m, x = _module(**options), torch.randn(2, 12, 8, requires_grad=True)
    keys, marked = _masks(12)
    y, expected = m(x, keys, marked), _reference(m, x, keys, marked)
    torch.testing.assert_close(y, expected)
    weight = torch.randn_like(y).masked_fill(~keys[..., None], 0)
    actual, wanted = (torch.autograd.grad((t * weight).sum(), x)[0] for t in (y, expected))
    torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("dilation", [1, (1, 3)])
def test_weights_reproduce_the_output(dilation):
    m, x = _module(dilation=dilation), torch.randn(2, 12, 8)
    keys, marked = _masks(12)
    weights = m.weights(x, keys, marked)
    torch.testing.assert_close(weights.sum(-1), keys[:, None].expand(-1, 2, -1).float())
    torch.testing.assert_close(m.apply_weights(x, weights, marked), m(x, keys, marked))
    torch.testing.assert_close(m.apply_weights(x, m.weights(x)), m(x))


@pytest.mark.parametrize("tokens", [3, 12])
@pytest.mark.parametrize("dilation", [1, (2, 1)])
def test_the_cost_is_counted(tokens, dilation):
    m, x = _module(dilation=dilation), torch.randn(1, tokens, 8)
    assert count_flops(m, x) == 2 * m.multiply_adds(tokens)
    marked = torch.zeros(1, tokens, dtype=torch.bool)
    marked[:, 0] = True
    assert count_flops(m, x, None, marked) == 2 * m.multiply_adds(tokens, 3)


def test_an_empty_or_wholly_padded_sequence_stays_finite():
    m, x = _module(), torch.randn(2, 6, 8, requires_grad=True)
    keys, marked = torch.zeros(2, 6, dtype=torch.bool), torch.ones(2, 6, dtype=torch.bool)
    marked[:, 3:] = False
    m(x, keys, marked).sum().backward()
    assert torch.isfinite(x.grad).all()
    assert m(x[:0], keys[:0], marked[:0]).shape == (0, 6, 8)


@pytest.mark.parametrize("dilation", [pytest.param(1, marks=pytest.mark.slow), (1, 2)])
def test_compiles_and_exports_with_global_tokens(dilation):
    m, (keys, marked) = _module(dilation=dilation), _masks(12)
    x = torch.randn(2, 12, 8)
    compiled = torch.compile(m, fullgraph=True, dynamic=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, keys, marked), m(x, keys, marked))
        length = torch.export.Dim.DYNAMIC
        program = torch.export.export(m, (x, keys, marked), dynamic_shapes=[{1: length}] * 3)
        x, (keys, marked) = torch.randn(2, 17, 8), _masks(17)
        torch.testing.assert_close(program.module()(x, keys, marked), m(x, keys, marked))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [((1, 2, 3), "one for each of num_heads=2 heads"), ((1, 0), "dilation must")],
)
def test_refuses_dilations_that_are_not_one_a_head(wrong, words):
    with pytest.raises(ValueError, match=words):
        _module(dilation=wrong)


def test_published_weights_load_without_global_tokens_too():
    state = {k: v for k, v in _module().state_dict().items() if not k.startswith("proj")}
    m = foveate.load_published(_module(num_global=0), state)
    assert torch.equal(m.proj.weight, torch.eye(8))


def test_refuses_more_global_tokens_than_it_was_built_for():
    x, marked = torch.randn(1, 6, 8), torch.ones(1, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"marks 6 tokens of a sequence, more than num_global=3"):
        _module()(x, None, marked)
    with pytest.raises(ValueError, match="num_global of at least 1"):
        _module(num_global=0)(x, None, marked)
    with pytest.raises(ValueError, match="global_mask must"):
        _module()(x, None, marked.float())

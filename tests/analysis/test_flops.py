"""The counter against closed forms, where PyTorch's own counts 0 or too much."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from foveate.analysis.flops import count_flops


def rand(*shape, grad=False):
    return torch.randn(*shape, requires_grad=grad)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_two_products(grad, masked):
    q, k, v = rand(2, 3, 10, 8, grad=grad), rand(2, 3, 12, 8), rand(2, 3, 12, 8)
    mask = rand(10, 12) if masked else None
    flops = count_flops(lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    assert flops == 4 * 2 * 3 * 10 * 12 * 8
    with torch.inference_mode():
        assert count_flops(lambda: F.scaled_dot_product_attention(q, k, v)) == flops


def test_attention_with_shared_keys_counts_every_query_head():
    q, k, v = rand(2, 4, 10, 8), rand(2, 2, 12, 8), rand(2, 2, 12, 8)
    flops = count_flops(lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True))
    assert flops == 4 * 2 * 4 * 10 * 12 * 8


def test_attention_backward_is_five_products():
    q, k, v = (rand(2, 3, 10, 8, grad=True) for _ in range(3))
    flops = count_flops(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward())
    assert flops == (2 + 5) * 2 * 2 * 3 * 10 * 10 * 8


def test_values_of_another_width():
    q, k, v = rand(2, 3, 10, 8), rand(2, 3, 12, 8), rand(2, 3, 12, 4)
    flops = count_flops(lambda: F.scaled_dot_product_attention(q, k, v))
    assert flops == 2 * 2 * 3 * 10 * 12 * (8 + 4)


def test_transformer_fast_path_is_counted():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    x = rand(2, 5, 16)
    with torch.no_grad():
        flops = count_flops(layer, x)
    linear = 2 * 10 * (4 * 16 * 16 + 2 * 16 * 32)
    assert flops == linear + 4 * 2 * 5 * 5 * 16
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(
    ("call", "multiply_adds"),
    [
        (lambda: rand(3, 4) @ rand(4), 12),
        (lambda: rand(4) @ rand(4), 4),
        (lambda: torch.vdot(rand(4), rand(4)), 4),
        (lambda: torch.addmv(rand(3), rand(3, 4), rand(4)), 12),
        (lambda: torch.addbmm(rand(3, 5), rand(2, 3, 4), rand(2, 4, 5)), 2 * 3 * 4 * 5),
        (lambda: nn.Bilinear(3, 4, 5)(rand(2, 3), rand(2, 4)), 2 * 5 * (3 * 4 + 4)),
        (lambda: torch.einsum("bhd,bhd->bh", rand(2, 3, 4), rand(2, 3, 4)), 24),
        (lambda: nn.Linear(16, 8)(rand(2, 5, 16)), 10 * 16 * 8),
    ],
)
def test_small_products(call, multiply_adds):
    assert count_flops(call) == 2 * multiply_adds


@pytest.mark.parametrize(
    ("conv", "multiply_adds"),
    [
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), 2 * 8 * 30 * 9),
        (nn.Conv2d(8, 16, 3, padding=1, groups=2, stride=2), 2 * 16 * 9 * 4 * 9),
        (nn.Conv2d(8, 16, (1, 3)), 2 * 16 * 20 * 8 * 3),
        (nn.ConvTranspose2d(8, 16, 3, padding=1, groups=2, stride=2), 2 * 8 * 30 * 8 * 9),
    ],
)
def test_convolutions_and_their_backward(conv, multiply_adds):
    x = rand(2, 8, 5, 6, grad=True)
    assert count_flops(conv, x) == 2 * multiply_adds
    assert count_flops(lambda: conv(x).sum().backward()) == 3 * 2 * multiply_adds
    assert count_flops(lambda: conv(x.detach()).sum().backward()) == 2 * 2 * multiply_adds


def test_compiled_module_counts_as_the_module():
    layer = nn.Linear(16, 8)
    assert count_flops(torch.compile(layer), rand(2, 16)) == count_flops(layer, rand(2, 16))

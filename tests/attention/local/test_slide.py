"""Slide attention: what is its own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

import foveate
from foveate.attention.local.slide import SlideAttention

VARIANTS = [
    {},
    {"kernel_size": 5, "num_heads": 2},
    {"kernel_size": (3, 5), "position_bias": False},
    {"share_kernel": False},
    {"share_kernel": False, "share_qkv": True, "dim_reduction": 2},
    {"dim_reduction": 4, "num_heads": 2, "qkv_bias": False},
]


def build(**options) -> SlideAttention:
    return SlideAttention(16, **{"num_heads": 4, **options}).eval()


def by_convolutions(module: SlideAttention, x: torch.Tensor) -> torch.Tensor:
    """The published computation: both paths as convolutions of their own, shifted maps stored."""
    heads, dim, slots = module.num_heads, module.head_dim, module.shifts
    kernel = module.kernel_size
    padding = (kernel[0] // 2, kernel[1] // 2)
    q, k, v = (t.permute(0, 3, 4, 1, 2).flatten(0, 1) for t in module._queries_keys_values(x))

    def convolve(maps, weight, bias):  # (B*h, D, H, W) -> (B*h, D, n, H, W)
        weight = weight.permute(2, 0, 1).reshape(dim * slots, 1, *kernel)
        y = F.conv2d(maps, weight, bias.T.flatten(), padding=padding, groups=dim)
        return y.unflatten(1, (dim, slots))

    def both(maps, weight, bias):
        fixed = convolve(
            maps, torch.eye(module.shifts)[..., None].expand(-1, -1, dim), module.shift_bias
        )
        return fixed + convolve(maps, weight, bias)

    own = hasattr(module, "value_deform_weight")
    keys = both(k, module.deform_weight, module.deform_bias)
    values = both(
        v,
        module.value_deform_weight if own else module.deform_weight,
        module.value_deform_bias if own else module.deform_bias,
    )
    if hasattr(module, "position_bias"):
        bias = module.position_bias[:, None, :, None, None]
        keys = (keys.unflatten(0, (-1, heads)) + bias).flatten(0, 1)
    weights = (q[:, :, None] * module.scale * keys).sum(1).softmax(1)  # (B*h, n, H, W)
    y = (weights[:, None] * values).sum(2)  # (B*h, D, H, W)
    y = y.unflatten(0, (-1, heads)).flatten(1, 2)  # (B, h*D, H, W)
    return module.proj(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_merged_paths_are_the_two_convolutions(options):
    module, x = build(**options), torch.randn(2, 16, 6, 7)
    torch.testing.assert_close(module(x), by_convolutions(module, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_fusing_keeps_numbers_and_leaves_one_path(options):
    module, x = build(**options), torch.randn(2, 16, 6, 7)
    expected, cost = module(x), module.multiply_adds(6, 7)
    fused = foveate.fuse(copy.deepcopy(module))
    assert fused.fused
    assert not module.fused
    torch.testing.assert_close(fused(x), expected)
    assert fused.multiply_adds(6, 7) == cost == foveate.count_flops(fused, x) // 4
    own = {"value_weight"} if options.get("share_kernel") is False else set()
    state = fused.state_dict()
    kernels = {key for key in state if not key.startswith(("qkv.", "proj."))}
    assert kernels == {"key_weight", "key_bias", "value_bias"} | own

    other = foveate.fuse(build(**options))
    other.load_state_dict(state)
    assert torch.equal(other(x), fused(x))


def test_parameters_are_as_many_as_published():
    assert sum(p.numel() for p in SlideAttention(24, 3).parameters()) == 3867 - 8 * 81
    reduced = SlideAttention(32, 2, dim_reduction=4)
    assert sum(p.numel() for p in reduced.parameters()) == 1818 - 4 * 81
    separate = SlideAttention(24, 3, share_kernel=False)
    assert sum(p.numel() for p in separate.parameters()) == 3867 - 8 * 81 + 8 * 81 + 8 * 9


def test_fixed_shifts_and_no_biases_are_a_plain_window():
    module, x = build(), torch.randn(2, 16, 6, 7)
    with torch.no_grad():
        for name in ("shift_bias", "deform_weight", "deform_bias", "position_bias"):
            getattr(module, name).zero_()
    q, k, v = module._queries_keys_values(x)
    y = foveate.ops.local_attention(q, k, v, 3, border="zero").flatten(-2)
    expected = module.proj(y).permute(0, 3, 1, 2)
    torch.testing.assert_close(module(x), expected, rtol=1e-4, atol=1e-5)


def test_every_parameter_learns():
    module = build(share_kernel=False).train()
    module(torch.randn(2, 16, 5, 5)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())


def test_a_published_kernel_of_the_values_is_read():
    module = SlideAttention(16, 2, share_kernel=False).eval()
    rows = torch.randn(72, 1, 3, 3)
    state = {
        "relative_position_bias_table": torch.randn(1, 2, 1, 9, 1, 1),
        "qkv.weight": torch.randn(48, 16),
        "qkv.bias": torch.randn(48),
        "proj.weight": torch.randn(16, 16),
        "proj.bias": torch.randn(16),
        "dep_conv.weight": torch.zeros(72, 1, 3, 3),
        "dep_conv.bias": torch.randn(72),
        "dep_conv1.weight": torch.randn(72, 1, 3, 3),
        "dep_conv1.bias": torch.randn(72),
        "dep_conv2.weight": rows,
        "dep_conv2.bias": torch.arange(72.0),
    }
    foveate.load_published(module, state)
    # Output channel d * 9 + n convolves channel d into slot n.
    assert torch.equal(module.value_deform_weight[4, :, 3], rows[3 * 9 + 4, 0].flatten())
    assert module.value_deform_bias[4, 3] == 3 * 9 + 4
    assert torch.equal(module.qkv.weight[16 + 8 :][:8], state["qkv.weight"][24 + 8 :][:8])
    foveate.load_published(module, module.state_dict())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_heads": 3}, "num_heads=3"),
        ({"dim_reduction": 3}, "does not divide"),
        ({"kernel_size": 0}, "kernel_size"),
        ({"attn_drop": 1.0}, "attn_drop"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        build(**options)


def test_the_factor_of_the_products_may_be_given():
    torch.manual_seed(0)
    scaled = SlideAttention(8, 2, position_bias=False, qk_scale=0.9).eval()
    plain = SlideAttention(8, 2, position_bias=False).eval()
    plain.load_state_dict(scaled.state_dict())
    x = torch.randn(1, 8, 5, 6)
    assert not torch.allclose(plain(x), scaled(x), atol=1e-4)
    with torch.no_grad():
        plain.qkv.weight[:8] *= 0.9 * 2.0  # heads of four channels
        plain.qkv.bias[:8] *= 0.9 * 2.0
    torch.testing.assert_close(plain(x), scaled(x))

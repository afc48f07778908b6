"""What SAN's and ACmix's attentions over patches share, and their options."""

from __future__ import annotations

import copy

import pytest
import torch

from foveate.analysis.flops import count_flops
from foveate.attention.local._patches import coordinates, summed
from foveate.attention.local._relation import WeightMapping
from foveate.attention.local.acmix_patchwise import ACmixPatchwiseAttention
from foveate.attention.local.san_pairwise import PairwiseAttention
from foveate.attention.local.san_patchwise import PatchwiseAttention


def test_channels_that_share_a_weight_lie_apart() -> None:
    values, weights = torch.randn(1, 6, 4, 5), torch.zeros(1, 4, 5, 9, 2)
    weights[..., 4, 1] = 1  # the centre, for odd channels
    kept = torch.tensor([0.0, 1, 0, 1, 0, 1])[:, None, None]
    torch.testing.assert_close(summed(values, weights, 3, 1, like=values), values * kept)


def test_coordinates_run_over_both_axes() -> None:
    where = coordinates(torch.zeros(1, 1, 3, 5))
    torch.testing.assert_close(where[0, 2], torch.linspace(-1, 1, 5))
    torch.testing.assert_close(where[1, :, 1], torch.linspace(-1, 1, 3))


@pytest.mark.parametrize("relation", ["difference", "concatenation"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("size", "kernel_size", "dilation"), [((9, 7), 5, 1), ((3, 4), 3, 2)])
def test_the_norm_of_a_relation_is_as_if_it_read_it(
    relation: str, training: bool, size: tuple[int, int], kernel_size: int, dilation: int
) -> None:
    dim = 6 if relation == "difference" else 6 * (1 + kernel_size**2)
    quick = WeightMapping(
        dim, 8, 4, kernel_size=kernel_size, dilation=dilation, relation=relation
    ).train(training)
    torch.nn.init.normal_(quick[0].weight)
    quick[0].running_mean.normal_()
    slow = copy.deepcopy(quick)
    slow[0].register_forward_hook(lambda *_: None)  # then it is called
    q, k = 3 + torch.randn(2, *size, 6), torch.randn(2, *size, 6) - 5

    def results(mapping: WeightMapping) -> list[torch.Tensor]:
        leaves = [x.clone().requires_grad_() for x in (q, k)]
        out = mapping(*leaves)
        grad = torch.cos(torch.arange(out.numel())).view(out.shape)
        grads = torch.autograd.grad(out, [*leaves, *mapping.parameters()], grad)
        return [out, *grads, *(x.double() for x in mapping.buffers())]

    for ours, theirs in zip(results(quick), results(slow), strict=True):
        assert (ours - theirs).abs().max() <= 3e-5 * theirs.abs().max() + 1e-7


SAN = [PairwiseAttention, PatchwiseAttention, ACmixPatchwiseAttention]


@pytest.mark.parametrize("cls", SAN)
def test_other_channels_may_come_out(cls: type) -> None:
    attention, x = cls(32, 3, dim_out=16, rel_dim=4, share=4).eval(), torch.randn(1, 32, 5, 6)
    assert attention(x).shape == (1, 16, 5, 6)
    assert attention.multiply_adds(5, 6) == count_flops(attention, x) // 2


@pytest.mark.parametrize("cls", SAN)
def test_wrong_options_are_refused(cls: type) -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd"):
        cls(16, 4)
    with pytest.raises(ValueError, match="share=5 must divide dim=16"):
        cls(16, share=5)
    with pytest.raises(ValueError, match="rel_dim"):
        cls(16, rel_dim=0)

"""What is Conformer's own: its two branches' logits, and tokens of any patch size."""

from __future__ import annotations

import pytest
import torch

from foveate.models.conformer import conformer_small, conformer_tiny

SMALL = {"base_channel": 16, "embed_dim": 32, "num_heads": 2, "depth": 6, "num_classes": 5}


def small(**kwargs):
    torch.manual_seed(0)
    return conformer_tiny(**{**SMALL, **kwargs}).eval()


@pytest.mark.parametrize(
    ("create", "parameters"),
    [(conformer_tiny, 23_524_704), (conformer_small, 37_673_424)],
)
def test_parameters_are_the_published_codes(create, parameters):
    model = create(device="meta")
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_both_logits_in_training_and_their_sum_in_evaluation():
    model, x = small(), torch.randn(2, 3, 64, 64)
    both = model.branch_logits(model.forward_features(x))
    torch.testing.assert_close(model(x), both[0] + both[1])
    model.set_separate_logits()
    torch.testing.assert_close(model(x), both[0] + both[1])
    from_map, from_token = model.train()(x)
    assert from_map.shape == from_token.shape == (2, 5)


def test_each_loss_reaches_both_branches():
    model = small().train()
    model.set_separate_logits()
    for index, spared in enumerate(("token_head", "head.fc")):
        model.zero_grad()
        model(torch.randn(2, 3, 64, 64))[index].square().sum().backward()
        without = [name for name, p in model.named_parameters() if p.grad is None]
        assert {f"{spared}.weight", f"{spared}.bias"} <= set(without)
        assert not any(name.startswith(("stem.", "stages.0.", "stages.1.")) for name in without)


@pytest.mark.parametrize("size", [(64, 64), (70, 45)])
def test_larger_patches(size):
    model = small(patch_size=32)
    x = torch.randn(1, 3, *size)
    _, tokens = model.stages(model.stem(x))
    assert tokens.shape[1] == 1 + -(-size[0] // 32) * -(-size[1] // 32)
    assert model(x).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"depth": 8}, "depth must be a multiple of three"), ({"patch_size": 24}, "multiple of 16")],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)

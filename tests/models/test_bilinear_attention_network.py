"""Stripes, the two classifiers, and what retrieval compares."""

from __future__ import annotations

import pytest
import torch

from foveate.models.bilinear_attention_network import BilinearAttentionNetwork, Stripes


def network(**kwargs) -> BilinearAttentionNetwork:
    torch.manual_seed(0)
    options = {"width": 0.1, "hidden": 16, "num_classes": 5, "parts": 2}
    return BilinearAttentionNetwork(**{**options, **kwargs}).eval()


def test_a_stripe_is_its_band_of_rows_stretched():
    rows = torch.arange(9.0)[None, None, :, None].expand(1, 1, 9, 4)
    upper, lower = Stripes(2)(rows)
    torch.testing.assert_close(upper[0, 0, :, 1], torch.linspace(0, 4, 9))
    torch.testing.assert_close(lower[0, 0, :, 1], torch.linspace(4, 8, 9))


@torch.no_grad()
@pytest.mark.parametrize("parts", [0, 2])
def test_embeddings_have_length_one_in_every_branch(parts):
    model = network(parts=parts)
    embedded = model.embed(torch.randn(3, 3, 64, 32))
    branches = 2 if parts else 1
    assert embedded.shape == (3, 16 * branches) == (3, model.head_hidden_size)
    lengths = embedded.unflatten(1, (branches, 16)).norm(dim=2)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


@torch.no_grad()
def test_scores_are_the_mean_of_the_branches():
    model, x = network(), torch.randn(2, 3, 64, 32)
    embedded = model.forward_head(model.forward_features(x), pre_logits=True).split(16, 1)
    first, second = (fc(part) for fc, part in zip(model.get_classifier(), embedded, strict=True))
    torch.testing.assert_close(model(x), (first + second) / 2)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="each of three stages"):
        network(gates=(True,))
    with pytest.raises(ValueError, match="global_pool=''"):
        network(global_pool="")
    with pytest.raises(ValueError, match="unknown global_pool 'max'"):
        network(global_pool="max")

"""The light head: a class for every pixel, at any size."""

from __future__ import annotations

import pytest
import torch

import foveate
from foveate.models.seaformer import SeaFormerSegmentation


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("seaformer_tiny", 1_667_318),
        ("seaformer_small", 3_990_118),
        ("seaformer_base", 8_605_654),
        ("seaformer_large", 13_951_510),
    ],
)
def test_segmentation_has_the_published_parameters(variant, parameters):
    with torch.device("meta"):
        model = SeaFormerSegmentation(variant)
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_segmentation_learns_a_class_for_every_pixel():
    torch.manual_seed(0)
    model = SeaFormerSegmentation("seaformer_tiny", 5)
    images, target = torch.randn(2, 3, 70, 94), torch.randint(5, (2, 70, 94))
    logits = model(images)
    assert logits.shape == (2, 5, 70, 94)
    torch.nn.functional.cross_entropy(logits, target).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_batch_normalisations_fold_away():
    torch.manual_seed(0)
    model = SeaFormerSegmentation("seaformer_tiny", 5).eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = model(x)
        fused = foveate.fuse(model)
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in fused.modules())
        torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="did you mean 'seaformer_tiny'"):
        SeaFormerSegmentation("seaformer_tny")

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import foveate
from foveate.reduction import sources
from foveate.tasks import Classification, ReducedClassification


def small():
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=4, num_heads=3, num_classes=3
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, 32, 32, generator=generator), torch.arange(6) % 3


def test_the_parts_make_the_loss(batch):
    model = foveate.reduce(small(), "dynamicvit", keep=0.5).train()
    parts = ReducedClassification(Classification(3), teacher=small()).losses(model, batch)
    assert set(parts) == {"loss", "cross_entropy", "ratio", "distillation", "tokens"}
    rest = sum(value for name, value in parts.items() if name != "loss")
    assert torch.isclose(parts["loss"], rest)


def test_a_reducer_that_decides_nothing_learns_from_labels_and_teacher(batch):
    model = foveate.reduce(small(), "tome", r=2).train()
    assert set(ReducedClassification(Classification(3)).losses(model, batch)) == {
        "loss",
        "cross_entropy",
    }
    parts = ReducedClassification(Classification(3), teacher=small(), distill_weight=2.0).losses(
        model, batch
    )
    assert set(parts) == {"loss", "cross_entropy", "distillation"}


def test_a_model_is_its_own_best_teacher(batch):
    model = foveate.reduce(small(), "tome", r=0)
    parts = ReducedClassification(Classification(3), teacher=small()).losses(model, batch)
    assert parts["distillation"].abs() < 1e-6


def test_training_keeps_the_share_that_is_asked_for(batch):
    model = foveate.reduce(small(), "dynamicvit", keep=[0.5], stages=[1]).train()
    task = ReducedClassification(Classification(3, mixup=0.2), teacher=small())
    optimizer = torch.optim.AdamW(foveate.added(model), lr=1e-2)
    torch.manual_seed(0)
    first = None
    for _ in range(60):
        parts = task.losses(model, batch)
        first = parts["ratio"].item() if first is None else first
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
    kept = (sources(model, batch[0])[1] >= 0).float().mean().item()
    assert abs(kept - 0.5) < 0.15
    assert all(p.grad is None for p in task.teacher.parameters())


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="distill_weight must be at least 0"):
        ReducedClassification(Classification(3), distill_weight=-1.0)
    with pytest.raises(ValueError, match="did you mean 'mse'"):
        ReducedClassification(Classification(3), tokens="mess")
    with pytest.raises(ValueError, match="not been reduced"):
        ReducedClassification(Classification(3)).losses(
            small(), (torch.zeros(1, 3, 32, 32), torch.zeros(1))
        )

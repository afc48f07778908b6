"""A segmentation model for images of any size."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.models import AttentionUNet, attention_unet

DIMS = (8, 12, 16, 24)


def unet(**kwargs) -> AttentionUNet:
    torch.manual_seed(0)
    return AttentionUNet(**{"dims": DIMS, "num_classes": 3, **kwargs})


def images(*size: int, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 48), (33, 47), (5, 3), (1, 1)])
def test_logits_have_the_images_size(size):
    out = unet().eval()(images(*size))
    assert out.shape == (2, 3, *size)
    assert out.isfinite().all()


def test_the_published_network_has_as_many_parameters():
    with torch.device("meta"):
        assert sum(p.numel() for p in attention_unet().parameters()) == 34_878_573


def test_gradients_reach_every_parameter_and_checkpointing_changes_nothing():
    plain = unet().train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.set_grad_checkpointing()
    for model in (plain, checkpointed):
        model(images(24, 40)).square().mean().backward()
    for (name, ours), expected in zip(
        checkpointed.named_parameters(), plain.parameters(), strict=True
    ):
        assert expected.grad is not None, name
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_it_learns_to_tell_bright_from_dark():
    torch.manual_seed(0)
    model = AttentionUNet(in_chans=1, dims=(8, 16)).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    x = images(16, 16, channels=1)
    mask = (F.avg_pool2d(x, 3, 1, 1) > 0).float()
    losses = []
    for _ in range(40):
        loss = F.binary_cross_entropy_with_logits(model(x), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@torch.no_grad()
def test_exported_and_in_channels_last_it_gives_the_same():
    model, x = unet().eval(), images(32, 48)
    expected = model(x)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), expected, rtol=1e-4, atol=1e-5)
    model = model.to(memory_format=torch.channels_last)
    ours = model(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 4, 8, 8), "3"),
        (torch.zeros(3, 8, 8), "B, C, H, W"),
        (torch.zeros(2, 3, 0, 8), "H, W >= 1"),
    ],
)
def test_other_inputs_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        unet()(x)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"dims": (8,)}, "two levels at least"),
        ({"num_classes": 0}, "num_classes must be"),
        ({"in_chans": -1}, "in_chans must be"),
    ],
)
def test_other_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        unet(**kwargs)

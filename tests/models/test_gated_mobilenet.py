"""Triplet attention in MobileNetV2 against torchvision's network with the gate appended."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import mobilenet_v2

import foveate
from foveate.attention.gates.triplet import TripletAttention
from foveate.models.gated_mobilenet import GatedMobileNetV2


@torch.no_grad()
def test_triplet_attention_stands_at_the_end_of_every_block():
    torch.manual_seed(0)
    reference = mobilenet_v2(num_classes=5)
    for block in reference.features[1:-1]:
        block.conv.append(TripletAttention(block.out_channels))
    for name, buffer in reference.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    ours = GatedMobileNetV2("triplet", place="projected", num_classes=5)
    foveate.load_published(ours, reference.state_dict())
    x = torch.randn(2, 3, 64, 96)
    expected = reference.eval()(x)
    assert (ours.eval()(x) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_block_that_does_not_expand_has_no_coordinate_gate():
    blocks = [b for stage in GatedMobileNetV2("coordinate", width_mult=0.25).blocks for b in stage]
    assert [isinstance(block.se, torch.nn.Identity) for block in blocks] == [True] + 16 * [False]


def test_other_places_are_refused():
    with pytest.raises(ValueError, match="unknown place 'block'; known: expanded, projected"):
        GatedMobileNetV2("coordinate", place="block")

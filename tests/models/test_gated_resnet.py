"""Where the gates stand, how they start, and the form for small images."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock
from torch import nn

from foveate.contracts import Gate
from foveate.models import gated_resnet  # noqa: F401 (registers its models)

NARROW = {"channels": (8, 16, 24, 32), "layers": (1, 1, 1, 1), "num_classes": 5}


def gates(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if type(module).__mro__[1] is Gate]


@torch.no_grad()
def test_small_images_keep_their_size_until_the_second_stage():
    model = timm.create_model("resnet50_cbam", small_images=True, block=BasicBlock, **NARROW).eval()
    x = torch.randn(2, 3, 32, 20)
    maps = model.forward_intermediates(x, intermediates_only=True)
    assert [tuple(y.shape[2:]) for y in maps] == [(32, 20), (32, 20), (16, 10), (8, 5), (4, 3)]
    assert [info["reduction"] for info in model.feature_info] == [1, 1, 2, 4, 8]


def test_bam_stands_behind_the_first_three_stages():
    names = gates(timm.create_model("resnet50_bam", **NARROW))
    assert names == ["layer1.1", "layer2.1", "layer3.1"]


def test_any_gate_stands_by_name():
    model = timm.create_model(
        "resnet50_cbam", gate="coordinate", gate_kwargs={"reduction": 4}, **NARROW
    )
    assert model.layer1[0].se.hidden == 8
    with pytest.raises(ValueError, match="'slide' is a mixer"):
        timm.create_model("resnet50_cbam", gate="slide")
    with pytest.raises(ValueError, match="unknown attention 'cbm'"):
        timm.create_model("resnet50_cbam", gate="cbm")
    with pytest.raises(ValueError, match="unknown place 'head'"):
        timm.create_model("resnet50_cbam", place="head")


@pytest.mark.parametrize(("name", "part"), [("cbam", "spatial"), ("triplet", "spatial")])
def test_spatial_gates_start_at_one_half(name, part):
    model = timm.create_model(f"resnet50_{name}", **NARROW)
    gate = getattr(model.layer1[0].se, part)
    assert (gate.bn.weight == 0).all()
    assert (model.layer1[0].bn3.weight == 1).all()
    assert (
        timm.create_model(f"resnet50_{name}", zero_init_last=True).layer1[0].bn3.weight.sum() == 0
    )

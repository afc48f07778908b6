"""What a trial says of its model."""

from __future__ import annotations

import copy

import timm
import torch

from foveate.analysis.flops import count_flops
from foveate.study.plan import read_plan
from foveate.study.trial import costs
from foveate.surgery.fuse import fuse


def test_multiply_adds_are_those_of_the_fused_model():
    """MobileOne's branches become one convolution each for deployment."""
    model = timm.create_model("mobileone_s0")
    known = costs(read_plan({"image_size": 224}), model, 3)
    fused = fuse(copy.deepcopy(model).eval())
    assert known.multiply_adds == count_flops(fused, torch.zeros(1, 3, 224, 224)) // 2
    assert round(known.multiply_adds / 1e6) == 275
    assert known.parameters == sum(p.numel() for p in model.parameters())

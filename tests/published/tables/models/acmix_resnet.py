"""ResNet with ACmix."""

from __future__ import annotations

from torch import Tensor

from foveate.models.acmix_resnet import ACmixResNet
from tests.published.golden import Golden, Row
from tests.published.networks import summary


def _build(k_att: int, head: int, k_conv: int, **kwargs):
    return ACmixResNet(kernel_size=k_att, num_heads=head, conv_kernel_size=k_conv, **kwargs)


def _stages(model: ACmixResNet, golden: Golden) -> dict[str, Tensor]:
    x = golden.inputs["x"]
    outputs = {"logits": model(x)}
    features = model.forward_intermediates(x, intermediates_only=True)
    for number, feature in enumerate(features[1:], 1):
        outputs |= summary(f"stage{number}", feature)
    return outputs


ROWS = [Row("acmix_resnet26", _build, _stages)]

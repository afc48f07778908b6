"""Segmentation and detection take our backbones by name, and train."""

from __future__ import annotations

import copy

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

import foveate
import foveate.models
from tests.models.small import SMALL

NAME = "pale_tiny"


class FeaturePyramid(nn.Module):
    """Timm's features through torchvision's FPN, as its detectors take them."""

    def __init__(self, name: str, channels: int = 32) -> None:
        super().__init__()
        self.body = timm.create_model(name, features_only=True, **SMALL[name])
        self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), channels)
        self.out_channels = channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return self.fpn({str(level): x for level, x in enumerate(self.body(x))})


def one_step(model: nn.Module, loss: Tensor) -> None:
    """The loss is a number, reaches every parameter, and a step of SGD changes the model."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    loss.backward()
    optimizer.step()
    assert loss.isfinite()
    assert [name for name, p in parameters.items() if p.grad is None] == []
    assert any(not torch.equal(p, before[name]) for name, p in parameters.items())


@pytest.mark.parametrize("decoder", ["unet", "fpn", "upernet"])
def test_segmentation_models(decoder):
    torch.manual_seed(0)
    model = smp.create_model(
        decoder, encoder_name=f"tu-{NAME}", encoder_weights=None, classes=3, **SMALL[NAME]
    )
    logits = model(torch.randn(2, 3, 64, 96))
    assert logits.shape == (2, 3, 64, 96)
    one_step(model, F.cross_entropy(logits, torch.randint(3, (2, 64, 96))))


def targets() -> list[dict[str, Tensor]]:
    box = torch.tensor([[8.0, 8.0, 40.0, 48.0]])
    mask = torch.zeros(1, 64, 96, dtype=torch.uint8)
    mask[:, 8:48, 8:40] = 1
    return [{"boxes": box, "labels": torch.tensor([1]), "masks": mask}]


def anchors() -> AnchorGenerator:
    return AnchorGenerator(tuple((8 * 2**level,) for level in range(4)), ((0.5, 1.0, 2.0),) * 4)


def test_retinanet():
    torch.manual_seed(0)
    model = RetinaNet(
        FeaturePyramid(NAME), 3, min_size=64, max_size=96, anchor_generator=anchors()
    )  # fmt: skip
    losses = model([torch.rand(3, 64, 96)], targets())
    one_step(model, sum(losses.values(), torch.zeros(())))


def test_mask_rcnn():
    torch.manual_seed(0)
    levels = ["0", "1", "2", "3"]
    model = MaskRCNN(
        FeaturePyramid(NAME),
        3,
        min_size=64,
        max_size=96,
        rpn_anchor_generator=anchors(),
        box_roi_pool=MultiScaleRoIAlign(levels, 7, 2),
        mask_roi_pool=MultiScaleRoIAlign(levels, 14, 2),
    )
    losses = model([torch.rand(3, 64, 96)], targets())
    one_step(model, sum(losses.values(), torch.zeros(())))


@pytest.mark.parametrize("name", ["nat_small", "slide_swin_tiny"])
@torch.no_grad()
def test_torchao_quantizes_the_linear_layers_around_every_operator(name):
    """Local, slide and window attention; weights of 8 bits, and activations too."""
    quantization = pytest.importorskip("torchao.quantization")
    torch.manual_seed(0)
    model = timm.create_model(name, **SMALL[name]).eval()
    x = torch.randn(2, 3, 64, 96)
    expected, linear = model(x), sum(isinstance(m, nn.Linear) for m in model.modules())
    for config in ("Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig"):
        quantized = copy.deepcopy(model)
        quantization.quantize_(quantized, getattr(quantization, config)())
        kinds = [type(p).__name__ for p in quantized.parameters()]
        assert sum("Int8" in kind or "AffineQuantized" in kind for kind in kinds) == linear
        assert (quantized(x) - expected).norm() <= 0.05 * expected.norm()


def test_fvcore_counts_convolutional_networks_and_is_told_what_counts_the_others():
    analysis = pytest.importorskip("fvcore.nn").FlopCountAnalysis
    x = torch.randn(1, 3, 64, 96)
    model = timm.create_model("resnet50_bam", **SMALL["resnet50_bam"]).eval()
    counted = analysis(model, x).unsupported_ops_warnings(False).total()
    ours = foveate.count_flops(model, x) / 2
    assert ours <= counted <= 1.05 * ours  # it counts norms too
    model = timm.create_model("nat_small", **SMALL["nat_small"]).eval()
    with pytest.raises(RuntimeError, match=r"to count, foveate\.count_flops"):
        analysis(model, x).total()

"""Small networks of other people's making, with weights that make "unchanged" mean something."""

from __future__ import annotations

import timm
import torch
from timm.models.nest import Nest
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


def _lively(model: nn.Module) -> nn.Module:
    """Biases, norms and scales that are not zero or one, and running statistics."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.add_(torch.rand_like(buffer) * 0.1)
    return model.eval()


def resnet() -> nn.Module:
    model = timm.create_model("resnet10t", num_classes=5, zero_init_last=False)
    model.pretrained_cfg = {"input_size": (3, 64, 64)}
    return _lively(model)


def convnext() -> nn.Module:
    model = timm.create_model(
        "convnext_atto", num_classes=5, depths=(1, 1, 2, 1), ls_init_value=0.5
    )
    model.pretrained_cfg = {"input_size": (3, 64, 64)}
    return _lively(model)


def vit(**options) -> nn.Module:
    settings = {
        "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2,
        "num_classes": 5, **options,
    }  # fmt: skip
    model = VisionTransformer(**settings)
    model.pretrained_cfg = {"input_size": (3, 32, 32)}
    return _lively(model)


def swin() -> nn.Module:
    model = SwinTransformer(
        img_size=32, patch_size=2, window_size=4, embed_dim=16, depths=(2, 1), num_heads=(2, 4),
        num_classes=5, strict_img_size=False,
    )  # fmt: skip
    model.pretrained_cfg = {"input_size": (3, 32, 32)}
    return _lively(model)


def nest() -> nn.Module:
    model = Nest(
        img_size=32, num_levels=2, patch_size=4, embed_dims=(16, 32), num_heads=(2, 4),
        depths=(1, 1), num_classes=5,
    )  # fmt: skip
    model.pretrained_cfg = {"input_size": (3, 32, 32)}
    return _lively(model)


def images(size: int | tuple[int, int] = 32, batch: int = 2) -> Tensor:
    height, width = (size, size) if isinstance(size, int) else size
    return torch.randn(batch, 3, height, width)


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).detach().abs().max())

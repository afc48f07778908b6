"""Attention U-Net: a U-Net whose skips pass attention gates, for segmentation.

    e_0 = convs(image),   e_l = convs(pool(e_{l-1}))                            down
    u_l = relu(BN(conv(double(d_{l+1})))),   d_l = convs([gate(e_l, u_l), u_l])     up, d_L = e_L

The coarse, knowing map u_l says where the fine map e_l of the skip matters
(:mod:`foveate.attention.gates.attention_gate`).

Shapes: images (B, in_chans, H, W) of any H, W >= 1 to logits (B, num_classes, H, W); e_l, u_l, d_l
(B, dims[l], ceil(H / 2^l), ceil(W / 2^l)). A side that is odd is halved up: its last row is pooled
alone, and of its double the surplus is cut off.

Paper: Oktay et al., "Attention U-Net: Learning Where to Look for the Pancreas", MIDL 2018,
arXiv:1804.03999, for volumes.
Published code: the authors' (ozan-oktay/Attention-Gated-Networks) has volumes alone, gates at half
resolution and deep supervision; the form for images that is in use, and here, is that of
LeeJunHyun/Image_Segmentation@5e9da9395c52b119d55dfc6532c34ac0e88f446e (no license; written from its
description). Its gates read u_l at full resolution and doubling repeats the nearest value.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from timm.models import checkpoint
from torch import Tensor, cat, nn
from torch.nn import functional as F

from foveate.arguments import positive
from foveate.attention.gates.attention_gate import AttentionGate
from foveate.contracts import OneStep
from foveate.layout import crop
from foveate.models._backbone import State, check_images, convert_parts, rename

__all__ = ["AttentionUNet", "attention_unet"]


class AttentionUNet(nn.Module):
    """A segmentation model: images ``(B, in_chans, H, W)`` to logits ``(B, num_classes, H, W)``.

    Args:
        in_chans: channels of the images.
        num_classes: channels of the logits; 1 for a foreground against a background.
        dims: channels a level, from full resolution down; two levels at least.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1,
        dims: Sequence[int] = (64, 128, 256, 512, 1024),
    ) -> None:
        super().__init__()
        if len(dims) < 2:
            raise ValueError(f"dims needs two levels at least, got {tuple(dims)}")
        self.in_chans = positive(in_chans, "in_chans")
        self.num_classes = positive(num_classes, "num_classes")
        self.grad_checkpointing = False
        self.encoder = nn.ModuleList(_convs(*pair) for pair in pairwise((in_chans, *dims)))
        self.decoder = nn.ModuleList(Up(fine, coarse) for fine, coarse in pairwise(dims))
        self.head = nn.Conv2d(dims[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        check_images(x, self.in_chans)
        skips: list[Tensor] = []
        for level, convs in enumerate(self.encoder):
            if level:
                skips.append(x)
                x = F.max_pool2d(x, 2, ceil_mode=True)
            x = self._run(convs, x)
        for up, skip in zip(reversed(self.decoder), reversed(skips), strict=True):
            x = self._run(up, x, skip)
        return self.head(x)

    def _run(self, part: nn.Module, *inputs: Tensor) -> Tensor:
        return checkpoint(part, *inputs) if self.grad_checkpointing else part(*inputs)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every level in backward instead of keeping its activations."""
        self.grad_checkpointing = enable

    def convert_published(self, state: State) -> State:
        """Read the names of LeeJunHyun/Image_Segmentation, which numbers levels from 1."""
        rules = [(r"^Conv_1x1\.", "head.")]
        for level in range(len(self.encoder)):
            fine = f"decoder.{level - 1}"
            rules += [
                (rf"^Conv{level + 1}\.conv\.", f"encoder.{level}."),
                (rf"^Up{level + 1}\.up\.1\.", f"{fine}.up.0."),
                (rf"^Up{level + 1}\.up\.2\.", f"{fine}.up.1."),
                (rf"^Att{level + 1}\.", f"{fine}.gate."),
                (rf"^Up_conv{level + 1}\.conv\.", f"{fine}.convs."),
            ]
        return convert_parts(self, rename(state, rules))


class Up(OneStep):
    """One level up: the coarse map is doubled, gates the skip, and both are merged.

    Args:
        fine: channels of the skip and of what comes out.
        coarse: channels of the map from below.
    """

    def __init__(self, fine: int, coarse: int) -> None:
        super().__init__()
        self.up = nn.Sequential(
            nn.Conv2d(coarse, fine, 3, padding=1), nn.BatchNorm2d(fine), nn.ReLU()
        )
        self.gate = AttentionGate(fine, stride=1, batch_norm=True)
        self.convs = _convs(2 * fine, fine)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        height, width = skip.shape[2:]
        x = F.interpolate(x, scale_factor=2).permute(0, 2, 3, 1)
        x = self.up(crop(x, (height, width)).permute(0, 3, 1, 2))
        return self.convs(cat([self.gate(skip, x), x], 1))


def _convs(dim: int, out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (dim, out):
        layers += [nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(*layers)


def attention_unet(in_chans: int = 3, num_classes: int = 1, **kwargs: Any) -> AttentionUNet:
    """Attention U-Net with five levels of 64 to 1024 channels: 34.9 M parameters."""
    return AttentionUNet(in_chans, num_classes, **kwargs)

"""Attention U-Net on images."""

from __future__ import annotations

from foveate.models.attention_unet import AttentionUNet
from tests.published.golden import Row


def _unet(img_ch: int, output_ch: int) -> AttentionUNet:
    return AttentionUNet(img_ch, output_ch)


ROWS = [Row("attunet", _unet)]

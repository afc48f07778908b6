"""Efficient channel attention: a channel's weight depends on its few neighbours, no bottleneck.

    out = x * sigmoid(conv1d_k(mean_{H,W}(x)))

Shapes: x (B, C, H, W); the convolution runs along the C channels and has k weights in all.
Cost: ``k C`` multiply-adds, whatever H and W.

Paper: Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks",
CVPR 2020, arXiv:1910.03151: k is the odd number next to ``(log2(C) + 1) / 2``.
Published code: BangguWu/ECANet, where k is given, by hand; timm's ``EcaModule`` has the same
weights and computes k, three at least.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import check_map, odd, positive
from foveate.contracts import Gate
from foveate.registry import register


@register(
    "efficient_channel",
    family="gates",
    title="Efficient channel attention: a short convolution along the channels (ECA-Net)",
    paper="Wang et al., ECA-Net: Efficient Channel Attention for Deep Convolutional Neural "
    "Networks, CVPR 2020, arXiv:1910.03151",
    source="BangguWu/ECANet@b332f6b3e6e2afe8a3287dc8ee8440a0fbec74c4",
    license="MIT",
    tags=("unordered", "published"),
    parity="BangguWu/ECANet and timm's EcaModule, exactly",
)
class EfficientChannelAttention(Gate):
    """A weight for every channel, from the pooled map, by a convolution along the channels.

    Args:
        dim: channels C.
        kernel_size: channels k that it spans, odd; None computes it from ``dim``.
    """

    def __init__(self, dim: int, kernel_size: int | None = None) -> None:
        super().__init__()
        self.dim = positive(dim, "dim")
        k = kernel_for(dim) if kernel_size is None else odd(kernel_size, "kernel_size")
        self.conv = nn.Conv1d(1, 1, k, padding=k // 2, bias=False)

    def gate(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        z = x.mean((2, 3))  # (B, C)
        return self._across(z).sigmoid()[..., None, None]  # (B, C, 1, 1)

    def _across(self, z: Tensor) -> Tensor:
        """The convolution over channels."""
        if not torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return self.conv(z[:, None])[:, 0]
        # For a second size PyTorch's compiler takes the strides of the first one's map, where a
        # graph has this convolution.
        k = self.conv.weight.shape[-1]
        taps = F.pad(z, (k // 2, k // 2)).unfold(1, k, 1)  # (B, C, k)
        return (taps @ self.conv.weight[0, 0][:, None])[..., 0]

    def multiply_adds(self, height: int, width: int) -> int:
        return self.conv.weight.numel() * self.dim


def kernel_for(dim: int) -> int:
    """Channels that the convolution spans where ``dim`` decides: odd, three at least."""
    k = int((math.log2(dim) + 1) / 2)
    return max(3, k if k % 2 else k + 1)

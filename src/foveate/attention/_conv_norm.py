"""A convolution followed by batch normalisation, which is one convolution in deployment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


class ConvNorm(nn.Module):
    """``norm(conv(x))``; the convolution has no bias of its own.

    Args:
        dim: channels in.
        out: channels out.
        kernel_size: side of the window; odd, the border is padded by zeros.
        stride: step of the window.
        groups: groups of channels.
        start: what the normalisation multiplies by at the start; 0 silences a branch.
    """

    def __init__(
        self,
        dim: int,
        out: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        start: float = 1.0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            dim, out, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
        )
        self.bn: nn.Module = nn.BatchNorm2d(out)
        nn.init.constant_(self.bn.weight, start)

    def forward(self, x: Tensor) -> Tensor:
        return conv_norm(self.conv, self.bn, x)

    def fuse(self) -> None:
        """Fold the normalisation into the convolution, in place."""
        self.bn = fold(self.conv, self.bn)


def conv_norm(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """``norm(conv(x))``; in evaluation one convolution, which saves a pass over the map.

    Parts of other classes, or that hooks listen to, are called one after the other, and so they
    are in graphs, whose compilers fold by themselves.
    """
    if norm.training or not _foldable(conv, norm):
        return norm(conv(x))
    known: Any = norm
    scale = known.weight * (known.running_var + known.eps).rsqrt()
    weight = conv.weight * scale.view(-1, 1, 1, 1).to(conv.weight.dtype)
    bias = known.bias - known.running_mean * scale
    if conv.bias is not None:
        bias = bias + conv.bias * scale
    return conv._conv_forward(x, weight, bias.to(weight.dtype))


def _foldable(conv: nn.Module, norm: nn.Module) -> bool:
    return (
        is_plain(conv, nn.Conv2d)
        and is_plain(norm, nn.BatchNorm2d)
        and norm.running_var is not None
        and norm.weight is not None
        and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
    )


def is_plain(part: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a part is just of this class and no hook listens, so that its weights say it all."""
    return type(part) is kind and not (part._forward_hooks or part._forward_pre_hooks)


def fold(conv: nn.Conv2d, norm: nn.Module) -> nn.Module:
    """Put a batch normalisation's running statistics into the convolution before it, in place.

    What counts is what a norm computes, not its class: ``nn.BatchNorm2d``, ``nn.SyncBatchNorm``,
    torchvision's and timm's frozen norms, and timm's norms with an activation.

    Args:
        conv: the convolution.
        norm: what follows it.

    Returns:
        What still has to follow: the norm's activation, nothing, or ``norm`` itself if it is none
        of these.
    """
    if not isinstance(getattr(norm, "running_var", None), Tensor):
        return norm
    statistics = norm.running_mean, norm.running_var, norm.eps
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, *statistics, norm.weight, norm.bias
    )
    return nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()

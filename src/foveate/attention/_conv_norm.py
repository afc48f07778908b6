"""A convolution followed by batch normalisation, which is one convolution in deployment."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


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
        return self.bn(self.conv(x))

    def fuse(self) -> None:
        """Fold the normalisation into the convolution, in place."""
        if isinstance(self.bn, nn.BatchNorm2d):
            training = self.training
            self.conv = fuse_conv_bn_eval(self.conv.eval(), self.bn.eval()).train(training)
            self.bn = nn.Identity()

"""The convolution of a gate for each cell of a plane, from the maximum and mean across it."""

from __future__ import annotations

from torch import Tensor, nn

from foveate.ops import narrow_conv


class PlaneConv(nn.Conv2d):
    """A convolution from the two statistics of a plane to its gate, centred, without a bias.

    Args:
        kernel_size: side of the kernel; odd.
        turned: whether the plane comes with its axes exchanged.
    """

    def __init__(self, kernel_size: int, *, turned: bool = False) -> None:
        super().__init__(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.turned = turned

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = narrow_conv(input, weight.mT if self.turned else weight)
        return out if bias is None else out + bias[:, None, None]  # of a norm that was folded in

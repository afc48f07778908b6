"""A convolution at each position alike: what mechanisms put into a model are compared with."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import odd
from foveate.contracts import Mixer


class PlainConvolution(Mixer):
    """The control: ``W2 gelu(W1 d)`` with d a depthwise convolution of x, at each position alike.

    Args:
        dim: channels C.
        kernel_size: of the depthwise convolution; odd.
        ratio: hidden channels over C; 0 leaves the two products out.
    """

    by_shape = False

    def __init__(self, dim: int, kernel_size: int = 3, ratio: float = 1.0) -> None:
        super().__init__()
        odd(kernel_size, "kernel_size")
        self.dim = dim
        hidden = round(ratio * dim)
        self.depthwise = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        self.expand = nn.Conv2d(dim, hidden, 1) if hidden else None
        self.project = nn.Conv2d(hidden, dim, 1) if hidden else None

    def multiply_adds(self, height: int, width: int) -> int:
        taps = self.depthwise.weight[0].numel()
        hidden = 0 if self.expand is None else self.expand.out_channels
        return height * width * self.dim * (taps + 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(x)
        if self.expand is None or self.project is None:
            return x
        return self.project(F.gelu(self.expand(x)))

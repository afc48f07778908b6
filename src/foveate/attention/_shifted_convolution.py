"""ACmix's second path: a k x k convolution as pointwise maps that are shifted and summed.

    f_t = sum_j F[t, j] m_j,   G = sum_t shift_t(f_t)     m: the 3 h maps of D channels of q, k, v

Shapes: maps (B, H, W, 3*h, D), T = k * k shifts, C = h * D. Cost: ``H W (3 C T + C T^2)``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import odd, one_of

SHIFTS = ("learned", "fixed", "tensor")


class ShiftedConvolution(nn.Module):
    """Convolution of the maps that attention projects, beyond the border of zeros.

    Its output channel ``d * h + j`` is map j of the h that head channel d gives; with shifts that
    are not learned the h are alike.

    Args:
        num_heads: heads h.
        head_dim: channels D of a head.
        kernel_size: side of the convolution, odd.
        stride: of the convolution.
        shift: "learned", "fixed" or "tensor".
        bias: whether the pointwise maps have a bias.
        maps: how many maps there are; those of q, k and v, ``3 * num_heads``, if None.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        kernel_size: int,
        stride: int,
        shift: str,
        bias: bool,
        maps: int | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.kernel_size = odd(kernel_size, "conv_kernel_size")
        self.stride = stride
        self.shift = one_of(shift, SHIFTS, "shift")
        self.fc = nn.Linear(maps or 3 * num_heads, kernel_size**2, bias=bias)
        if shift == "learned":
            self.shifts = nn.Parameter(self._one_tap_each(num_heads * head_dim))

    def forward(self, maps: Tensor) -> Tensor:
        features = self.fc(maps.transpose(-1, -2))  # (B, H, W, D, T)
        if self.shift == "tensor":
            return self._slices(features).repeat_interleave(self.num_heads, -1)
        features = features.flatten(-2).permute(0, 3, 1, 2)  # (B, D*T, H, W)
        learned = self.shift == "learned"
        shifts = self.shifts if learned else self._one_tap_each(self.head_dim, features)
        y = F.conv2d(
            features,
            shifts.to(features.dtype),
            stride=self.stride,
            padding=self.kernel_size // 2,
            groups=self.head_dim,
        ).permute(0, 2, 3, 1)
        return y if self.shift == "learned" else y.repeat_interleave(self.num_heads, -1)

    def _one_tap_each(self, channels: int, like: Tensor | None = None) -> Tensor:
        """Kernels (C, T, k, k) that move map t by tap t."""
        where = {} if like is None else {"device": like.device, "dtype": like.dtype}
        taps = torch.eye(self.kernel_size**2, **where)
        return taps.unflatten(1, (self.kernel_size,) * 2).repeat(channels, 1, 1, 1)

    def multiply_adds(self, height: int, width: int) -> int:
        taps = self.kernel_size**2
        total = height * width * self.fc.in_features * self.head_dim * taps
        if self.shift == "tensor":
            return total
        outputs = self.head_dim * (self.num_heads if self.shift == "learned" else 1)
        rows, columns = -(-height // self.stride), -(-width // self.stride)
        return total + rows * columns * outputs * taps**2

    def _slices(self, features: Tensor) -> Tensor:
        """Sum of the maps, each moved by its tap: ``(B, H', W', D)``."""
        height, width = features.shape[1:3]
        reach = self.kernel_size // 2
        padded = F.pad(features, (0, 0, 0, 0, reach, reach, reach, reach))
        moved = [
            padded[:, i : i + height, j : j + width, :, i * self.kernel_size + j]
            for i in range(self.kernel_size)
            for j in range(self.kernel_size)
        ]
        return torch.stack(moved).sum(0)[:, :: self.stride, :: self.stride]


def read_published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published entries of this path (``fc``, ``dep_conv``) under the names it has here."""
    names = {"dep_conv.weight": "convolution.shifts"}
    names |= {f"fc.{leaf}": f"convolution.fc.{leaf}" for leaf in ("weight", "bias")}
    return {
        names.get(key, key): value.flatten(1) if key == "fc.weight" else value
        for key, value in state.items()
    }

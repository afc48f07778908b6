"""ACmix's second path: a k x k convolution as pointwise maps that are shifted and summed.

    f_t = sum_j F[t, j] m_j,   G = sum_t shift_t(f_t)     m: the 3 h maps of D channels of q, k, v

A shift is a convolution by a kernel with a single one, which may be learned. Two convolutions in a
row are one, and so it is computed: ``G = sum_j K_j * m_j`` with ``K_j = sum_t F[t, j] S_t``. A bias
of F is a map of ones.

Shapes: maps (B, H, W, M, D), M = 3 h, T = k * k shifts, C = h * D. Cost: ``H W C M T``, with a bias
``H W C (M + 1) T``; by slices ("tensor") ``H W D M T``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import odd, one_of
from foveate.attention._conv_norm import is_plain

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
        if self.shift == "tensor":
            features = self.fc(maps.mT)  # (B, H, W, D, T)
            return self._slices(features).repeat_interleave(self.num_heads, -1)
        if self.shift == "learned":
            return self._convolved(maps, self.shifts)
        shifts = self._one_tap_each(self.head_dim, maps)
        return self._convolved(maps, shifts).repeat_interleave(self.num_heads, -1)

    def _convolved(self, maps: Tensor, shifts: Tensor) -> Tensor:
        """``(B, H, W, M, D), (O, T, k, k) -> (B, H', W', O)``."""
        if not is_plain(self.fc, nn.Linear):  # what it computes is then its own matter
            return self._grouped(self.fc(maps.mT), shifts)
        pointwise = self.fc.weight
        if self.fc.bias is not None:
            pointwise = torch.cat([pointwise, self.fc.bias[:, None]], 1)
            maps = F.pad(maps, (0, 0, 0, 1), value=1.0)
        kernels = (shifts[:, :, None] * pointwise[:, :, None, None]).sum(1)  # (O, M, k, k)
        if shifts.shape[0] <= 2 * self.head_dim:
            return self._depthwise(maps, kernels)
        return self._grouped(maps.mT, kernels)

    def _grouped(self, x: Tensor, kernels: Tensor) -> Tensor:
        """``(B, H, W, D, M) -> (B, H', W', O)``: each channel of a head by kernels of its own."""
        return self._convolution(x.flatten(-2), kernels, self.head_dim)

    def _depthwise(self, maps: Tensor, kernels: Tensor) -> Tensor:
        """The same, map by map: fast where a channel gives one or two, and nothing is moved."""
        each = kernels.unflatten(0, (self.head_dim, -1)).permute(1, 2, 0, 3, 4)  # (., M, D, k, k)
        x = maps.flatten(-2)
        found = [
            self._convolution(x, kernel.flatten(0, 1)[:, None], x.shape[-1])
            .unflatten(-1, maps.shape[-2:])
            .sum(-2)
            for kernel in each
        ]
        return torch.stack(found, -1).flatten(-2)

    def _convolution(self, x: Tensor, kernels: Tensor, groups: int) -> Tensor:
        """Channels last, in and out."""
        y = F.conv2d(
            x.permute(0, 3, 1, 2),
            kernels.to(x.dtype),
            stride=self.stride,
            padding=self.kernel_size // 2,
            groups=groups,
        )
        return y.permute(0, 2, 3, 1)

    def _one_tap_each(self, channels: int, like: Tensor | None = None) -> Tensor:
        """Kernels (C, T, k, k) that move map t by tap t."""
        where = {} if like is None else {"device": like.device, "dtype": like.dtype}
        taps = torch.eye(self.kernel_size**2, **where)
        return taps.unflatten(1, (self.kernel_size,) * 2).repeat(channels, 1, 1, 1)

    def multiply_adds(self, height: int, width: int) -> int:
        taps = self.kernel_size**2
        if self.shift == "tensor":
            return height * width * self.fc.in_features * self.head_dim * taps
        outputs = self.head_dim * (self.num_heads if self.shift == "learned" else 1)
        rows, columns = -(-height // self.stride), -(-width // self.stride)
        maps = self.fc.in_features + (self.fc.bias is not None)
        return rows * columns * outputs * maps * taps

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

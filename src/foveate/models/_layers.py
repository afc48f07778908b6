"""Layers that several backbones share: patches, MLPs, the residual block.

All take and give maps (B, C, H, W). They compute on the channels-last view, so that in
``torch.channels_last``, which :class:`PatchEmbed` gives, nothing is copied. Modules that pad by
the shape of their map are leaves for torch.fx (``register_notrace_module``), which cannot trace
arithmetic with shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import DropPath, LayerNorm2d, LayerScale2d, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import odd, pair
from foveate.attention._dropout import Dropout
from foveate.attention.adapt import Place, adapt
from foveate.contracts import OneStep
from foveate.layout import ceil_to_multiple, in_format, pad_to_multiple, to_channels_last
from foveate.models._activation import linear_of


class MapMlp(nn.Module):
    """Two linear layers on the channels of ``(B, C, H, W)``.

    Args:
        dim: channels.
        hidden: channels between the two.
        drop: dropout after each.
        act: activation between them.
    """

    def __init__(
        self, dim: int, hidden: int, drop: float = 0.0, act: type[nn.Module] = nn.GELU
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = act()
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return self._second(self.fc1(to_channels_last(x)))

    def _second(self, y: Tensor) -> Tensor:
        """What follows the first layer: ``(B, H, W, hidden) -> (B, C, H, W)``."""
        if self.training and self.drop.p:
            y = self.fc2(self.drop(self.act(y)))
        else:
            y = linear_of(self.act, y, self.fc2)
        return self.drop(y).permute(0, 3, 1, 2)


class ChannelsLast(nn.Sequential):
    """Layers in turn, on images whose channels lie side by side, so that all maps behind do too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(in_format(x, torch.channels_last))


class ResidualDepthwise(nn.Conv2d):
    """``x + convolution(x)``, depthwise, as one convolution: the identity stands in its kernel.

    It computes what the sum does without another pass over the map, forward and backward; weights
    are the convolution's.

    Args:
        dim: channels.
        kernel_size: odd side of the kernel.
    """

    def __init__(self, dim: int, kernel_size: int = 3) -> None:
        side = odd(kernel_size, "kernel_size") // 2
        super().__init__(dim, dim, kernel_size, padding=side, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        (side, _) = self.padding
        identity = F.pad(torch.ones_like(self.weight[:1, :1, :1, :1]), (side, side, side, side))
        return self._conv_forward(x, self.weight + identity, self.bias)


class PatchEmbed(OneStep):
    """A convolution over patches, then a norm; a last patch is padded.

    Args:
        in_chans: channels of the input.
        dim: channels of the output.
        patch_size: side of a patch, which is the stride.
        norm: what follows; None for nothing.
        kernel_size: of the convolution; larger than ``patch_size``, patches overlap. The same if
            None.
        padding: zeros on every side; half of ``kernel_size`` for patches that overlap, if None.
        bias: whether the convolution has one.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        patch_size: int,
        norm: nn.Module | None = None,
        kernel_size: int | None = None,
        padding: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.patch_size = pair(patch_size, "patch_size")
        if padding is None:
            padding = 0 if kernel_size is None else kernel_size // 2
        kernel_size = kernel_size or patch_size
        self.proj = nn.Conv2d(in_chans, dim, kernel_size, patch_size, padding, bias=bias)
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(to_channels_last(x), self.patch_size).permute(0, 3, 1, 2)
        return self.norm(in_format(self.proj(x), torch.channels_last))


class PatchMerging(OneStep):
    """Swin's down-sampling: the four cells of a 2x2 patch side by side, a norm, a projection.

    The cells come in Swin's order: top left, bottom left, top right, bottom right.

    Args:
        in_chans: channels of the input.
        dim: channels of the output.
    """

    def __init__(self, in_chans: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_chans)
        self.reduction = nn.Linear(4 * in_chans, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(to_channels_last(x), (2, 2))
        cells = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(cells, -1))).permute(0, 3, 1, 2)


class CornerPool(OneStep):
    """Maxima of 3x3 windows with stride 2 that start in the corner and may run over the edge.

    It is Caffe's pooling on sides that are even. On odd ones the last row, which Caffe reads with
    the window before, has a window of its own, so that a side is halved up.
    """

    def forward(self, x: Tensor) -> Tensor:
        # Not 1 + side % 2: with free sizes the remainder would stay in the size of every later map.
        down, right = (1 + ceil_to_multiple(side, 2) - side for side in x.shape[2:])
        return F.max_pool2d(F.pad(x, (0, right, 0, down), value=float("-inf")), 3, 2)


class Block(nn.Module):
    """``x = x + attention(norm(x))``, then ``x = x + mlp(norm(x))``.

    Args:
        dim: channels.
        attention: ``(B, C, H, W) -> (B, C, H, W)``.
        mlp_ratio: hidden channels of the MLP over ``dim``.
        drop: dropout in the MLP.
        drop_path: probability that a branch is left out for a sample.
        layer_scale: first value of a learned factor per channel of each branch; None for none.
        eps: of the norms.
        act: activation of the MLP.
    """

    def __init__(
        self,
        dim: int,
        attention: nn.Module,
        mlp_ratio: float = 4.0,
        drop: float = 0.0,
        drop_path: float = 0.0,
        layer_scale: float | None = None,
        eps: float = 1e-5,
        act: type[nn.Module] = nn.GELU,
    ) -> None:
        super().__init__()
        self.norm1 = LayerNorm2d(dim, eps=eps)
        self.attention = attention
        self.scale1 = _scale(dim, layer_scale)
        self.norm2 = LayerNorm2d(dim, eps=eps)
        self.mlp = MapMlp(dim, int(dim * mlp_ratio), drop, act)
        self.scale2 = _scale(dim, layer_scale)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.scale1(self.attention(self.norm1(x))))
        return x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))


def create_mixer(
    name: str, dim: int, options: Mapping[str, Any] | None = None, **settings: Any
) -> nn.Module:
    """The mixer ``name`` with those of a stage's settings that it has an option for.

    ``options`` are the user's: a mechanism that has no such option is refused.
    """
    return adapt(name, Place(dim, roles=("mixer",)), options, suggested=settings).module


def check_stages(**settings: Sequence[Any]) -> None:
    """Check that all settings have one entry a stage.

    Raises:
        ValueError: if their lengths differ.
    """
    if len({len(setting) for setting in settings.values()}) > 1:
        given = ", ".join(f"{name}={tuple(setting)}" for name, setting in settings.items())
        raise ValueError(f"expected one entry a stage in each of {given}")


def drop_together(drop_path: nn.Module, *branches: Tensor) -> tuple[Tensor, ...]:
    """Branches (B, C, ., .) of one residual: a sample is left out of all of them or of none."""
    if not drop_path.training or isinstance(drop_path, nn.Identity):
        return branches
    kept = drop_path(branches[0].new_ones(branches[0].shape[0], 1, 1, 1))
    return tuple(branch * kept for branch in branches)


def init_trunc_normal(model: nn.Module, *kinds: type[nn.Module]) -> None:
    """Draw the weights of the layers of these kinds around zero, std 0.02; zero their biases."""
    for module in model.modules():
        if isinstance(module, kinds):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _scale(dim: int, init: float | None) -> nn.Module:
    return nn.Identity() if init is None else LayerScale2d(dim, init)

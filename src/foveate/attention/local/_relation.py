"""The network that makes weights of a relation, and the norm that it begins with.

    w = conv(relu(norm(conv(relu(norm(relation(q, k)))))))

Mean and variance of a relation over all positions are sums over queries and keys, in which a key
counts as often as taps read it. So the first norm takes its statistics from the maps, and is a
scale and a shift by the time the relation is written: the relation, by far the largest tensor here,
is neither read for statistics nor written twice.

Shapes: q, k (B, H, W, r), T = k * k taps; relations as of :func:`foveate.ops.local_relation`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.attention._conv_norm import conv_norm, is_plain
from foveate.ops import local_relation
from foveate.ops._taps import read_places


class WeightMapping(nn.Sequential):
    """The network that makes weights of a relation, by convolutions of one by one.

    Args:
        dim: channels of the relation.
        hidden: channels between the two convolutions.
        out: channels of weights.
        kernel_size: side of the window.
        dilation: distance of the taps.
        relation: "difference" or "concatenation".
    """

    def __init__(
        self, dim: int, hidden: int, out: int, *, kernel_size: int, dilation: int, relation: str
    ) -> None:
        super().__init__(
            nn.BatchNorm2d(dim),
            nn.ReLU(inplace=True),
            nn.Conv2d(dim, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, out, 1),
        )
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.relation = relation

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """``(B, out, N, T)`` of a difference, ``(B, out, H, W)`` of a concatenation."""
        norm, act, conv, next_norm, next_act, last = self
        related = self._related(q, k, norm, act)
        x = related.flatten(1, related.dim() - 3).permute(0, 3, 1, 2)
        return last(next_act(conv_norm(conv, next_norm, x)))

    def _related(self, q: Tensor, k: Tensor, norm: nn.Module, act: nn.Module) -> Tensor:
        """``relu(norm(relation))``."""
        affine = None
        if self._readable(norm, act):
            affine = self._affine(norm, q, k)
        scale, shift = affine or (None, None)
        related = local_relation(
            q,
            k,
            self.kernel_size,
            self.dilation,
            relation=self.relation,
            border="reflect",
            scale=scale,
            shift=shift,
        )
        if affine:
            return related
        channels_first = related.flatten(1, related.dim() - 3).permute(0, 3, 1, 2)
        return act(norm(channels_first)).permute(0, 2, 3, 1)

    def _readable(self, norm: nn.Module, act: nn.Module) -> bool:
        """Whether the parts are plain ones that nobody listens to, outside of graphs."""
        return (
            is_plain(norm, nn.BatchNorm2d)
            and is_plain(act, nn.ReLU)
            and norm.weight is not None
            and not (torch.compiler.is_compiling() or torch.jit.is_tracing())
        )

    def _affine(self, norm: nn.BatchNorm2d, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor] | None:
        """What the norm multiplies by and adds; None where it has one number to norm."""
        if norm.training or norm.running_var is None:
            taps = self.kernel_size**2 if self.relation == "difference" else 1
            count = q.shape[:3].numel() * taps
            if count < 2:
                return None  # for the norm to refuse
            mean, variance = self._statistics(q, k)
            if norm.training and norm.running_var is not None:
                _remember(norm, mean.detach(), variance.detach() * (count / (count - 1)))
        else:
            mean, variance = norm.running_mean, norm.running_var
        scale = norm.weight * (variance + norm.eps).rsqrt()
        return scale, norm.bias - mean * scale

    def _statistics(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the relation's channels."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        q, k = q.to(dtype), k.to(dtype)
        axes = (0, 1, 2)
        about_q, about_k = q.detach().mean(axes), k.detach().mean(axes)  # else squares cancel
        q, k = q - about_q, k - about_k
        down, across = (self._reads(length).to(k) for length in k.shape[1:3])
        if self.relation == "concatenation":
            mean, square = (
                _tap_means(x, down.sum(0), across.sum(0)).flatten(1) for x in (k, k.square())
            )
            means = q.mean(axes) + about_q, (mean + about_k[:, None]).flatten()
            variances = q.var(axes, correction=0), (square - mean.square()).flatten()
            return torch.cat(means), torch.cat(variances)
        taps = self.kernel_size**2
        by_position = down.sum(1), across.sum(1)  # [position][place]: how often its taps read it
        around = torch.einsum("py,byxc->bpxc", by_position[0], k)
        around = torch.einsum("px,byxc->bypc", by_position[1], around)  # sums of windows
        often = by_position[0].sum(0)[:, None, None] * by_position[1].sum(0)[:, None] / taps
        mean = q.mean(axes) - (often * k).mean(axes)
        square = q.square().mean(axes) + (often * k.square()).mean(axes)
        square = square - 2 / taps * (q * around).mean(axes)
        return mean + about_q - about_k, square - mean.square()

    def _reads(self, length: int) -> Tensor:
        """Of an axis, ``(position, tap, place)``: one where the tap reads the place."""
        places = read_places(length, self.kernel_size, self.dilation)
        return F.one_hot(places, length)


def _tap_means(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Means of what taps read, ``(C, k, k)``; ``down`` and ``across`` are ``(tap, place)``."""
    rows = torch.einsum("jx,byxc->yjc", across, x)
    return torch.einsum("iy,yjc->cij", down, rows) / x.shape[:3].numel()


@torch.no_grad()
def _remember(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics, as the norm itself would."""
    step = norm.momentum
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if step is None:
            step = 1 / float(norm.num_batches_tracked)
    for running, new in ((norm.running_mean, mean), (norm.running_var, variance)):
        if running is not None:
            running.lerp_(new.to(running.dtype), step or 0.0)

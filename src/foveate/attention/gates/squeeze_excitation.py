"""Squeeze-and-excitation: each channel is weighted by what the whole map holds.

    z = mean_{H,W}(x),   a = sigmoid(W2 relu(W1 z + b1) + b2),   out = x * a

Its family varies the two steps, and so do the options. Squeeze by the mean, the maximum or a
learned projection, sum_p softmax_p(w . x_p) x_p; over the map, or over H or W alone, which leaves
a weight for each column or row. Excite by the two layers; by a convolution along the channels;
or by attention between channels, a = sigmoid(softmax(q k^T) v), where q, k and v are such
convolutions of z, and q and k pass a sigmoid.

Shapes: x (B, C, H, W), z (B, L, C) with L = 1, W or H descriptors, W1 (C', C), W2 (C, C'),
a (B, C, 1, 1), (B, C, 1, W) or (B, C, H, 1); C' = C / reduction.
Cost: ``2 C C'`` multiply-adds a descriptor, ``k C`` by convolution, ``3 k C + 2 C^2`` by attention;
a learned projection adds ``H W C``.

Paper: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507. The learned
projection is the context of Cao et al., "GCNet", 2019, arXiv:1904.11492; the convolution that of
ECA-Net (:mod:`.efficient_channel`); the attention between channels has the queries and keys of
Song et al., "All the attention you need" (GLAM), WACV 2022, arXiv:2107.08000, but values from z,
where GLAM's are the map, because a gate multiplies.
Published code: hujie-frank/SENet (Caffe; both layers have biases, C' = C / 16). Weights of timm's
``SEModule`` load with ``divisor=8``, those of moskomule/senet.pytorch, the layer most often copied,
with ``bias=False``.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import check_map, odd, one_of
from foveate.attention.gates._common import as_linear, reduced_width, rename
from foveate.attention.gates.efficient_channel import kernel_for
from foveate.contracts import Gate
from foveate.registry import register

GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": Tensor.sigmoid,
    "hard_sigmoid": F.hardsigmoid,
    "tanh": Tensor.tanh,
}
AXES = {"map": (2, 3), "height": (2,), "width": (3,)}


@register(
    "squeeze_excitation",
    family="gates",
    title="Squeeze-and-excitation: channels weighted by the pooled map (SENet)",
    paper="Hu et al., Squeeze-and-Excitation Networks, CVPR 2018, arXiv:1709.01507",
    source="moskomule/senet.pytorch@8cb2669fec6fa344481726f9199aa611f08c3fbd",
    license="MIT",
    tags=("unordered", "published"),
    parity="timm's SEModule and senet.pytorch's SELayer, exactly; the options beyond them follow "
    "their papers, no code",
)
class SqueezeExcitation(Gate):
    """A weight for every channel, from what the map holds.

    Args:
        dim: channels C.
        reduction: C / C', how much narrower the bottleneck of the two layers is.
        bias: whether the two layers have biases.
        divisor: round C' to the nearest multiple of this (8 in timm); None rounds C' down.
        pool: squeeze by "avg", "max" or "project", a learned projection.
        over: squeeze the "map", or its "height" or "width" alone.
        excitation: "linear" (two layers), "conv" (along the channels) or "attention" (between
            channels).
        gate_layer: what makes weights of the excitation: "sigmoid", "hard_sigmoid" (MobileNetV3)
            or "tanh", as timm calls them.
        kernel_size: channels that the convolutions of "conv" and "attention" span, odd; None
            computes it from ``dim`` as ECA-Net does.
    """

    def __init__(
        self,
        dim: int,
        reduction: int = 16,
        *,
        bias: bool = True,
        divisor: int | None = None,
        pool: str = "avg",
        over: str = "map",
        excitation: str = "linear",
        gate_layer: str = "sigmoid",
        kernel_size: int | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        hidden = reduced_width(dim, reduction, divisor)
        self.pool = one_of(pool, ("avg", "max", "project"), "pool")
        self.gate_layer = one_of(gate_layer, GATES, "gate_layer")
        self.axes = AXES[one_of(over, AXES, "over")]
        self.project = nn.Conv2d(dim, 1, 1, bias=False) if pool == "project" else None
        one_of(excitation, ("linear", "conv", "attention"), "excitation")
        kernel_size = kernel_for(dim) if kernel_size is None else odd(kernel_size, "kernel_size")
        self.excite: _TwoLayers | _AlongChannels | _BetweenChannels
        if excitation == "linear":
            self.excite = _TwoLayers(dim, hidden, bias)
        elif excitation == "conv":
            self.excite = _AlongChannels(dim, kernel_size)
        else:
            self.excite = _BetweenChannels(dim, kernel_size)

    def gate(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        z = self._squeeze(x)  # (B, C, 1 or H, 1 or W)
        a = GATES[self.gate_layer](self.excite(z.flatten(2).mT))  # (B, L, C)
        return a.mT.reshape(z.shape)

    def multiply_adds(self, height: int, width: int) -> int:
        descriptors = {(2, 3): 1, (2,): width, (3,): height}[self.axes]
        projection = 0 if self.project is None else height * width * self.dim
        return projection + descriptors * self.excite.multiply_adds()

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read timm's 1x1 convolutions and senet.pytorch's names."""
        first, second = "excite.fc1", "excite.fc2"
        state = rename(state, {"fc.0": first, "fc.2": second, "fc1": first, "fc2": second})
        return {key: as_linear(v) if "excite" in key else v for key, v in state.items()}

    def _squeeze(self, x: Tensor) -> Tensor:
        if self.project is not None:
            scores = self.project(x)  # (B, 1, H, W)
            weights = (scores - scores.logsumexp(self.axes, keepdim=True)).exp()
            return (weights * x).sum(self.axes, keepdim=True)
        if self.pool == "max":
            return x.amax(self.axes, keepdim=True)
        return x.mean(self.axes, keepdim=True)


class _TwoLayers(nn.Module):
    """Descriptors ``(B, L, C)`` through a bottleneck."""

    def __init__(self, dim: int, hidden: int, bias: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, z: Tensor) -> Tensor:
        return self.fc2(self.fc1(z).relu())

    def multiply_adds(self) -> int:
        """For one descriptor."""
        return 2 * self.fc1.weight.numel()


class _AlongChannels(nn.Module):
    """Each channel of descriptors ``(B, L, C)`` from its few neighbours."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.dim = dim
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        return self.conv(z.flatten(0, 1)[:, None]).squeeze(1).reshape(z.shape)

    def multiply_adds(self) -> int:
        """For one descriptor."""
        return self.conv.weight.numel() * self.dim


class _BetweenChannels(nn.Module):
    """Each channel of descriptors ``(B, L, C)`` from all, weighted by content."""

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        self.dim = dim
        self.q, self.k, self.v = (_AlongChannels(dim, kernel_size) for _ in range(3))

    def forward(self, z: Tensor) -> Tensor:
        q, k, v = self.q(z).sigmoid(), self.k(z).sigmoid(), self.v(z)
        weights = (q[..., None] @ k[..., None, :]).softmax(-1)  # (B, L, C, C)
        return (weights @ v[..., None]).squeeze(-1)

    def multiply_adds(self) -> int:
        """For one descriptor."""
        return 2 * self.dim**2 + sum(m.multiply_adds() for m in (self.q, self.k, self.v))

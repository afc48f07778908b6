"""Squeeze-and-excitation: each channel is weighted by what the whole map holds.

    z = mean_{H,W}(x),   a = sigmoid(W2 relu(W1 z + b1) + b2),   out = x * a

Shapes: x (B, C, H, W), z (B, C), W1 (C', C), W2 (C, C'), a (B, C, 1, 1); C' = C / reduction.
Cost: ``2 C C'`` multiply-adds, whatever H and W.

Paper: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arXiv:1709.01507.
Published code: hujie-frank/SENet (Caffe; both layers have biases, C' = C / 16). Weights of timm's
``SEModule`` load with ``divisor=8``, those of moskomule/senet.pytorch, the layer most often copied,
with ``bias=False``.
"""

from __future__ import annotations

from torch import Tensor, nn

from foveate.arguments import check_map, one_of
from foveate.attention.gates.common import as_linear, reduced_width, rename
from foveate.contracts import Gate
from foveate.registry import register


@register(
    "squeeze_excitation",
    family="gates",
    title="Squeeze-and-excitation: channels weighted by the pooled map (SENet)",
    paper="Hu et al., Squeeze-and-Excitation Networks, CVPR 2018, arXiv:1709.01507",
    source="moskomule/senet.pytorch@8cb2669fec6fa344481726f9199aa611f08c3fbd",
    licence="MIT",
    tags=("unordered", "published"),
    parity="timm's SEModule and senet.pytorch's SELayer, exactly",
)
class SqueezeExcitation(Gate):
    """A weight in (0, 1) for every channel, from the pooled map through a bottleneck.

    Args:
        dim: channels C.
        reduction: C / C', how much narrower the bottleneck is.
        bias: whether the two layers have biases.
        divisor: round C' to the nearest multiple of this (8 in timm); None rounds C' down.
        pool: "avg" or "max", over the map.
    """

    def __init__(
        self,
        dim: int,
        reduction: int = 16,
        *,
        bias: bool = True,
        divisor: int | None = None,
        pool: str = "avg",
    ) -> None:
        super().__init__()
        self.dim = dim
        self.pool = one_of(pool, ("avg", "max"), "pool")
        self.hidden = reduced_width(dim, reduction, divisor)
        self.fc1 = nn.Linear(dim, self.hidden, bias=bias)
        self.fc2 = nn.Linear(self.hidden, dim, bias=bias)

    def gate(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        z = x.mean((2, 3)) if self.pool == "avg" else x.amax((2, 3))  # (B, C)
        return self.fc2(self.fc1(z).relu()).sigmoid()[:, :, None, None]  # (B, C, 1, 1)

    def multiply_adds(self, height: int, width: int) -> int:
        return 2 * self.dim * self.hidden

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read timm's 1x1 convolutions and senet.pytorch's names."""
        state = rename(state, {"fc.0": "fc1", "fc.2": "fc2"})
        return {key: as_linear(value) for key, value in state.items()}

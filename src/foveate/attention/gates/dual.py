"""Dual attention: positions attend to positions, channels to channels, and both are added.

    position:  P = gamma_p softmax(q k^T) v + x,              [q, k, v] = x W + b
    channel:   E = X X^T,  K = gamma_c softmax(max_j E - E) X + x
    out = P + K

Shapes: x (B, C, H, W), X (B, C, HW); q, k (B, HW, C / reduction), v (B, HW, C); E (B, C, C).
Cost: ``HW C^2 (1 + 2 / reduction) + (HW)^2 C (1 + 1 / reduction)`` multiply-adds for positions,
``2 C^2 HW`` for channels.

Paper: Fu et al., "Dual Attention Network for Scene Segmentation", CVPR 2019, arXiv:1809.02983.
Published code: junfu1115/DANet. There is no 1 / sqrt(d); a channel's weight goes to those *least*
like it, by the maximum minus the energy; both gammas start at zero, where each part is the
identity and their sum 2 x. Its head puts convolutions before and behind each part, and adds what
they give.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import check_map
from foveate.attention._softmax import wide_product
from foveate.attention.gates._common import as_linear, reduced_width, rename
from foveate.contracts import Mixer, OneStep
from foveate.layout import map_to_tokens, tokens_to_map
from foveate.registry import register


class PositionAttention(OneStep):
    """DANet's position part."""

    by_shape = False

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, hidden)
        self.key = nn.Linear(dim, hidden)
        self.value = nn.Linear(dim, dim)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        tokens = map_to_tokens(x)  # (B, N, C)
        v = self.value(tokens)
        if weights is None:
            q, k = self.query(tokens), self.key(tokens)  # (B, N, C')
            y = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], scale=1.0)
        else:
            y = weights @ v[:, None]
        return self.gamma * tokens_to_map(y.squeeze(1), *x.shape[2:], like=x) + x

    def weights(self, x: Tensor) -> Tensor:
        tokens = map_to_tokens(x)
        logits = wide_product(self.query(tokens), self.key(tokens).transpose(1, 2))
        return logits.softmax(-1).to(x.dtype)[:, None]


class ChannelAttention(OneStep):
    """DANet's channel part."""

    by_shape = False

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        tokens = map_to_tokens(x)  # (B, N, C)
        energy = wide_product(tokens.transpose(1, 2), tokens)  # (B, C, C)
        weights = (energy.amax(-1, keepdim=True) - energy).softmax(-1).to(x.dtype)
        y = tokens @ weights.transpose(1, 2)
        return self.gamma * tokens_to_map(y, *x.shape[2:], like=x) + x


@register(
    "dual",
    family="gates",
    title="Dual attention: over positions and over channels, added (DANet)",
    paper="Fu et al., Dual Attention Network for Scene Segmentation, CVPR 2019, arXiv:1809.02983",
    source="junfu1115/DANet@b0a0fa008148f102321cdaa7ca38fb0ddd0239d1",
    license="MIT",
    tags=("weights", "self", "unordered", "published"),
    parity="junfu1115/DANet's PAM_Module and CAM_Module, exactly",
)
class DualAttention(Mixer):
    """Position attention, channel attention, or the sum of both.

    Args:
        dim: channels C.
        reduction: how much narrower queries and keys are than ``dim``.
        position: whether the position part is there.
        channel: whether the channel part is there.
    """

    def __init__(
        self, dim: int, reduction: int = 8, *, position: bool = True, channel: bool = True
    ) -> None:
        super().__init__()
        if not (position or channel):
            raise ValueError("dual needs its position part, its channel part or both")
        self.dim = dim
        self.hidden = reduced_width(dim, reduction)
        self.position = PositionAttention(dim, self.hidden) if position else None
        self.channel = ChannelAttention() if channel else None

    def forward(self, x: Tensor) -> Tensor:
        return self._attend(x, None)

    def weights(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        return self._position().weights(x)  # (B, 1, H*W, H*W)

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        self._position()
        return self._attend(x, weights)

    def multiply_adds(self, height: int, width: int) -> int:
        tokens, total = height * width, 0
        if self.position is not None:
            linear = self.dim * (self.dim + 2 * self.hidden)
            total += tokens * (linear + tokens * (self.dim + self.hidden))
        if self.channel is not None:
            total += 2 * self.dim**2 * tokens
        return total

    def _attend(self, x: Tensor, weights: Tensor | None) -> Tensor:
        check_map(x, self.dim)
        if self.position is None:
            return self.channel(x)
        y = self.position(x, weights)
        return y if self.channel is None else y + self.channel(x)

    def _position(self) -> PositionAttention:
        if self.position is None:
            raise ValueError("dual without its position part has no weights over positions")
        return self.position

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Read the names of PAM_Module or CAM_Module, whichever part is here."""
        part = "channel" if self.position is None else "position"
        names = {f"{name}_conv": f"position.{name}" for name in ("query", "key", "value")}
        state = rename(state, names | {"gamma": f"{part}.gamma"})
        return {key: as_linear(value) for key, value in state.items()}

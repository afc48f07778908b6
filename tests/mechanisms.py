"""Mechanisms of a test's own: one that keeps its contract for each role, and ways to break it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import check_key_mask, check_map, check_tokens, head_dim, positive
from foveate.attention._softmax import wide_product
from foveate.contracts import Aligner, Gate, Mixer, TokenMixer
from foveate.layout import map_to_tokens, merge_heads, split_heads, tokens_to_map


class CleanMixer(Mixer):
    """Every position attends to every other."""

    def __init__(self, dim: int, num_heads: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.scale = head_dim(dim, num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_weights(x, self.weights(x))

    def weights(self, x: Tensor) -> Tensor:
        q, k, _ = self._project(x)
        return wide_product(q * self.scale, k.transpose(-2, -1)).softmax(-1).to(q.dtype)

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        y = merge_heads((weights @ self._project(x)[2]).transpose(1, 2))
        return tokens_to_map(y, *x.shape[2:], like=x)

    def multiply_adds(self, height: int, width: int) -> int:
        tokens = height * width
        return 6 * tokens * self.dim**2 + 2 * tokens**2 * self.dim  # both halves project

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key.replace("to_qkv", "qkv"): value for key, value in state.items()}

    def fuse(self) -> None:
        """Nothing is left to fuse."""

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        check_map(x, self.dim)
        q, k, v = self.qkv(map_to_tokens(x)).chunk(3, -1)
        q, k, v = (split_heads(t, self.num_heads).transpose(1, 2) for t in (q, k, v))
        return q, k, v


class ConvMixer(Mixer):
    """A convolution: mixes positions, though not by content."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = positive(dim, "dim")
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        return self.conv(x).contiguous(memory_format=_format(x))

    def multiply_adds(self, height: int, width: int) -> int:
        return 9 * self.dim**2 * height * width


class CleanGate(Gate):
    """Squeeze-and-excitation without batch statistics."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = positive(dim, "dim")
        self.fc = nn.Linear(dim, dim)

    def gate(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        return self.fc(x.mean((2, 3))).sigmoid()[:, :, None, None]

    def multiply_adds(self, height: int, width: int) -> int:
        return self.dim**2


class NormGate(CleanGate):
    """Normalises over the batch, and folds that into its layer for deployment."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.norm: nn.Module = nn.BatchNorm1d(dim)

    def gate(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        return self.norm(self.fc(x.mean((2, 3)))).sigmoid()[:, :, None, None]

    def fuse(self) -> None:
        if isinstance(self.norm, nn.BatchNorm1d):
            self.fc = nn.utils.fusion.fuse_linear_bn_eval(self.fc, self.norm)
            self.norm = nn.Identity()


class CleanTokens(TokenMixer):
    """Each token takes the mean of its neighbours within one step, and of itself, by content."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = positive(dim, "dim")
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        return self.apply_weights(x, self.weights(x, key_mask))

    def weights(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        check_tokens(x, self.dim)
        check_key_mask(key_mask, x.shape[0], x.shape[1])
        q, k, _ = self.qkv(x).chunk(3, -1)
        place = torch.arange(x.shape[1], device=x.device)
        seen = ((place - place[:, None]).abs() <= 1)[None]
        if key_mask is not None:
            seen = seen & key_mask[:, None]
        logits = wide_product(q, k.transpose(1, 2))
        logits = logits.masked_fill(~seen, torch.finfo(logits.dtype).min)
        return (logits.softmax(-1) * seen)[:, None].to(q.dtype)

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        return weights[:, 0] @ self.qkv(x).chunk(3, -1)[2]

    def multiply_adds(self, tokens: int) -> int:
        return 6 * tokens * self.dim**2 + 2 * tokens**2 * self.dim  # both halves project


class CleanAligner(Aligner):
    """Additive attention."""

    def __init__(self, dim: int, memory_dim: int = 12) -> None:
        super().__init__()
        self.dim = positive(dim, "dim")
        self.memory_dim = memory_dim
        self.query = nn.Linear(dim, 8)
        self.key = nn.Linear(memory_dim, 8)
        self.score = nn.Linear(8, 1, bias=False)

    def forward(
        self, query: Tensor, memory: Tensor, memory_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        check_tokens(query, self.dim, "query")
        check_tokens(memory, self.memory_dim, "memory")
        check_key_mask(memory_mask, memory.shape[0], memory.shape[1], "memory_mask")
        both = self.query(query)[:, :, None] + self.key(memory)[:, None]  # (B, T, S, 8)
        logits = self.score(both.tanh()).squeeze(-1)
        if memory_mask is not None:
            logits = logits.masked_fill(~memory_mask[:, None], torch.finfo(logits.dtype).min)
        weights = logits.softmax(-1)
        return weights @ memory, weights

    def multiply_adds(self, queries: int, positions: int) -> int:
        pairs = queries * positions
        return 8 * (queries * self.dim + positions * self.memory_dim + pairs) + (
            pairs * self.memory_dim
        )


def _format(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


class CropsOddMaps(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[..., : x.shape[2] - x.shape[2] % 2, :]


class PoolsToNothing(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + F.avg_pool2d(x, 2).mean((2, 3), keepdim=True)


class FailsOnEmptyBatch(CleanMixer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - x.reshape(x.shape[0], -1).max().detach()


class ForgetsFormat(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).contiguous()


class IgnoresStrides(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        plain = x.contiguous().stride()
        enough = x.untyped_storage().size() // x.element_size() >= x.numel()
        return super().forward(x.as_strided(x.shape, plain) if enough else x)


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return 2 * gradient


class WrongGradient(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        return _Doubled.apply(super().forward(x))


class _IgnoresGradientStrides(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        plain = torch.empty(gradient.shape).stride()
        enough = gradient.untyped_storage().size() // gradient.element_size() >= gradient.numel()
        return gradient.as_strided(gradient.shape, plain) if enough else gradient


class IgnoresGradientStrides(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        return _IgnoresGradientStrides.apply(super().forward(x))


class WritesToInput(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        x.data.mul_(1.5)
        return super().forward(x)


class ForgetsParameter(ConvMixer):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.forgotten = nn.Parameter(torch.zeros(dim))


class DropsOut(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(super().forward(x), 0.5, self.training)


class MixesSamples(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - x.mean((0, 2, 3), keepdim=True)


class WeightsOfTwo(CleanMixer):
    def weights(self, x: Tensor) -> Tensor:
        return 2 * super().weights(x)


class ShowsOtherWeights(CleanMixer):
    def forward(self, x: Tensor) -> Tensor:
        return super().apply_weights(x, super().weights(x).square())


class IgnoresGivenWeights(CleanMixer):
    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        return super().apply_weights(x, self.weights(x))


class OverlooksItself(CleanMixer):
    def weights(self, x: Tensor) -> Tensor:
        weights = super().weights(x)
        alone = weights.shape[-1] == 1
        others = weights * (1 - torch.eye(weights.shape[-1], device=x.device) * (not alone))
        return others / others.sum(-1, keepdim=True)


class GrowsState(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        self.register_buffer("seen", x.detach().mean())
        return super().forward(x)


class KeepsGraph(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        self.last = super().forward(x)
        return self.last


class NumbersOnCpu(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.ones(1, 1, *x.shape[2:], device="cpu")


class WrongCost(ConvMixer):
    def multiply_adds(self, height: int, width: int) -> int:
        return super().multiply_adds(height, width) + height


class AnswersInFloat(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.zeros(1)


class FixedFloat(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.conv.weight.float(), self.conv.bias, padding=1)


class BreaksGraph(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2.0 if x.sum().item() > 1e9 else 1.0)


class FreezesSize(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.ones(int(x.shape[2]), 1)


class AcceptsAnything(Mixer):
    def __init__(self, dim: int, num_heads: int = 1, **options: object) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return x


class AddsInsteadOfGating(CleanGate):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate(x)


class GateOfOtherShape(CleanGate):
    def gate(self, x: Tensor) -> Tensor:
        return super().gate(x)[..., 0]

    def forward(self, x: Tensor) -> Tensor:
        return x * super().gate(x)


class FusesWrongly(NormGate):
    def fuse(self) -> None:
        self.norm = nn.Identity()


class DropsSurplus(CleanMixer):
    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value for key, value in state.items() if key.startswith("qkv")}


class IgnoresMask(CleanTokens):
    def weights(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        return super().weights(x)


class MasksWithInfinity(CleanTokens):
    def weights(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        weights = super().weights(x, key_mask)
        return weights / weights.sum(-1, keepdim=True)


class ShowsNothingForMasked(CleanTokens):
    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        return self.apply_weights(x, super().weights(x, key_mask))

    def weights(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        weights = super().weights(x, key_mask)
        return weights / weights.sum(-1, keepdim=True)


class GradientOfInfinity(CleanTokens):
    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        return super().forward(x, key_mask).abs().sqrt()  # steep where nothing is attended


class SeesAll(CleanTokens):
    def weights(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        return 0.5 * super().weights(x, key_mask) + 0.5 / x.shape[1]


class ContextOfProjection(CleanAligner):
    def forward(
        self, query: Tensor, memory: Tensor, memory_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        context, weights = super().forward(query, memory, memory_mask)
        return context.tanh(), weights


class OverflowsInHalf(CleanMixer):
    def weights(self, x: Tensor) -> Tensor:
        q, k, _ = self._project(x)
        return (q @ k.transpose(-2, -1)).mul(self.scale / 1e3).softmax(-1)


class SlicesItsLayer(CleanAligner):
    def forward(
        self, query: Tensor, memory: Tensor, memory_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        return super().forward(F.linear(query, self.score.weight[:, :1] * 0 + 1) + query, memory)


class DrawsFromElsewhere(ConvMixer):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls if self.training else super().forward(x)


class HoldsWhatItsStateLacks(ConvMixer):
    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("ones", torch.ones(dim, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.ones


class AsksForValues(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (2.0 if x.sum().item() > 1e9 else 1.0)


class CopiesItsWeights(ConvMixer):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.conv.weight.detach().sum().item()

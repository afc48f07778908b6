"""Rows of attention weights, whoever computes the attention: those of some queries.

    softmax(s q_i k^T + m_i)

for queries i alone, so that no matrix of all pairs is made where a fused attention makes none.
q (B, h, N, D), k (B, h or fewer, M, D), m what is added to the logits, s the scale.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_SOFTMAX = (torch.softmax, Tensor.softmax, F.softmax)


class FusedAttention(NamedTuple):
    """What PyTorch's fused attention is called with, as far as its weights go by it."""

    query: Tensor
    key: Tensor
    value: Tensor
    attn_mask: Tensor | None = None
    dropout_p: float = 0.0
    is_causal: bool = False
    scale: float | None = None
    enable_gqa: bool = False

    def head(self, index: int) -> FusedAttention:
        """The same of one head."""
        group = index // (self.query.shape[1] // self.key.shape[1])
        mask = self.attn_mask
        if mask is not None and mask.dim() > 2 and mask.shape[-3] > 1:
            mask = mask.narrow(-3, index, 1)
        query, key = self.query[:, index : index + 1], self.key[:, group : group + 1]
        return self._replace(query=query, key=key, attn_mask=mask)

    def rows(self, queries: Tensor | None = None) -> Tensor:
        """Weights of some queries, (B, h, R, M), in float32 at least.

        Args:
            queries: which, (R,), or of each sample (B, R); None for all.
        """
        dtype = torch.promote_types(self.query.dtype, torch.float32)
        query, key = self.query.to(dtype), self.key.to(dtype)
        if key.shape[1] != query.shape[1]:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scale = query.shape[-1] ** -0.5 if self.scale is None else self.scale
        logits = scale * (picked(query, queries) @ key.transpose(-2, -1))
        mask = self._mask(query.shape[-2], key.shape[-2])
        if mask is not None:
            mask = mask.expand(*query.shape[:2], -1, -1)
            mask = picked(mask, queries)
            added = mask.dtype is not torch.bool
            logits = logits + mask if added else logits.masked_fill(~mask, -torch.inf)
        return logits.softmax(-1)

    def _mask(self, queries: int, keys: int) -> Tensor | None:
        if self.is_causal:
            return torch.ones(queries, keys, dtype=torch.bool, device=self.query.device).tril()
        if self.attn_mask is None:
            return None
        return self.attn_mask.expand(*self.attn_mask.shape[:-2], queries, keys)


def picked(x: Tensor, queries: Tensor | None) -> Tensor:
    """Rows of ``x`` (B, h, N, ...) along N."""
    if queries is None:
        return x
    if queries.dim() == 1:
        return x[:, :, queries]
    index = queries[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])
    return x.gather(2, index)


class AttentionObserver(TorchFunctionMode):
    """Within, each attention that PyTorch is asked for is shown to the method of its kind."""

    def fused(self, call: FusedAttention) -> None:
        """One call of ``scaled_dot_product_attention``."""

    def softmax(self, weights: Tensor) -> None:
        """The output of a softmax, of any kind and size."""

    def multi_head(self, call: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """One call of ``multi_head_attention_forward``, as of ``torch.nn.MultiheadAttention``."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            self.fused(FusedAttention(*args, **kwargs))
        elif func is F.multi_head_attention_forward:
            self.multi_head(func, args, kwargs)
        elif func in _SOFTMAX:
            self.softmax(out)
        return out

"""Attention within clusters of tokens, and the k-means that finds them.

Shapes: queries q (B, h, T, D), keys and values (B, h, S, D), means (h, K, D), w tokens a cluster.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import positive, probability
from foveate.attention._dropout import Dropout
from foveate.attention._softmax import wide_product
from foveate.ops._torch import in_backward

SELF_LOGIT = -5e4  # where q and k are shared, a token attends to itself only if it has no other key


class KMeansAttention(nn.Module):
    """Attention within clusters, on projected heads: the published ``KmeansAttention``.

    A training step moves the means. A forward that ``torch.utils.checkpoint`` computes again goes
    by the means of the last forward and leaves them; a module that is called twice before its
    backward, both times under checkpointing, is not recomputed as it was.

    Args:
        num_heads: heads h.
        head_dim: channels D of a head.
        num_clusters: clusters K of each head.
        window_size: queries of a cluster; by default their number over the clusters, rounded up.
        context_size: keys of a cluster; like ``window_size`` by default.
        causal: whether a query attends to positions up to its own only.
        shared_qk: whether keys are the normalised queries.
        num_mem_kv: learned keys and values of each cluster; at least one if causal and not shared,
            for queries that are earlier than all keys of their cluster.
        masked_compete: whether masked tokens take places in clusters.
        ema_decay: how much of a mean stays at each training step.
        attn_drop: dropout of the attention weights.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        num_clusters: int,
        window_size: int | None = None,
        context_size: int | None = None,
        *,
        causal: bool = False,
        shared_qk: bool = False,
        num_mem_kv: int = 0,
        masked_compete: bool = False,
        ema_decay: float = 0.999,
        attn_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_clusters = positive(num_clusters, "num_clusters")
        self.window_size = None if window_size is None else positive(window_size, "window_size")
        self.context_size = window_size if context_size is None else context_size
        self.causal = causal
        self.shared_qk = shared_qk
        self.masked_compete = masked_compete
        self.ema_decay = probability(ema_decay, "ema_decay")
        self.attn_drop = Dropout(probability(attn_drop, "attn_drop"))
        self.slots = max(num_mem_kv, int(causal and not shared_qk))
        if self.slots:
            shape = (num_heads, num_clusters, self.slots, head_dim)
            self.mem_key = nn.Parameter(torch.randn(shape))
            self.mem_value = nn.Parameter(torch.randn(shape))
        means = F.normalize(torch.randn(num_heads, num_clusters, head_dim), dim=-1)
        self.register_buffer("means", means)
        self.routed_by: Tensor | None = None  # the means before the last training step moved them

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        query_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> Tensor:
        """``(B, h, T, D)`` of queries (B, h, T, D), keys and values (B, h, S, D)."""
        again = self.training and in_backward()  # a forward that checkpointing recomputes
        means = self.means if not again or self.routed_by is None else self.routed_by
        query_places = self._route(q, means, query_mask, self.window(q.shape[2]))  # (B, h, K, w)
        key_places = query_places
        if self.shared_qk:
            k = F.normalize(k, dim=-1)
        else:
            key_places = self._route(k, means, key_mask, self.window(k.shape[2], context=True))
        if self.training and not again:
            self._follow(q if self.shared_qk else torch.cat([q, k], 2))
        keys, values = _pick(k, key_places), _pick(v, key_places)  # (B, h, K, w', D)
        if self.slots:
            slots = (
                t.to(k.dtype).expand(k.shape[0], -1, -1, -1, -1)
                for t in (self.mem_key, self.mem_value)
            )
            keys, values = (torch.cat(both, 3) for both in zip(slots, (keys, values), strict=True))
        q = q * q.shape[3] ** -0.5
        logits = wide_product(_pick(q, query_places), keys.mT)  # (B, h, K, w, m + w')
        logits = self._restrict(logits, query_places, key_places, query_mask, key_mask)
        y = self.attn_drop(logits.softmax(-1).to(values.dtype)) @ values  # (B, h, K, w, D)
        return _mean_at(y.flatten(2, 3), query_places.flatten(2), q.shape[2])

    def window(self, tokens: int, context: bool = False) -> int:
        """Tokens of a cluster, out of ``tokens``."""
        size = self.context_size if context else self.window_size
        if size is None:
            return (tokens + self.num_clusters - 1) // self.num_clusters
        return torch.sym_min(size, tokens)

    def commitment_loss(self, q: Tensor, k: Tensor) -> Tensor:
        """Mean squared distance of the normalised tokens to their nearest means."""
        x = F.normalize(q if self.shared_qk else torch.cat([q, k], 2), dim=-1)
        nearest = (x @ self.means.to(x.dtype).mT).argmax(-1, keepdim=True)  # (B, h, N, 1)
        means = self.means.to(x.dtype).expand(x.shape[0], -1, -1, -1)
        return F.mse_loss(x, means.gather(2, nearest.expand_as(x)))

    @torch.no_grad()
    def fit(self, x: Tensor, iterations: int = 10) -> None:
        """Set the means by k-means on tokens ``(B, h, N, D)``, from a random choice of them."""
        pool = x.transpose(0, 1).flatten(1, 2)  # (h, B*N, D)
        chosen = torch.randperm(pool.shape[1], device=x.device)[: self.num_clusters]
        chosen = chosen[torch.arange(self.num_clusters, device=x.device) % chosen.shape[0]]
        self.means.copy_(pool[:, chosen])
        for _ in range(iterations):
            self.means.copy_(k_means_step(x, self.means))

    @torch.no_grad()
    def _route(self, x: Tensor, means: Tensor, mask: Tensor | None, size: int) -> Tensor:
        """The ``size`` tokens nearest to each mean, nearest first: ``(B, h, K, size)``."""
        similarity = F.normalize(x, dim=-1) @ means.to(x.dtype).mT  # (B, h, N, K)
        if mask is not None and not self.masked_compete:
            similarity = similarity.masked_fill(~mask[:, None, :, None], float("-inf"))
        return self.choose(similarity, size)

    @staticmethod
    def choose(similarity: Tensor, size: int) -> Tensor:
        """Of ``(B, h, N, K)`` the ``size`` largest of each cluster: ``(B, h, K, size)`` places."""
        return similarity.topk(size, 2).indices.transpose(2, 3)

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        if x.shape[0]:
            if not torch.compiler.is_compiling():  # which recomputes from what it has kept
                self.routed_by = self.means.clone()
            means = k_means_step(F.normalize(x, dim=-1).to(self.means.dtype), self.means)
            self.means.lerp_(means, 1 - self.ema_decay)

    def _restrict(
        self,
        logits: Tensor,
        query_places: Tensor,
        key_places: Tensor,
        query_mask: Tensor | None,
        key_mask: Tensor | None,
    ) -> Tensor:
        """Lower the logits of what may not be attended; memory slots always may."""
        lowest = torch.finfo(logits.dtype).min
        slots = self.slots
        queries, keys = query_places[..., None], key_places[..., None, :]
        for mask, places, axis in ((query_mask, query_places, -1), (key_mask, key_places, -2)):
            if mask is not None:
                seen = _look_up(mask, places).unsqueeze(axis).expand_as(logits[..., slots:])
                logits = logits.masked_fill(~F.pad(seen, (slots, 0), value=True), lowest)
        if self.causal:
            logits = logits.masked_fill(~F.pad(queries >= keys, (slots, 0), value=True), lowest)
        if self.shared_qk:
            itself = F.pad(queries == keys, (slots, 0), value=False)
            logits = logits.masked_fill(itself, SELF_LOGIT)
        return logits

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the means; leave out memory of no slots and the flag that the means are set."""
        return {
            key.replace("kmeans.means", "means"): value
            for key, value in state.items()
            if not key.endswith("kmeans.initted") and (value.numel() or "mem_" not in key)
        }


def k_means_step(x: Tensor, means: Tensor) -> Tensor:
    """Normalised means (h, K, D) of the tokens (B, h, N, D) nearest to each; old ones of none."""
    nearest = (x @ means.mT).argmax(-1)  # (B, h, N)
    chosen = F.one_hot(nearest, means.shape[1]).to(x.dtype)  # (B, h, N, K)
    fresh = F.normalize((chosen.mT @ x).sum(0), dim=-1)
    return torch.where(chosen.sum((0, 2))[..., None] > 0, fresh, means)


def _pick(x: Tensor, places: Tensor) -> Tensor:
    """``(B, h, N, D)`` at ``(B, h, K, w)``: ``(B, h, K, w, D)``."""
    index = places.flatten(2)[..., None].expand(-1, -1, -1, x.shape[3])
    return x.gather(2, index).unflatten(2, places.shape[2:])


def _per_sample(slots: Tensor, like: Tensor) -> Tensor:
    return slots.to(like.dtype).expand(like.shape[0], -1, -1, -1, -1)  # (B, h, K, m, D)


def _look_up(mask: Tensor, places: Tensor) -> Tensor:
    """``(B, N)`` at ``(B, h, K, w)``."""
    return (
        mask[:, None].expand(-1, places.shape[1], -1).gather(2, places.flatten(2)).view_as(places)
    )


def _mean_at(y: Tensor, places: Tensor, tokens: int) -> Tensor:
    """Mean of the results ``(B, h, K*w, D)`` that each token has; zeros where it has none."""
    index = places[..., None].expand_as(y)
    zeros = y.new_zeros(*y.shape[:2], tokens, y.shape[3])
    total = zeros.scatter_add(2, index, y)
    count = zeros.scatter_add(2, index, torch.ones_like(y))
    return total / (count + 1e-5)

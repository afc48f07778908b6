"""Routing attention: tokens attend to the tokens of their own cluster, found by online k-means.

    s_ic = normalise(x_i) . mu_c,   cluster c gets the w tokens with the largest s_ic
    out_i = mean over the clusters that chose i of  softmax_j(q_i . k_j / sqrt(D)) v_j,  j in c

Queries and keys are routed apart, to the same means; a token may be in several clusters or in
none, and then gets zeros. In training the means
follow the tokens: ``mu <- a mu + (1 - a) mu'``, mu' the normalised mean of the tokens nearest to
mu. The paper gives half of the heads, ``local_heads``, blocks of neighbours instead.

Shapes: x (B, N, C), heads h of D = C / h channels, K clusters of w tokens, m memory slots.
Cost: ``4 N C^2 + 2 N K C + 2 K w (w + m) C`` multiply-adds: with w = N / K and K near the root of
N, the order of N^1.5. (Local heads: see :class:`RotaryBlockAttention`.)

Paper: Roy et al., "Efficient Content-Based Sparse Attention with Routing Transformers", TACL 2021,
arXiv:2003.05997.
Published code: lucidrains/routing-transformer@3f6c461 (``SelfAttention``, ``KmeansAttention``). Its
first call sets the means by k-means on the tokens at hand; here :meth:`KMeansAttention.fit` does,
when asked. It updates the means in a backward hook; here the training forward does, as batch
normalisation does. Masked tokens compete for places there; here only if asked to.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.arguments import check_key_mask, check_tokens, head_dim, probability
from foveate.attention._dropout import Dropout
from foveate.attention.sequence._k_means import KMeansAttention
from foveate.attention.sequence._rotary_blocks import RotaryBlockAttention
from foveate.contracts import TokenMixer
from foveate.layout import merge_heads, split_heads
from foveate.registry import register


@register(
    "routing",
    family="sequence",
    title="Routing attention: tokens attend within clusters of online k-means",
    paper="Roy et al., Efficient Content-Based Sparse Attention with Routing Transformers, "
    "TACL 2021, arXiv:2003.05997",
    source="lucidrains/routing-transformer@3f6c461a036e98dbae7e70c623d1c0e0616ef82a",
    license="MIT",
    tags=("heads", "published"),
    parity="Means are set by fit(), not by the first call, and updated by the training forward.",
)
class RoutingAttention(TokenMixer):
    """Self-attention inside clusters of tokens.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        num_clusters: clusters K of each head.
        window_size: tokens w of a cluster; by default the tokens over the clusters, rounded up.
        local_heads: how many of the heads look at their own and neighbouring blocks instead.
        local_window: tokens of such a block.
        causal: whether a token attends to itself and earlier ones only.
        shared_qk: whether keys are the normalised queries.
        num_mem_kv: learned keys and values that each cluster has beside its tokens.
        masked_compete: whether masked tokens take places in clusters, as published.
        qkv_bias: whether q, k, v projections have a bias.
        ema_decay: a, how much of a mean stays at each training step.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        num_clusters: int = 4,
        window_size: int | None = None,
        *,
        local_heads: int = 0,
        local_window: int = 64,
        causal: bool = False,
        shared_qk: bool = False,
        num_mem_kv: int = 0,
        masked_compete: bool = False,
        qkv_bias: bool = False,
        ema_decay: float = 0.999,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        channels = head_dim(dim, num_heads)
        if not 0 <= local_heads < num_heads:
            raise ValueError(f"local_heads must be from 0 to num_heads - 1, got {local_heads}")
        self.local_heads = local_heads
        if local_heads:
            self.local_to_qkv = nn.Linear(dim, 3 * local_heads * channels)
            self.local_attn = RotaryBlockAttention(
                local_window, channels, causal=causal, attn_drop=attn_drop
            )
        routed_heads = num_heads - local_heads
        routed_dim = routed_heads * channels
        self.to_q = nn.Linear(dim, routed_dim, bias=qkv_bias)
        self.to_k = None if shared_qk else nn.Linear(dim, routed_dim, bias=qkv_bias)
        self.to_v = nn.Linear(dim, routed_dim, bias=qkv_bias)
        self.global_attn = KMeansAttention(
            routed_heads,
            channels,
            num_clusters,
            window_size,
            causal=causal,
            shared_qk=shared_qk,
            num_mem_kv=num_mem_kv,
            masked_compete=masked_compete,
            ema_decay=ema_decay,
            attn_drop=attn_drop,
        )
        self.to_out = nn.Linear(dim, dim, bias=False)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        y = self.global_attn(*self._project(x, key_mask), key_mask, key_mask)  # (B, h, N, D)
        if self.local_heads:
            qkv = self.local_to_qkv(x).chunk(3, -1)
            q, k, v = (split_heads(t, self.local_heads).transpose(1, 2) for t in qkv)
            y = torch.cat([self.local_attn(q, k, v, key_mask), y], 1)
        return self.proj_drop(self.to_out(merge_heads(y.transpose(1, 2))))

    def commitment_loss(self, x: Tensor) -> Tensor:
        """Distance of the tokens from their means: add it to the loss, times 1e-4 as published."""
        q, k, _ = self._project(x, None)
        return self.global_attn.commitment_loss(q, k)

    def multiply_adds(self, tokens: int) -> int:
        routing = self.global_attn
        window, clusters = routing.window(tokens), routing.num_clusters
        channels, local = self.to_q.out_features, self.dim - self.to_q.out_features
        projections, routed = (2, 1) if routing.shared_qk else (3, 2)
        linear = tokens * self.dim * (projections * channels + 3 * local + self.dim)
        attended = 2 * clusters * window * (window + routing.slots)
        total = linear + channels * (routed * tokens * clusters + attended)
        return total + (self.local_attn.multiply_adds(tokens, local) if local else 0)

    def _project(self, x: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        check_tokens(x, self.dim)
        check_key_mask(key_mask, x.shape[0], x.shape[1])
        q, v = self.to_q(x), self.to_v(x)
        k = q if self.to_k is None else self.to_k(x)
        heads = self.num_heads - self.local_heads
        q, k, v = (split_heads(t, heads).transpose(1, 2) for t in (q, k, v))
        return q, k, v  # (B, h, N, D)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the means as :class:`KMeansAttention` does; frequencies follow from the size."""
        state = self.global_attn.convert_published(state)
        return {key: value for key, value in state.items() if not key.endswith(".inv_freq")}

"""Sliding window attention: a token attends to its neighbours in the sequence, a few to everything.

    out_i = softmax_j(q_i k_j^T / sqrt(D)) v_j,   j in {i - w d, ..., i, ..., i + w d} or global

Every head may have a dilation d of its own: some look closely, others far.

Tokens marked global are seen by all, in the same softmax as the window, and see all, by
projections of their own. Marked on the task's own tokens (a class token, a question), they carry
what must cross the whole sequence.

Shapes: x (B, N, C), window w on either side, dilation d, g global tokens, heads h of D = C / h.
Cost: ``4 N C^2 + 2 N (2w + 1) C`` multiply-adds, where the window ends with the sequence; global
tokens add ``(2 N + g) C^2 + 4 g N C``.

Paper: Beltagy et al., "Longformer: The Long-Document Transformer", 2020, arXiv:2004.05150.
Published code: allenai/longformer@caefee6 ``LongformerSelfAttention`` (its modes ``tvm`` and
``sliding_chunks``). Its window counts one side, as here; huggingface/transformers counts both, so
its ``attention_window=512`` is ``window=256``. Its one mask (< 0 padding, 0 local, > 0 global) is
``key_mask`` and ``global_mask`` here. It takes padding and in-window copies of global tokens out
of the softmax by adding -10000, where -inf is added here. As there, attention gives 0 for padded
tokens. It ends before the output projection, which belongs to BERT's block: loaded from there, the
projection is the identity. Its mode ``sliding_chunks_no_overlap`` is another function. A dilation
for each head is what its kernel (``tvm``) takes as a tensor of one number a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from foveate.arguments import check_key_mask, check_tokens, head_dim, positive, probability
from foveate.attention._dropout import Dropout, scaled_dot_product_attention
from foveate.attention._softmax import wide_product
from foveate.contracts import TokenMixer
from foveate.layout import is_known, merge_heads, split_heads
from foveate.ops import local_attention
from foveate.ops._dropout import dropout
from foveate.registry import register


@register(
    "sliding_window",
    family="sequence",
    title="Sliding window attention, plain or dilated, with global tokens (Longformer)",
    paper="Beltagy et al., Longformer: The Long-Document Transformer, 2020, arXiv:2004.05150",
    source="allenai/longformer@caefee668e39cacdece7dd603a0bebf24df6d8ca",
    license="Apache-2.0",
    tags=("weights", "self", "local", "heads", "published"),
    parity="window counts one side, as in allenai's code; half of huggingface's attention_window.",
)
class SlidingWindowAttention(TokenMixer):
    """Self-attention to a window of the sequence and to global tokens.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        window: tokens of the window on either side.
        dilation: distance between the tokens of a window; one number for all heads, or one for
            each.
        num_global: the most global tokens a sequence may have; with 0 there are no projections
            for them.
        qkv_bias: whether q, k, v projections have a bias.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        window: int = 256,
        dilation: int | Sequence[int] = 1,
        *,
        num_global: int = 0,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim(dim, num_heads)
        self.window = positive(window, "window")
        self.dilation = _dilations(dilation, num_heads)
        self.num_global = num_global and positive(num_global, "num_global")
        self.attn_drop = probability(attn_drop, "attn_drop")
        kinds = ("query", "key", "value")
        for name in (*kinds, *(f"{kind}_global" for kind in kinds if num_global)):
            setattr(self, name, nn.Linear(dim, dim, bias=qkv_bias))
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))

    def forward(
        self, x: Tensor, key_mask: Tensor | None = None, global_mask: Tensor | None = None
    ) -> Tensor:
        """``(B, N, C) -> (B, N, C)``.

        Args:
            x: the tokens.
            key_mask: ``(B, N)`` bool, True where a token may be attended.
            global_mask: ``(B, N)`` bool, True for global tokens, at most ``num_global`` a row.

        Raises:
            ValueError: if a mask is of the wrong form, or marks too many tokens.
        """
        y = self._attend(x, key_mask, global_mask, None, self.attn_drop if self.training else 0.0)
        return self.proj_drop(self.proj(merge_heads(y)))

    def weights(
        self, x: Tensor, key_mask: Tensor | None = None, global_mask: Tensor | None = None
    ) -> Tensor:
        check_tokens(x, self.dim)
        batch, tokens, _ = x.shape
        positions = torch.eye(tokens, dtype=x.dtype, device=x.device)[None, :, None]
        positions = positions.expand(batch, tokens, self.num_heads, tokens)
        return self._attend(x, key_mask, global_mask, positions).transpose(1, 2)

    def apply_weights(
        self, x: Tensor, weights: Tensor, global_mask: Tensor | None = None
    ) -> Tensor:
        y = weights @ self._heads(self.value(x)).transpose(1, 2)  # (B, h, N, D)
        if global_mask is not None:
            of_global = weights @ self._heads(self.value_global(x)).transpose(1, 2)
            y = torch.where(global_mask[:, None, :, None], of_global, y)
        return self.proj_drop(self.proj(merge_heads(y.transpose(1, 2))))

    def multiply_adds(self, tokens: int, global_tokens: int = 0) -> int:
        """For ``global_tokens`` (``num_global`` when any are marked) the cost of those as well."""
        taps = sum(heads * self._kernel(tokens, dilation) for dilation, heads in self._runs)
        local = 4 * tokens * self.dim**2 + 2 * tokens * taps * self.head_dim
        if not global_tokens:
            return local
        project = (2 * tokens + global_tokens) * self.dim**2
        return local + project + 4 * global_tokens * tokens * self.dim

    def _attend(
        self,
        x: Tensor,
        key_mask: Tensor | None,
        global_mask: Tensor | None,
        values: Tensor | None,
        dropout_p: float = 0.0,
    ) -> Tensor:
        """``(B, N, h, D)`` before the output projection; ``values`` replace the projected ones."""
        self._check(x, key_mask, global_mask)
        q, k = self._heads(self.query(x)), self._heads(self.key(x))
        v = self._heads(self.value(x)) if values is None else values.to(q.dtype)
        y, lse = self._attend_window(q, k, v, key_mask, global_mask, dropout_p)
        if global_mask is not None:
            marked = global_mask if key_mask is None else global_mask & key_mask
            there, index = marked.int().topk(min(self.num_global, x.shape[1]), 1)
            there = there.bool()  # (B, g): a sequence may have fewer than the most
            y = self._see_global(y, lse, q, _take(k, index), _take(v, index), there, dropout_p)
            y_global = self._attend_everywhere(x, index, key_mask, values, dropout_p)
            y = _put(y, index, torch.where(there[:, :, None, None], y_global, _take(y, index)))
        return y if key_mask is None else y.masked_fill(~key_mask[:, :, None, None], 0)

    def _attend_window(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None,
        global_mask: Tensor | None,
        dropout_p: float,
    ) -> tuple[Tensor, Tensor]:
        """Attention to the window's tokens that are not global, and its log-sum-exp."""
        mask = key_mask
        if global_mask is not None:
            mask = ~global_mask if mask is None else mask & ~global_mask
        runs = [heads for _, heads in self._runs]
        queries, keys, values = (t[:, None].split(runs, 3) for t in (q, k, v))  # maps of one row
        attended = [
            local_attention(
                queries[run],
                keys[run],
                values[run],
                (1, self._kernel(q.shape[1], dilation)),
                (1, dilation),
                border="mask",
                key_mask=None if mask is None else mask[:, None],
                dropout_p=dropout_p,
                return_lse=True,
            )
            for run, (dilation, _) in enumerate(self._runs)
        ]
        if len(attended) == 1:
            y, lse = attended[0]
        else:
            y, lse = (torch.cat(parts, 3) for parts in zip(*attended, strict=True))
        return y[:, 0], lse[:, 0]  # (B, N, h, D), (B, N, h)

    def _see_global(
        self, y: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, there: Tensor, drop: float
    ) -> Tensor:
        """Widen the window's softmax by the global keys: the window is one more, of logit lse."""
        lowest = torch.finfo(lse.dtype).min
        there = there[:, None, None]  # (B, 1, 1, g)
        q = q * self.head_dim**-0.5
        logits = wide_product(q.transpose(1, 2), k.permute(0, 2, 3, 1))  # (B, h, N, g)
        logits = logits.to(lse.dtype).masked_fill(~there, lowest)
        lse = lse.transpose(1, 2)[..., None].clamp(min=lowest)
        weights = torch.cat([lse, logits], -1).softmax(-1)
        of_window, of_global = weights[..., :1], weights[..., 1:].masked_fill(~there, 0)
        of_global = dropout(of_global, drop).to(v.dtype) @ v.transpose(1, 2)  # (B, h, N, D)
        return y * of_window.transpose(1, 2).to(y.dtype) + of_global.transpose(1, 2)

    def _attend_everywhere(
        self, x: Tensor, index: Tensor, key_mask: Tensor | None, values: Tensor | None, drop: float
    ) -> Tensor:
        """What the tokens at ``index`` (B, g) read from all, by their own projections."""
        chosen = x.gather(1, index[:, :, None].expand(-1, -1, self.dim))
        q, k = self._heads(self.query_global(chosen)), self._heads(self.key_global(x))
        v = self._heads(self.value_global(x)) if values is None else values.to(q.dtype)
        mask = None if key_mask is None else key_mask[:, None, None]
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        y = scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop)
        return y.transpose(1, 2)  # (B, g, h, D)

    @property
    def _runs(self) -> list[tuple[int, int]]:
        """Neighbouring heads of one dilation: it, and how many they are."""
        if isinstance(self.dilation, int):
            return [(self.dilation, self.num_heads)]
        return [(dilation, len(list(heads))) for dilation, heads in groupby(self.dilation)]

    def _kernel(self, tokens: int, dilation: int) -> int:
        """Tokens of the whole window, no wider than the sequence."""
        if not is_known(tokens):
            return 2 * self.window + 1
        return 2 * min(self.window, (tokens - 1) // dilation) + 1

    def _heads(self, x: Tensor) -> Tensor:
        return split_heads(x, self.num_heads)  # (B, N, h, D)

    def _check(self, x: Tensor, key_mask: Tensor | None, global_mask: Tensor | None) -> None:
        check_tokens(x, self.dim)
        check_key_mask(key_mask, x.shape[0], x.shape[1])
        check_key_mask(global_mask, x.shape[0], x.shape[1], "global_mask")
        if global_mask is None:
            return
        if not self.num_global:
            raise ValueError("global_mask needs a module built with num_global of at least 1")
        if not torch.compiler.is_compiling() and global_mask.numel():
            most = int(global_mask.sum(1).max())
            if most > self.num_global:
                raise ValueError(
                    f"global_mask marks {most} tokens of a sequence, "
                    f"more than num_global={self.num_global}"
                )

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add the identity for the projection, which the published module lacks.

        Without global tokens, their projections are left out.
        """
        if not self.num_global:
            state = {key: value for key, value in state.items() if "_global." not in key}
        if "query.weight" in state and not any(key.startswith("proj.") for key in state):
            identity = torch.eye(self.dim, dtype=state["query.weight"].dtype)
            state = state | {"proj.weight": identity, "proj.bias": torch.zeros_like(identity[0])}
        return state


def _dilations(dilation: int | Sequence[int], num_heads: int) -> int | tuple[int, ...]:
    """One for all heads, or one for each."""
    if isinstance(dilation, int):
        return positive(dilation, "dilation")
    each = tuple(dilation)
    if len(each) != num_heads:
        raise ValueError(
            f"dilation must be one number, or one for each of num_heads={num_heads} heads, "
            f"got {dilation!r}"
        )
    return tuple(positive(of_head, "dilation") for of_head in each)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """The tokens of ``(B, N, h, D)`` at ``index`` (B, g)."""
    return x.gather(1, index[:, :, None, None].expand(-1, -1, *x.shape[2:]))


def _put(x: Tensor, index: Tensor, tokens: Tensor) -> Tensor:
    """``x`` with the tokens at ``index`` replaced."""
    return x.scatter(1, index[:, :, None, None].expand(-1, -1, *x.shape[2:]), tokens)

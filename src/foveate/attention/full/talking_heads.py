"""Talking-heads attention: heads mix their logits before the softmax and their weights after it.

    a = softmax(W_l (q k^T / sqrt(D)) + b_l),   out = (W_w a + b_w) v,   then a projection

``W_l`` and ``W_w`` (h, h) act over the heads of each pair of positions.

Shapes: x (B, N, C), heads h of D = C / h channels.
Cost: ``4 N C^2 + 2 N^2 C + 2 N^2 h^2`` multiply-adds.

Paper: Shazeer et al., "Talking-Heads Attention", arXiv:2003.02436; for images Touvron et al.,
"Going Deeper with Image Transformers", ICCV 2021, arXiv:2103.17239 (CaiT).
Published code: facebookresearch/deit@7e160fe ``Attention_talking_head``. Its head mixing has
biases; the first paper's has none. With ``b_w`` the mixed weights of a row need not sum to one:
:meth:`TalkingHeadsAttention.weights` shows those between the softmax and the second mixing.
"""

from __future__ import annotations

from torch import Tensor, nn

from foveate.arguments import check_key_mask, check_tokens, head_dim, probability
from foveate.attention._dropout import Dropout
from foveate.attention._softmax import masked_softmax
from foveate.contracts import TokenMixer
from foveate.layout import merge_heads
from foveate.registry import register


@register(
    "talking_heads",
    family="full",
    title="Talking-heads self-attention: heads mixed before and after the softmax (CaiT)",
    paper="Shazeer et al., Talking-Heads Attention, arXiv:2003.02436",
    source="facebookresearch/deit@7e160fe43f0252d17191b71cbb5826254114ea5b",
    license="Apache-2.0",
    tags=("weights", "self", "unordered", "heads", "published"),
    parity="Head mixing has biases, as in CaiT's code; head_bias=False is the first paper's form.",
)
class TalkingHeadsAttention(TokenMixer):
    """Self-attention over all positions whose heads exchange logits and weights.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        qkv_bias: whether q, k, v projections have a bias.
        head_bias: whether the mixing over heads has a bias.
        attn_drop: dropout of the mixed attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        *,
        qkv_bias: bool = True,
        head_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim(dim, num_heads)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj_l = nn.Linear(num_heads, num_heads, bias=head_bias)
        self.proj_w = nn.Linear(num_heads, num_heads, bias=head_bias)
        for mixing in (self.proj_l, self.proj_w):
            # As published. A bias after the softmax is added for every key: it must start at zero.
            nn.init.trunc_normal_(mixing.weight, std=0.02)
            if mixing.bias is not None:
                nn.init.zeros_(mixing.bias)
        self.proj = nn.Linear(dim, dim)
        self.attn_drop = Dropout(probability(attn_drop, "attn_drop"))
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))

    def forward(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        q, k, v = self._project(x, key_mask)
        return self._attend(self._weights(q, k, key_mask), v, key_mask)

    def weights(self, x: Tensor, key_mask: Tensor | None = None) -> Tensor:
        q, k, _ = self._project(x, key_mask)
        return self._weights(q, k, key_mask)

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        """The output for ``weights``; a key to which all give exactly nothing counts as masked."""
        key_mask = weights.amax((1, 2)) > 0  # (B, N)
        return self._attend(weights, self._project(x, None)[2], key_mask)

    def multiply_adds(self, tokens: int) -> int:
        mixing = 2 * tokens**2 * self.num_heads**2
        return 4 * tokens * self.dim**2 + 2 * tokens**2 * self.dim + mixing

    def _project(self, x: Tensor, key_mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        check_tokens(x, self.dim)
        check_key_mask(key_mask, x.shape[0], x.shape[1])
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))  # (B, N, 3, h, D)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def _weights(self, q: Tensor, k: Tensor, key_mask: Tensor | None) -> Tensor:
        logits = _mix(self.proj_l, q * self.head_dim**-0.5 @ k.transpose(-2, -1))  # (B, h, N, N)
        return masked_softmax(logits, None if key_mask is None else key_mask[:, None, None, :])

    def _attend(self, weights: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        if key_mask is not None:  # the second mixing's bias reaches masked keys too
            v = v.masked_fill(~key_mask[:, None, :, None], 0.0)
        y = self.attn_drop(_mix(self.proj_w, weights)) @ v  # (B, h, N, D)
        return self.proj_drop(self.proj(merge_heads(y.transpose(1, 2))))


def _mix(layer: nn.Linear, maps: Tensor) -> Tensor:
    """``layer`` over the heads of ``(B, h, N, N)``."""
    return layer(maps.movedim(1, -1)).movedim(-1, 1)

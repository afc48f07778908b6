"""Stand-alone self-attention: a window around every position, in place of a convolution.

    y_p = sum_j softmax_j(q_p . k_j + q_p . r[j - p]) v_j,   j in the k x k window around p

The relative embedding r of an offset has two halves: one learned for its row, one for its column.
Logits are not divided by sqrt(D), and no projection follows, in the paper.

Shapes: x (B, C, H, W), y (B, O, H, W), heads h of D = O / h channels; embeddings (O / 2, k) each.
Cost: ``3 H W C O + 2 H W k O + 2 H W k^2 O`` multiply-adds.

Paper: Ramachandran et al., "Stand-Alone Self-Attention in Vision Models", NeurIPS 2019,
arXiv:1906.05909. Its authors published no code, and the paper is silent on the map's border.
Published code: the port leaderj1001/Stand-Alone-Self-Attention@a983f0f ``AttentionConv`` pads the
map with zeros; keys and values out there are zero vectors that take part in the softmax, and their
embedding counts. That is done here; what a query gives to them is missing from the rows of
``weights``. The port is not the paper otherwise: it multiplies queries and keys channel by channel
and takes a softmax for every channel. That is this module with ``num_heads`` = O, heads of one
channel, and the halves of r then fall on the first and the last half of the heads, as there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate import layout
from foveate.arguments import check_map, head_dim, pair, positive, probability
from foveate.attention._dropout import Dropout
from foveate.contracts import Mixer
from foveate.ops import local_attention
from foveate.registry import register


@register(
    "stand_alone",
    family="local",
    title="Stand-alone self-attention with relative embeddings (SASA)",
    paper="Ramachandran et al., Stand-Alone Self-Attention in Vision Models, NeurIPS 2019, "
    "arXiv:1906.05909",
    source="leaderj1001/Stand-Alone-Self-Attention@a983f0f643632b1f2b7b8b27693182f22e9e574c",
    license="MIT",
    tags=("weights", "self", "local", "heads", "published"),
    parity="The paper's form; the unofficial port, whose softmax is per channel, is num_heads=dim.",
)
class StandAloneAttention(Mixer):
    """Self-attention of every position to a window around it.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``out_dim``.
        kernel_size: height and width of the window.
        out_dim: channels O of the output, even; ``dim`` by default.
        qkv_bias: whether q, k, v projections have a bias; zero vectors beyond the border do not.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        kernel_size: int | tuple[int, int] = 7,
        *,
        out_dim: int | None = None,
        qkv_bias: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = positive(dim, "dim")
        self.out_dim = dim if out_dim is None else positive(out_dim, "out_dim")
        self.num_heads = num_heads
        self.head_dim = head_dim(self.out_dim, num_heads)
        if self.out_dim % 2:
            raise ValueError(
                f"the output's channels split into a half for rows and one for columns: "
                f"expected an even number, got {self.out_dim}"
            )
        self.kernel_size = kh, kw = pair(kernel_size, "kernel_size")
        self.attn_drop = probability(attn_drop, "attn_drop")
        self.qkv = nn.Linear(dim, 3 * self.out_dim, bias=qkv_bias)
        self.rel_h = nn.Parameter(torch.randn(self.out_dim // 2, kh))
        self.rel_w = nn.Parameter(torch.randn(self.out_dim // 2, kw))
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self._project(x)
        y = self._attend(q, k, v, self.attn_drop if self.training else 0.0)
        return self._finish(layout.merge_heads(y), x)

    def weights(self, x: Tensor) -> Tensor:
        q, k, _ = self._project(x)
        positions = layout.one_hot_positions(q, *x.shape[2:])[:, :, :, None]
        y = self._attend(q, k, positions.expand(*q.shape[:-1], -1))  # (B, H, W, h, H*W)
        return y.flatten(1, 2).transpose(1, 2)

    def apply_weights(self, x: Tensor, weights: Tensor) -> Tensor:
        v = self._project(x)[2].flatten(1, 2).transpose(1, 2)  # (B, h, H*W, D)
        y = layout.merge_heads((weights @ v).transpose(1, 2))
        return self._finish(y.unflatten(1, tuple(x.shape[2:])), x)

    def multiply_adds(self, height: int, width: int) -> int:
        kh, kw = self.kernel_size
        a_cell = 3 * self.dim + (kh + kw) + 2 * kh * kw
        return height * width * self.out_dim * a_cell

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        check_map(x, self.dim)
        qkv = self.qkv(layout.to_channels_last(x))
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        return q, k, v  # (B, H, W, h, D)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0) -> Tensor:
        return local_attention(
            q,
            k,
            v,
            self.kernel_size,
            bias=self._position_logits(q),
            scale=1.0,
            border="zero",
            dropout_p=dropout_p,
        )

    def _position_logits(self, q: Tensor) -> Tensor:
        """``q . r`` for every tap of the window: ``(B, H, W, h, kh, kw)``."""
        kh, kw = self.kernel_size
        # Heads of an odd width have no halves; then all channels together have.
        parts = self.num_heads if self.head_dim % 2 == 0 else 1
        rows, columns = (r.unflatten(0, (parts, -1)) for r in (self.rel_h, self.rel_w))
        r = torch.cat([F.pad(rows, (0, kw)), F.pad(columns, (kh, 0))], 1)
        r = r.flatten(0, 1).unflatten(0, (self.num_heads, self.head_dim))
        logits = torch.bmm(q.flatten(0, 2).transpose(0, 1), r)  # (h, B*H*W, kh + kw)
        logits = logits.transpose(0, 1).unflatten(0, q.shape[:3])
        down, across = logits.split((kh, kw), -1)
        return down[..., :, None] + across[..., None, :]

    def _finish(self, y: Tensor, x: Tensor) -> Tensor:
        return layout.to_channels_first(self.proj_drop(y), like=x)

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Join the port's three convolutions of one by one."""
        if "query_conv.weight" not in state:
            return state
        state = dict(state)
        for kind in ("weight", "bias"):
            names = [f"{name}_conv.{kind}" for name in ("query", "key", "value")]
            if names[0] in state:
                state[f"qkv.{kind}"] = torch.cat([state.pop(name).flatten(1) for name in names])
        return state | {name: state[name].flatten(1) for name in ("rel_h", "rel_w")}

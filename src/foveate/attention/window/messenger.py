"""Messenger attention: each window has a token more, which carries its news to other windows.

    [m', x'] = softmax([m, x] W_q ([m, x] W_k)^T / sqrt(D) + b) [m, x] W_v W   inside each window

Between blocks, ``shuffle_messengers`` exchanges slices of the messengers' channels among the
windows of a region, so that the next block's windows read of each other. b is Swin's table between
cells, and one number a head for a cell that asks the messenger, and for all the messenger asks.

Shapes: x (B, C, H, W), n windows of T cells, messengers m (B, n, C), heads h of D = C / h channels.
Cost: ``4 (H W + n) C^2 + 2 n (T + 1)^2 C`` multiply-adds.

Paper: Fang et al., "MSG-Transformer: Exchanging Local Spatial Information by Manipulating Messenger
Tokens", CVPR 2022, arXiv:2105.15168.
Published code: hustvl/MSG-Transformer@068da56 ``WindowAttention`` and ``shuffle_msg``. The number
for all that the messenger asks changes nothing (it shifts a whole row before the softmax); it is
kept for the checkpoints' sake. Windows must divide the map there; here the rest is padded and the
padding not attended. Without messengers from a block before, a learned one starts in each window,
as in the published network. Regions of windows must divide the map's there; here a messenger of a
region that overhangs keeps the slices meant for windows that are not there.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from foveate import layout
from foveate.arguments import check_map, head_dim, pair, probability
from foveate.attention._dropout import Dropout, scaled_dot_product_attention
from foveate.attention.window._inside import cut_into, table_bias
from foveate.contracts import Mixer
from foveate.ops._torch import in_transform
from foveate.ops.window.windows import Windows
from foveate.registry import register


@register(
    "messenger",
    family="window",
    title="Window attention with a messenger token a window (MSG-Transformer)",
    paper="Fang et al., MSG-Transformer, CVPR 2022, arXiv:2105.15168",
    source="hustvl/MSG-Transformer@068da56a7bbbbe42f87c58583e34d7ad39e01a77",
    license="Apache-2.0",
    tags=("heads", "published"),
    parity="Maps that windows do not divide, refused there, are padded and the padding masked.",
)
class MessengerAttention(Mixer):
    """Self-attention inside windows and their messengers.

    Args:
        dim: channels C.
        num_heads: heads; must divide ``dim``.
        window_size: height and width of a window.
        qkv_bias: whether q, k, v projections have a bias.
        own_messenger: whether there is a learned messenger to start with; a network that hands
            messengers on to :meth:`exchange` needs none.
        attn_drop: dropout of the attention weights.
        proj_drop: dropout of the output.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        window_size: int | tuple[int, int] = 7,
        *,
        qkv_bias: bool = True,
        own_messenger: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.num_heads = num_heads
        self.head_dim = head_dim(dim, num_heads)
        self.window_size = wh, ww = pair(window_size, "window_size")
        self.attn_drop = probability(attn_drop, "attn_drop")
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = Dropout(probability(proj_drop, "proj_drop"))
        table = torch.empty((2 * wh - 1) * (2 * ww - 1), num_heads)
        self.relative_position_bias_table = nn.Parameter(table)
        self.rel_pos_msg = nn.Parameter(torch.empty(num_heads, 2, 1, 1))
        self.messenger = nn.Parameter(torch.empty(1, 1, dim)) if own_messenger else None
        for parameter in self.parameters(recurse=False):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, self.dim)
        if self.messenger is None:
            raise ValueError("built with own_messenger=False: call exchange(x, messengers)")
        count = self._windows(*x.shape[2:]).count
        return self.exchange(x, self.messenger.expand(x.shape[0], count, -1))[0]

    def exchange(self, x: Tensor, messengers: Tensor) -> tuple[Tensor, Tensor]:
        """Attend with the messengers ``(B, n, C)`` of a block before, windows row by row.

        Returns:
            The new map and the new messengers.
        """
        check_map(x, self.dim)
        windows = self._windows(*x.shape[2:])
        count = windows.count
        if messengers.shape[1] != count or messengers.shape[2] != self.dim:
            raise ValueError(
                f"expected a messenger for each window, (B, {count}, {self.dim}), "
                f"got {tuple(messengers.shape)}"
            )
        cells = windows.split(self.qkv(layout.to_channels_last(x)))  # (B, n, T, 3C)
        tokens = torch.cat([self.qkv(messengers)[:, :, None].to(cells.dtype), cells], 2)
        tokens = tokens.flatten(0, 1).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = tokens.permute(2, 0, 3, 1, 4).unbind(0)  # (B*n, h, 1 + T, D)
        bias = self._bias(windows.size).to(q.dtype)[None]
        if not all(map(layout.is_known, windows.map)) or windows.padded != windows.map:
            bias = bias.masked_fill(~self._real(x, windows), float("-inf"))
        dropout_p = self.attn_drop if self.training else 0.0
        # Under torch.func transforms PyTorch takes a kernel without a gradient for the bias.
        kernels = sdpa_kernel(SDPBackend.MATH) if in_transform() else nullcontext()
        with kernels:
            y = scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout_p)
        y = layout.merge_heads(y.transpose(1, 2)).unflatten(0, (-1, count))  # (B, n, 1 + T, C)
        cells = self._finish(windows.merge(y[:, :, 1:]))
        return layout.to_channels_first(cells, like=x), self._finish(y[:, :, 0])

    def multiply_adds(self, height: int, width: int) -> int:
        windows = self._windows(height, width)
        tokens = math.prod(windows.size) + 1
        project = 4 * (height * width + windows.count) * self.dim**2
        return project + 2 * windows.count * tokens**2 * self.dim

    def _windows(self, height: int, width: int) -> Windows:
        return cut_into((height, width), self.window_size)

    def _bias(self, window: tuple[int, int]) -> Tensor:
        """``(h, 1 + T, 1 + T)``: the messenger first."""
        cells = table_bias(self.relative_position_bias_table, self.window_size, window)
        asked, asks = self.rel_pos_msg.unbind(1)  # (h, 1, 1) each
        cells = torch.cat([asked.expand(-1, cells.shape[1], 1), cells], 2)
        return torch.cat([asks.expand(-1, 1, cells.shape[2]), cells], 1)

    def _real(self, x: Tensor, windows: Windows) -> Tensor:
        """``(B*n, 1, 1, 1 + T)``: the messenger, and the cells that are inside the map."""
        cells = windows.split(x.new_ones(1, *x.shape[2:], 1))[0, :, :, 0] > 0  # (n, T)
        return F.pad(cells, (1, 0), value=True).repeat(x.shape[0], 1)[:, None, None]

    def _finish(self, y: Tensor) -> Tensor:
        return self.proj_drop(self.proj(y))

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the index table; the first messenger is the published network's, not its."""
        kept = {key: v for key, v in state.items() if key != "relative_position_index"}
        if self.messenger is None or "qkv.weight" not in kept:
            return kept
        return {"messenger": self.messenger.detach()} | kept


def shuffle_messengers(messengers: Tensor, grid: tuple[int, int], region: int) -> Tensor:
    """Exchange slices of channels among the messengers of each region of windows.

    A messenger has a slice for each window of its region, and gets from each the slice that is its
    own. Slices for windows beyond the grid stay where they are.

    Args:
        messengers: ``(B, n, C)``, windows row by row.
        grid: rows and columns of windows.
        region: rows and columns of windows in a region; its square divides C.

    Raises:
        ValueError: if the windows of a region do not divide the channels.
    """
    group, channels = region**2, messengers.shape[2]
    if channels % group:
        raise ValueError(
            f"the {group} windows of a region of {region} x {region} must divide the {channels} "
            "channels of a messenger"
        )
    padded = (layout.ceil_to_multiple(grid[0], region), layout.ceil_to_multiple(grid[1], region))
    down, across = padded[0] // region, padded[1] // region  # regions, with r x r windows each

    def regions(x: Tensor) -> Tensor:  # (B, rows, columns, .) -> (B, down, r, across, r, .)
        x = layout.pad_to_size(x, padded)
        return x.view(x.shape[0], down, region, across, region, x.shape[3])

    slices = regions(messengers.unflatten(1, grid)).unflatten(-1, (region, region, -1))
    mixed = slices.permute(0, 1, 5, 3, 6, 2, 4, 7)  # a window's place for that of its slice
    if not all(map(layout.is_known, padded)) or padded != grid:
        there = regions(messengers.new_ones(1, *grid, 1)) > 0
        there = there.permute(0, 1, 3, 2, 4, 5)  # (1, down, across, r, r, 1)
        mixed = torch.where(there[:, :, None, :, None], mixed, slices)
    merged = mixed.reshape(messengers.shape[0], *padded, channels)
    return layout.crop(merged, grid).flatten(1, 2)

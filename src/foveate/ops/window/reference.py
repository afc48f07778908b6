"""Window attention as it is defined, window by window: slow, plain, what the bodies must equal.

A map is cut into windows; a query at position p attends to the positions p' of its own window w:

    out(p) = sum over p' in w of softmax_p'(scale * q(p) . k(p') + bias[place(p), place(p')]) v(p')

where place counts the cells of a window row by row. A shift moves the windows down and right; cells
that come from two ends of the map are in windows of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.arguments import pair
from foveate.ops.window.windows import WindowSize, fitted

Cell = tuple[int, int, int]  # row and column on the map, place in the window


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: int | WindowSize,
    shift_size: int | tuple[int, int] = 0,
    *,
    spread: bool = False,
    bias: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Output in float64, differentiable; arguments as for the public function."""
    q, k, v = q.double(), k.double(), v.double()
    scale = q.shape[4] ** -0.5 if scale is None else scale
    sides = (window_size, window_size) if isinstance(window_size, int) else window_size
    size = fitted((q.shape[1], q.shape[2]), sides)
    shift = pair(shift_size, "shift_size", at_least=0)
    out = torch.zeros_like(v)
    for cells in _windows((q.shape[1], q.shape[2]), size, shift, spread):
        ys, xs, places = (torch.tensor(column) for column in zip(*cells, strict=True))
        query, key, value = (x[:, ys, xs].transpose(1, 2) for x in (q, k, v))  # (B, h, n, D)
        logits = query @ key.mT * scale
        if bias is not None:
            logits = logits + bias.double()[:, places[:, None], places]
        attended = (logits.softmax(-1) @ value).transpose(1, 2)  # (B, n, h, Dv)
        out = out.index_put((torch.arange(len(q))[:, None], ys, xs), attended)
    return out


def _windows(
    map_size: tuple[int, int], size: tuple[int, int], shift: tuple[int, int], spread: bool
) -> list[list[Cell]]:
    """The cells of every window; shifted windows are split where two ends of the map meet."""
    (height, width), (rows, columns), (down, across) = map_size, size, shift
    padded = -(-height // rows) * rows, -(-width // columns) * columns
    step_y, step_x = padded[0] // rows, padded[1] // columns
    found: dict[tuple, list[Cell]] = {}
    for y in range(height):
        for x in range(width):
            i, j = (y - down) % padded[0], (x - across) % padded[1]  # on the shifted map
            seam = (y < down, x < across)
            if spread:
                window, place = (i % step_y, j % step_x), (i // step_y, j // step_x)
            else:
                window, place = (i // rows, j // columns), (i % rows, j % columns)
            found.setdefault((*window, *seam), []).append((y, x, place[0] * columns + place[1]))
    return list(found.values())

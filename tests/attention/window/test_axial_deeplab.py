"""Position-sensitive axial attention (Axial-DeepLab): columns alone, and maps of other lengths."""

from __future__ import annotations

import pytest
import torch

from foveate.attention.window.axial_deeplab import AxialDeepLabAttention


def _settled(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def test_columns_are_attended_alone() -> None:
    module = _settled(AxialDeepLabAttention(16, 2, 5))
    x = torch.randn(2, 16, 5, 4)
    alone = torch.cat([module.along_columns(x[..., i : i + 1]) for i in range(4)], 3)
    torch.testing.assert_close(module.along_columns(x), alone)
    turned = _settled(AxialDeepLabAttention(16, 2, 5))
    turned.row.load_state_dict(module.column.state_dict())
    torch.testing.assert_close(turned.along_rows(x.mT), module.along_columns(x).mT)


@pytest.mark.parametrize("length", [3, 5, 8])
def test_offsets_beyond_the_span_share_the_last_vector(length: int) -> None:
    """A table written out for the whole line gives the same as the short one."""
    short, long = (AxialDeepLabAttention(16, 2, span) for span in (4, 8))
    short = _settled(short)
    state = short.state_dict()
    for key in ("column.relative", "row.relative"):
        table = state[key]  # offsets -3 to 3
        state[key] = torch.cat([table[:, :1].expand(-1, 4), table, table[:, -1:].expand(-1, 4)], 1)
    long.load_state_dict(state)
    x = torch.randn(2, 16, length, 3)
    torch.testing.assert_close(long.eval()(x), short(x))


def test_refusals() -> None:
    with pytest.raises(ValueError, match="must be even"):
        AxialDeepLabAttention(24, 8)
    with pytest.raises(ValueError, match="span"):
        AxialDeepLabAttention(16, 2, 0)

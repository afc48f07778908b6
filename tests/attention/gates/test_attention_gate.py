"""The attention gate: another map that gates, and volumes."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from foveate.analysis.flops import count_flops
from foveate.attention.gates.attention_gate import AttentionGate

DIM = 16


def test_attention_gate_listens_to_another_map() -> None:
    gate = AttentionGate(DIM, 6, output=True).eval()
    x, gating = torch.randn(1, DIM, 8, 10), torch.randn(1, 6, 3, 2)
    with FlopCounterMode(display=False) as counter:
        y = gate(x, gating)
    assert y.shape == x.shape
    assert gate.multiply_adds(8, 10, gating=(3, 2)) * 2 == counter.get_total_flops()
    assert not torch.equal(gate.gate(x, gating), gate.gate(x, -gating))
    with pytest.raises(ValueError, match="dim=6"):
        gate(x, x)


def test_attention_gate_of_a_volume_of_equal_slices_is_that_of_a_slice() -> None:
    flat, volume = AttentionGate(DIM, 6, stride=1), AttentionGate(DIM, 6, stride=1, volume=True)
    volume.load_state_dict(
        {key: v[:, :, None] if v.dim() == 4 else v for key, v in flat.state_dict().items()}
    )
    x, gating = torch.randn(2, DIM, 5, 6), torch.randn(2, 6, 3, 3)
    slices = [t[:, :, None].expand(-1, -1, 4, -1, -1) for t in (x, gating)]
    torch.testing.assert_close(volume(*slices), flat(x, gating)[:, :, None].expand_as(slices[0]))


@pytest.mark.parametrize("output", [False, True])
def test_attention_gate_of_a_volume_counts_its_cost(output: bool) -> None:
    gate = AttentionGate(DIM, stride=2, output=output, volume=True)
    x = torch.randn(1, DIM, 4, 6, 8)
    assert gate(x).shape == x.shape
    assert count_flops(gate, x) == 2 * gate.multiply_adds(4, 6, 8)
    with pytest.raises(ValueError, match="feature volume"):
        gate(x[0])

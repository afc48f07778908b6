"""What every gate owes its contract, with its options in turn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from foveate.attention.gates.attention_gate import AttentionGate
from foveate.attention.gates.bam import BAM
from foveate.attention.gates.bilinear import BilinearAttention
from foveate.attention.gates.cbam import CBAM
from foveate.attention.gates.coordinate import CoordinateAttention
from foveate.attention.gates.efficient_channel import EfficientChannelAttention
from foveate.attention.gates.relation_aware import RelationAwareAttention
from foveate.attention.gates.squeeze_excitation import SqueezeExcitation
from foveate.attention.gates.triplet import TripletAttention
from foveate.contracts import Gate

DIM = 16


GATES = {
    "squeeze_excitation": lambda: SqueezeExcitation(DIM, 4),
    "squeeze_excitation-max": lambda: SqueezeExcitation(DIM, 3, divisor=8, pool="max", bias=False),
    "squeeze_excitation-rows": lambda: SqueezeExcitation(DIM, over="width", pool="project"),
    "squeeze_excitation-attention": lambda: SqueezeExcitation(DIM, excitation="attention"),
    "cbam": lambda: CBAM(DIM, 4),
    "cbam-channel": lambda: CBAM(DIM, 4, spatial=False, pools=("lp", "lse"), bias=False),
    "cbam-spatial": lambda: CBAM(DIM, channel=False, kernel_size=3),
    "coordinate": lambda: CoordinateAttention(DIM, 4),
    "efficient_channel": lambda: EfficientChannelAttention(DIM),
    "bam": lambda: BAM(DIM, 4),
    "bam-sum": lambda: BAM(DIM, 4, dilation=2, fusion="sum"),
    "triplet": lambda: TripletAttention(DIM),
    "triplet-channel": lambda: TripletAttention(DIM, kernel_size=3, spatial=False),
    "relation_aware": lambda: RelationAwareAttention(DIM, (6, 5), channel_ratio=4),
    "relation_aware-channel": lambda: RelationAwareAttention(DIM, 6, spatial=False, down_ratio=2),
    "bilinear": lambda: BilinearAttention(DIM, 4),
    "attention_gate": lambda: AttentionGate(DIM),
    "attention_gate-range": lambda: AttentionGate(DIM, hidden=5, stride=1, normalize="range"),
    "attention_gate-flow": lambda: AttentionGate(DIM, batch_norm=True, normalize="flow"),
    "attention_gate-softmax": lambda: AttentionGate(DIM, softplus=True, normalize="softmax"),
}


every_gate = pytest.mark.parametrize("build", GATES.values(), ids=GATES)


def _settled(gate: nn.Module) -> nn.Module:
    """``gate`` with parameters and statistics away from where they start."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, value in gate.state_dict().items():
            if value.is_floating_point():
                value.add_(0.3 * torch.randn_like(value).abs_() * (1 if "var" in name else 0.8))
    return gate.eval()


@every_gate
def test_output_is_the_input_times_the_gate(build) -> None:
    gate: Gate = _settled(build())
    for size in ((2, DIM, 5, 9), (1, DIM, 1, 1), (0, DIM, 4, 3)):
        x = torch.randn(size)
        y = gate(x)
        assert y.shape == x.shape
        torch.testing.assert_close(y, x * gate.gate(x))


@every_gate
def test_memory_format_is_kept(build) -> None:
    gate = _settled(build())
    x = torch.randn(2, DIM, 6, 5)
    expected = gate(x)
    y = gate(x.contiguous(memory_format=torch.channels_last))
    assert expected.is_contiguous()
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected)


@every_gate
def test_closed_form_equals_the_counter(build) -> None:
    gate = build().eval()
    with FlopCounterMode(display=False) as counter:
        gate(torch.randn(1, DIM, 7, 10))
    assert gate.multiply_adds(7, 10) * 2 == counter.get_total_flops()


@every_gate
def test_gradients_in_training(build) -> None:
    gate = build()
    x = torch.randn(3, DIM, 4, 5, requires_grad=True)
    gate(x).square().sum().backward()
    for tensor in (x, *gate.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@pytest.mark.slow  # as registered they are compiled and exported by the common checks
@every_gate
def test_compiles_and_exports_whole(build) -> None:
    torch._dynamo.reset()
    gate = _settled(build())
    compiled = torch.compile(gate, fullgraph=True, dynamic=True, backend="eager")
    batch = torch.export.Dim("b", min=2)
    height, width = (torch.export.Dim(name, min=4) for name in ("h", "w"))
    exported = torch.export.export(
        gate, (torch.randn(2, DIM, 6, 7),), dynamic_shapes=({0: batch, 2: height, 3: width},)
    ).module()
    for size in ((2, DIM, 6, 7), (3, DIM, 9, 4)):
        x = torch.randn(size)
        torch.testing.assert_close(compiled(x), gate(x))
        torch.testing.assert_close(exported(x), gate(x))


@every_gate
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(build, dtype: torch.dtype) -> None:
    gate = _settled(build())
    x = torch.randn(2, DIM, 6, 7)
    expected: Tensor = gate(x)
    y = gate.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.05)


@every_gate
def test_refuses_other_maps(build) -> None:
    with pytest.raises(ValueError, match=f"dim={DIM}"):
        build()(torch.randn(1, DIM + 1, 4, 4))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SqueezeExcitation(DIM, 0), "reduction"),
        (lambda: SqueezeExcitation(DIM, pool="mean"), "unknown pool 'mean'"),
        (lambda: SqueezeExcitation(DIM, divisor=0), "divisor"),
        (lambda: SqueezeExcitation(DIM, over="columns"), "unknown over 'columns'"),
        (lambda: SqueezeExcitation(DIM, excitation="fc"), "unknown excitation 'fc'"),
        (lambda: SqueezeExcitation(DIM, kernel_size=4), "kernel_size must be odd"),
        (lambda: CBAM(DIM, channel=False, spatial=False), "channel gate, its spatial gate"),
        (lambda: CBAM(DIM, pools=()), "one or more of"),
        (lambda: CBAM(DIM, pools="avg"), "one or more of"),
        (lambda: CBAM(DIM, pools=("avg", "min")), "unknown pool 'min'"),
        (lambda: CBAM(DIM, kernel_size=4), "kernel_size must be odd, got 4"),
        (lambda: CoordinateAttention(0), "dim"),
        (lambda: CoordinateAttention(DIM, min_width=0), "min_width"),
        (lambda: EfficientChannelAttention(DIM, 4), "kernel_size must be odd, got 4"),
        (lambda: BAM(DIM, fusion="mean"), "unknown fusion 'mean'"),
        (lambda: RelationAwareAttention(DIM, spatial=False, channel=False), "spatial gate, its"),
        (lambda: RelationAwareAttention(DIM, size=(3, 0)), "size"),
        (lambda: BilinearAttention(DIM, -1), "reduction"),
        (lambda: AttentionGate(DIM, normalize="mean"), "unknown normalize 'mean'"),
        (lambda: AttentionGate(DIM, stride=0), "stride"),
        (lambda: TripletAttention(DIM, kernel_size=2), "kernel_size must be odd, got 2"),
    ],
)
def test_refuses_wrong_options(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()

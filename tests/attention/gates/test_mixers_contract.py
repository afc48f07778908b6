"""What the mixers of this room owe their contract, with their options in turn."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from foveate.attention.gates.dual import DualAttention
from foveate.attention.gates.residual_attention import ResidualAttention
from foveate.attention.gates.selective_kernel import SelectiveKernel
from foveate.contracts import Mixer

DIM = 24
MIXERS = {
    "dual": lambda: DualAttention(DIM),
    "dual-position": lambda: DualAttention(DIM, channel=False),
    "dual-channel": lambda: DualAttention(DIM, position=False),
    "residual_attention": lambda: ResidualAttention(DIM),
    "residual_attention-port": lambda: ResidualAttention(DIM, 2, trunk_blocks=1, variant="port"),
    "residual_attention-flat": lambda: ResidualAttention(DIM, 0),
    "selective_kernel": lambda: SelectiveKernel(DIM, groups=8),
    "selective_kernel-three": lambda: SelectiveKernel(
        DIM, groups=(1, 2, 3), dilations=(1, 2, 3), min_width=4
    ),
    "selective_kernel-split": lambda: SelectiveKernel(DIM, groups=1, split_input=True),
}
every_mixer = pytest.mark.parametrize("build", MIXERS.values(), ids=MIXERS)


def _settled(mixer: Mixer) -> Mixer:
    """``mixer`` with its gains away from zero, where some start."""
    torch.manual_seed(0)
    for name, parameter in mixer.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.constant_(parameter, 0.7)
    return mixer.eval()


@every_mixer
def test_shape_and_memory_format_are_kept(build) -> None:
    mixer = _settled(build())
    for size in ((2, DIM, 9, 13), (1, DIM, 1, 1), (3, DIM, 2, 1), (0, DIM, 4, 3)):
        x = torch.randn(size)
        y = mixer(x)
        assert y.shape == x.shape
        assert y.is_contiguous()
        last = mixer(x.contiguous(memory_format=torch.channels_last))
        assert not len(x) or last.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(last, y)


@every_mixer
@pytest.mark.parametrize("size", [(7, 10), (1, 3)])
def test_closed_form_equals_the_counter(build, size: tuple[int, int]) -> None:
    mixer = _settled(build())
    with FlopCounterMode(display=False) as counter:
        mixer(torch.randn(1, DIM, *size))
    assert mixer.multiply_adds(*size) * 2 == counter.get_total_flops()


@every_mixer
def test_gradients_in_training(build) -> None:
    mixer = build()
    x = torch.randn(3, DIM, 9, 8, requires_grad=True)
    mixer(x).square().sum().backward()
    for tensor in (x, *mixer.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@pytest.mark.slow  # as registered they are compiled and exported by the common checks
@every_mixer
def test_compiles_and_exports_whole(build) -> None:
    torch._dynamo.reset()
    mixer = _settled(build())
    compiled = torch.compile(mixer, fullgraph=True, dynamic=True, backend="eager")
    batch = torch.export.Dim("b", min=2)
    height, width = (torch.export.Dim(name, min=16) for name in ("h", "w"))
    exported = torch.export.export(
        mixer, (torch.randn(2, DIM, 17, 18),), dynamic_shapes=({0: batch, 2: height, 3: width},)
    ).module()
    for size in ((2, DIM, 17, 18), (3, DIM, 21, 16)):
        x = torch.randn(size)
        torch.testing.assert_close(compiled(x), mixer(x))
        torch.testing.assert_close(exported(x), mixer(x))


@every_mixer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(build, dtype: torch.dtype) -> None:
    mixer = _settled(build())
    x = torch.randn(2, DIM, 6, 7)
    expected = mixer(x)
    y = mixer.to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.2)


@every_mixer
def test_refuses_other_maps(build) -> None:
    with pytest.raises(ValueError, match=f"dim={DIM}"):
        build()(torch.randn(1, DIM + 1, 4, 4))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DualAttention(DIM, position=False, channel=False), "channel part or both"),
        (lambda: ResidualAttention(6), "dim must be a multiple of 4, got 6"),
        (lambda: ResidualAttention(DIM, -1), "levels must be at least 0, got -1"),
        (lambda: ResidualAttention(DIM, variant="caffe"), "unknown variant 'caffe'"),
        (lambda: SelectiveKernel(DIM, dilations=()), "one branch at least"),
        (lambda: SelectiveKernel(DIM, groups=5), "24 channels do not divide into groups=5"),
        (lambda: SelectiveKernel(DIM, groups=(1, 2, 3)), "groups must be one number or 2"),
        (
            lambda: SelectiveKernel(DIM, dilations=(1,) * 5, split_input=True),
            "does not split into 5",
        ),
        (lambda: SelectiveKernel(DIM, min_width=0), "min_width"),
    ],
)
def test_refuses_wrong_options(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()

"""A module whose linear layers are quantized still runs, and gives nearly the same."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from foveate.checks.running import check, outputs, require
from foveate.checks.subject import Subject

_TOLERANCE = 0.05


@check()
def check_quantized(subject: Subject) -> None:
    """``torch.ao.quantization.quantize_dynamic`` of the linear layers, to 8 bits."""
    module, inputs = subject.build(), subject.inputs((6, 5))
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # PyTorch says that it moves to torchao
        quantized = torch.ao.quantization.quantize_dynamic(module, {nn.Linear})
        pairs = zip(outputs(quantized, inputs), outputs(module, inputs), strict=True)
        for actual, expected in pairs:
            error = (actual - expected).square().mean().sqrt() / expected.square().mean().sqrt()
            require(
                error.item() <= _TOLERANCE,
                f"quantized, it differs by {error:.2g}, more than {_TOLERANCE:g}",
            )

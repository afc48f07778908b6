"""What the cases of whole networks record: logits, and of each stage a mean and a corner."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.published.golden import Golden


def summary(name: str, feature: Tensor) -> dict[str, Tensor]:
    """The mean and the first position of a map (B, C, H, W)."""
    return {f"{name}_mean": feature.mean((2, 3)), f"{name}_corner": feature[:, :, 0, 0]}


def after_downsampling(model: Any, golden: Golden) -> dict[str, Tensor]:
    """Logits, and what each published stage gives: it ends with what starts our next one."""
    x = golden.inputs["x"]
    outputs = {"logits": model(x)}
    features = model.forward_intermediates(x, intermediates_only=True)
    for index, feature in enumerate(features):
        last = index == len(features) - 1
        end = feature if last else model.stages[index + 1].downsample(feature)
        outputs |= summary(f"stage{index + 1}_out", end)
    return outputs

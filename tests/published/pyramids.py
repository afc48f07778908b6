"""What the cases of whole pyramids recorded: logits, and of every stage two views of its map."""

from __future__ import annotations

from torch import Tensor

from foveate.models import Backbone
from tests.published.golden import Golden


def means_and_corners(model: Backbone, golden: Golden, corner: str) -> dict[str, Tensor]:
    """Logits, and of every stage's map its mean over space and its first position.

    Args:
        model: ours.
        golden: the case.
        corner: what the case calls the first position.
    """
    last, maps = model.forward_intermediates(golden.inputs["x"])
    outputs = {"logits": model.forward_head(last)}
    for stage, x in enumerate(maps, 1):
        outputs[f"stage{stage}_mean"] = x.mean((2, 3))
        outputs[f"stage{stage}_{corner}"] = x[:, :, 0, 0]
    return outputs

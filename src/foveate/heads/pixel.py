"""What every segmentation head ends with: dropout of whole channels, and a class for every cell.

    logits = W dropout(x) + b

Published code: open-mmlab/mmsegmentation v1.2.2 ``BaseDecodeHead`` (Apache-2.0).
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from foveate.arguments import positive, probability
from foveate.published import convert_parts, rename


class PixelHead(nn.Module):
    """A segmentation head: maps to logits.

    Args:
        dim: channels of what is classified.
        num_classes: classes.
        dropout: of whole channels before the classifier.
    """

    reads_pyramid: ClassVar[bool] = False
    """Whether it reads several maps, the finest first, or one."""
    loss_weights: ClassVar[dict[str, float]] = {"out": 1.0}
    """What each of :meth:`outputs` counts in the loss, as published."""

    def __init__(self, dim: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        positive(dim, "dim")
        self.num_classes = positive(num_classes, "num_classes")
        self.dropout = nn.Dropout2d(probability(dropout, "dropout"))
        self.conv_seg = nn.Conv2d(dim, num_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        nn.init.zeros_(self.conv_seg.bias)

    def classify(self, x: Tensor) -> Tensor:
        """``(B, dim, h, w)`` to logits ``(B, num_classes, h, w)``."""
        return self.conv_seg(self.dropout(x))

    def outputs(self, features: Any) -> dict[str, Tensor]:
        """All that is learnt by, ``"out"`` being what :meth:`forward` gives."""
        return {"out": self(features)}

    def convert_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state of mmsegmentation's head, with or without the model's name for it."""
        return convert_parts(self, rename(state, [(r"^(decode|auxiliary)_head\.", "")]))

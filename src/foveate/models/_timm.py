"""What a network of timm's needs to be a backbone here: clear refusals, and published weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from foveate.models._backbone import State, check_images, check_output_format, convert_parts
from foveate.models._synchronised import KeepsActivations


class TimmBackbone(KeepsActivations):
    """Comes before timm's class among the bases; checks what it is given, then lets timm run."""

    # Written out, because symbolic tracing spares only functions that this file names.
    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """``(B, in_chans, H, W) -> (B, C, h, w)``: the last map."""
        check_images(x, self.in_chans)
        return super().forward_features(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        **kwargs: Any,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps that the stages give, as in timm.

        Raises:
            ValueError: if another format is asked for, or ``x`` is no such image.
        """
        check_output_format(output_fmt)
        check_images(x, self.in_chans)
        return super().forward_intermediates(
            x, indices, norm, stop_early, output_fmt, intermediates_only, **kwargs
        )

    def no_weight_decay(self) -> set[str]:
        """Names of parameters, beside biases and norms, that weight decay should spare."""
        return set()

    def convert_published(self, state: State) -> State:
        """The published implementation's state under the names and layouts of this one."""
        return convert_parts(self, state)

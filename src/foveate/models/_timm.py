"""A base for backbones built on a class of timm's: checked inputs, and published weights."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from foveate.models._backbone import State, check_images, check_output_format, convert_parts
from foveate.models._synchronised import KeepsActivations


class TimmBackbone(KeepsActivations):
    """Checks the inputs, then calls timm's class, which follows it among the bases."""

    # The same as timm's. Symbolic tracing takes check_images as one step only where it is a global
    # of the file that defines the model's forward, so forward has to be defined in this file.
    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """``(B, in_chans, H, W) -> (B, C, h, w)``: the last map."""
        check_images(x, self.in_chans)
        return super().forward_features(self.laid_out(x))

    def laid_out(self, x: Tensor) -> Tensor:
        """Images in the memory format that the network computes in, where a family has one."""
        return x

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
            self.laid_out(x), indices, norm, stop_early, output_fmt, intermediates_only, **kwargs
        )

    def no_weight_decay(self) -> set[str]:
        """Names of parameters, beside biases and norms, to which no weight decay applies."""
        return set()

    def convert_published(self, state: State) -> State:
        """The published implementation's state under the names and layouts of this one."""
        return convert_parts(self, state)

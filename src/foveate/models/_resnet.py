"""Timm's ResNet with what every backbone here has: clear refusals and published weights.

    images (B, in_chans, H, W) -> conv1, max-pool -> layer1 .. layer4 -> pool -> fc

Maps stand at 1/2 (the stem), 1/4, 1/8, 1/16 and 1/32 of the image, rounded up.
"""

from __future__ import annotations

from timm.models.resnet import ResNet
from torch import Tensor, nn

from foveate.models._backbone import State, check_images, convert_parts


class CheckedResNet(ResNet):
    """Timm's ``ResNet``, whose arguments it takes."""

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
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The stem's map and those that the stages give, as in timm.

        Raises:
            ValueError: if another format is asked for, or ``x`` is no such image.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        check_images(x, self.in_chans)
        return super().forward_intermediates(
            x, indices, norm, stop_early, output_fmt, intermediates_only
        )

    # Written out, because symbolic tracing spares only functions that this file names.
    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def no_weight_decay(self) -> set[str]:
        """Names of parameters, beside biases and norms, that weight decay should spare."""
        return set()

    def convert_published(self, state: State) -> State:
        """The published implementation's state under the names and layouts of this one."""
        return convert_parts(self, state)


def stages(model: ResNet) -> list[nn.Sequential]:
    """The four stages, ``layer1`` to ``layer4``."""
    return [model.layer1, model.layer2, model.layer3, model.layer4]


def for_small_images(model: ResNet) -> None:
    """Give ``model`` the stem for 32x32 images: a 3x3 convolution at full size, no pooling."""
    old = model.conv1
    model.conv1 = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    for info, reduction in zip(model.feature_info, (1, 1, 2, 4, 8), strict=True):
        info["reduction"] = reduction

"""What heads share that say of every anchor whether an object is there, and where it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from foveate.heads._layers import check_maps, single
from foveate.heads.anchors import Anchors, Size
from foveate.heads.boxes import Assigner

Target = dict[str, Tensor]


class Outputs(NamedTuple):
    """What a head says of every anchor, one entry a map."""

    logits: list[Tensor]  # (B, A K, h, w)
    offsets: list[Tensor]  # (B, A 4, h, w)

    @property
    def sizes(self) -> list[Size]:
        """Heights and widths of the maps."""
        return [x.shape[2:] for x in self.logits]


class Images(NamedTuple):
    """Sizes of the images of a batch, before and after what is alone padded to strides."""

    sizes: list[Size]
    padded: list[Size]


class AnchorHead(nn.Module):
    """A head on anchors.

    Args:
        in_channels: channels of every map.
        anchors: around every cell.
        assigner: which object each anchor is for.
        inside_only: whether anchors that stick out of the image count neither way.
    """

    def __init__(
        self, in_channels: int, anchors: Anchors, assigner: Assigner, *, inside_only: bool = False
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.anchors = anchors
        self.assigner = assigner
        self.inside_only = inside_only

    def forward(self, features: Sequence[Tensor]) -> Outputs:
        """What is said of every anchor, from maps ``(B, in_channels, h, w)``, the finest first."""
        check_maps(features, [self.in_channels] * len(self.anchors.strides))
        logits, offsets = zip(*(self.of_map(x) for x in features), strict=True)
        return Outputs(list(logits), list(offsets))

    def of_map(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and offsets of one map's anchors."""
        raise NotImplementedError

    def by_anchor(self, maps: Sequence[Tensor], channels: int) -> list[Tensor]:
        """Maps ``(B, A channels, h, w)`` as ``(B, h w A, channels)``, in float32 at least."""
        return [single(x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, channels)) for x in maps]

    def assigned(
        self, outputs: Outputs, boxes: Sequence[Tensor], images: Images
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """All anchors by map, and for each image 1 + the object of each anchor, 0, or -1.

        Returns:
            The anchors, one ``(h w A, 4)`` a map; ``(B, N)``; the boxes ``(B, N, 4)`` of the
            objects, of what is for one.
        """
        device = outputs.logits[0].device
        grid = self.anchors.grid(outputs.sizes, device)
        anchors = torch.cat(grid)
        chosen, wanted = [], []
        for index, objects in enumerate(boxes):
            counts = torch.cat(self.anchors.on_image(outputs.sizes, images.padded[index], device))
            if self.inside_only:
                height, width = images.sizes[index]
                counts &= (anchors[:, :2] >= 0).all(1)
                counts &= (anchors[:, 2] < width) & (anchors[:, 3] < height)
                if not counts.any():
                    raise ValueError(
                        f"no anchor lies inside images[{index}], of {height}x{width} pixels: "
                        "take larger images, or smaller anchors"
                    )
            inside = counts.nonzero().flatten()
            which = chosen_of = torch.full_like(counts, -1, dtype=torch.long)
            chosen_of[inside] = self.assigner(objects, anchors[inside])[0]
            chosen.append(which)
            background = objects.new_zeros(1, 4)
            wanted.append(torch.cat([background, objects])[which.clamp_min(0)])
        return grid, torch.stack(chosen), torch.stack(wanted)


def sums_by_map(values: Tensor, grid: Sequence[Tensor]) -> Tensor:
    """``(B, N)`` summed over all images and each map's anchors: one number a map."""
    return torch.stack([part.sum() for part in values.sum(0).split([len(g) for g in grid])])

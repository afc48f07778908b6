"""Boxes and masks of objects: the publications' heads on any backbone of timm.

    maps = backbone(images), normed if the family's published networks norm them
    pyramid = neck(maps),   losses or detections = head(pyramid)

The interface is torchvision's: a list of images (C, H, W) of any sizes, and in training a list of
dicts with ``"boxes"`` (N, 4) as x1, y1, x2, y2 in pixels, ``"labels"`` (N,) and for masks
``"masks"`` (N, H, W); out come a dict of losses, in evaluation a list of dicts with ``"boxes"``,
``"scores"``, ``"labels"`` and ``"masks"`` (N, 1, H, W), probabilities. One thing is not
torchvision's: **labels are 0 to num_classes - 1**, as in mmdetection; background has no label.

Images are neither resized nor normalised: their pixels are those of boxes. Those of a batch are
padded with zeros at the bottom and the right to one size, a multiple of the coarsest stride of the
backbone. Objects whose ``"iscrowd"`` is set are not learnt by.

Checkpoints of mmdetection 2 and 3 load by :func:`foveate.load_published` where the backbone reads
its own publication's names. Their classes are in the order of these labels.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import nearest, one_of, positive
from foveate.heads import FPN, RetinaHead
from foveate.heads._anchor_head import Images, Target
from foveate.heads.anchors import Anchors, octaves
from foveate.models._backbone import State
from foveate.models._encoder import Encoder, PyramidModel, create_encoder
from foveate.models._targets import check_batch, check_targets
from foveate.published import convert_parts, rename


class Detector(PyramidModel):
    """A backbone, a feature pyramid and what stands on it.

    Args:
        encoder: the backbone, and how it is read.
        neck: the pyramid.
        num_classes: classes, background not among them.
    """

    needs_masks = False
    """Whether targets must have masks."""

    def __init__(self, encoder: Encoder, neck: FPN, num_classes: int) -> None:
        super().__init__(encoder)
        self.neck = neck
        self.num_classes = positive(num_classes, "num_classes")
        self.in_chans: int = getattr(encoder.network, "in_chans", 3)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Target]:
        """Losses in training, whose sum is to be minimised; detections in evaluation.

        Args:
            images: ``(C, H, W)`` each, or one tensor ``(B, C, H, W)``.
            targets: one dict an image; not read in evaluation.

        Raises:
            TypeError: if an image or a target is of the wrong type.
            ValueError: if one is of the wrong shape, a box is empty or outside, or a label is out
                of range; the image is named by its place in the list.
        """
        check_batch(images, self.in_chans)
        if not self.training:
            return self.detect(*self._read(images))
        if targets is None:
            raise ValueError("targets are needed in training; call model.eval() for detections")
        targets = check_targets(images, targets, self.num_classes, masks=self.needs_masks)
        return self.losses(*self._read(images), targets)

    def losses(
        self, pyramid: list[Tensor], images: Images, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """All that is learnt by."""
        raise NotImplementedError

    def detect(self, pyramid: list[Tensor], images: Images) -> list[Target]:
        """What is found in each image, the best first."""
        raise NotImplementedError

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """Images of one size to the maps of the pyramid, the finest first."""
        maps = {str(level): y for level, y in enumerate(self.features(x))}
        return list(self.neck(maps).values())

    def _read(self, images: Sequence[Tensor]) -> tuple[list[Tensor], Images]:
        step = max(self.multiple, *self.strides)
        sizes = [tuple(x.shape[1:]) for x in images]
        padded = [tuple(-(-side // step) * step for side in size) for size in sizes]
        height, width = (max(sides) for sides in zip(*padded, strict=True))
        x = torch.stack([F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in images])
        return self.pyramid(x), Images(sizes, padded)

    def convert_published(self, state: State) -> State:
        """The state of mmdetection's model; norms of maps that nothing reads are left out."""
        state = rename(state, self.encoder_rules(state))
        state = {name: value for name, value in state.items() if not name.startswith("norms.-")}
        return convert_parts(self, state)


class RetinaNet(Detector):
    """Dense detection: anchors on five maps, each classified (Lin et al., ICCV 2017).

    Args:
        encoder: the backbone, and how it is read.
        neck: the pyramid.
        head: on every map of it.
    """

    def __init__(self, encoder: Encoder, neck: FPN, head: RetinaHead) -> None:
        super().__init__(encoder, neck, head.num_classes)
        self.bbox_head = head

    def losses(
        self, pyramid: list[Tensor], images: Images, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        losses = self.bbox_head.loss(self.bbox_head(pyramid), targets, images)
        return {name: of_maps.sum() for name, of_maps in losses.items()}

    def detect(self, pyramid: list[Tensor], images: Images) -> list[Target]:
        return self.bbox_head.detect(self.bbox_head(pyramid), images)

    def dense(self, x: Tensor) -> Any:
        """Every layer once, on images of one size: what publications count the cost of."""
        return self.bbox_head(self.pyramid(x))


def _retinanet(
    encoder: Encoder,
    num_classes: int,
    *,
    dim: int = 256,
    num_convs: int = 4,
    coarser: str = "input",
    relu: bool = False,
    anchor_scale: float = 4.0,
    score_threshold: float = 0.05,
    nms_threshold: float = 0.5,
    detections: int = 100,
) -> RetinaNet:
    neck = FPN(encoder.channels, dim, coarser=coarser, relu=relu)
    strides = tuple(encoder.strides)
    further = 1 if coarser == "pool" else 2
    strides += tuple(strides[-1] * 2**i for i in range(1, further + 1))
    head = RetinaHead(
        dim,
        num_classes,
        dim=dim,
        num_convs=num_convs,
        anchors=Anchors(strides, octaves(anchor_scale, 3)),
        score_threshold=score_threshold,
        nms_threshold=nms_threshold,
        detections=detections,
    )
    return RetinaNet(encoder, neck, head)


_BUILDERS: dict[str, tuple[Callable[..., Detector], tuple[int, ...]]] = {
    "retinanet": (_retinanet, (8, 16, 32)),
}


def list_detectors() -> list[str]:
    """Names of the detectors that :func:`create_detector` takes."""
    return sorted(_BUILDERS)


def create_detector(
    name: str,
    backbone: str | nn.Module,
    num_classes: int = 80,
    *,
    out_indices: Sequence[int] | None = None,
    feature_norm: bool | None = None,
    head_options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Detector:
    """A detector of :func:`list_detectors` on a backbone of timm.

    Args:
        name: ``"retinanet"``.
        backbone: name of one of timm's models, this library's among them; or one that was built
            with ``features_only=True``, as it is or with mechanisms inserted.
        num_classes: classes; labels are 0 to ``num_classes - 1``, background is not among them.
        out_indices: levels of the backbone to read, where not those at the publication's strides.
        feature_norm: whether each map passes a layer norm; as in the published networks of the
            backbone's family if None.
        head_options: RetinaNet: ``dim`` (256), ``num_convs`` (4), ``coarser`` (``"input"``; what
            the coarser maps are made of, see :class:`~foveate.heads.FPN`), ``relu`` (False),
            ``anchor_scale`` (4 strides). All: ``score_threshold`` (0.05), ``nms_threshold``
            (0.5), ``detections`` (100 an image).
        **kwargs: of the backbone, such as ``pretrained=True``, ``in_chans`` or ``drop_path_rate``.
            Unless given here, what the family's published networks for dense predictions have is
            taken (PVT: no class token).

    Raises:
        TypeError: if the backbone is no pyramid of timm's.
        ValueError: if a name is unknown, or the backbone gives fewer maps than are read.

    Example:
        >>> model = create_detector("retinanet", "pvt_small", num_classes=80)
    """
    build, strides = _BUILDERS[one_of(name, _BUILDERS, "detector")]
    positive(num_classes, "num_classes")
    options = dict(head_options or {})
    _, _, *known = inspect.signature(build).parameters
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}{nearest(option, known)}")
    encoder = create_encoder(
        backbone, strides, out_indices=out_indices, feature_norm=feature_norm, **kwargs
    )
    return build(encoder, num_classes, **options)

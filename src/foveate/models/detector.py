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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import nearest, one_of, positive
from foveate.heads import FPN, BoxHead, MaskHead, RetinaHead, RoIHead, RPNHead
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

    def check_origin(self, meta: Mapping[str, Any]) -> None:
        """Refuse weights of mmdetection 1: the same names, but boxes are a pixel wider there.

        Raises:
            ValueError: if a checkpoint's ``"meta"`` says that it is of mmdetection 1 or before.
        """
        version = str(meta.get("mmdet_version", ""))
        if version.startswith(("0.", "1.")):
            raise ValueError(
                f"these weights are of mmdetection {version}, where boxes are a pixel wider and "
                "background is the first class; those of mmdetection 2 and 3 are read"
            )

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


class RCNN(Detector):
    """Proposals, each looked at: Faster, Mask and Cascade Mask R-CNN.

    Args:
        encoder: the backbone, and how it is read.
        neck: the pyramid, one map of which, the coarsest, is for proposals alone.
        rpn_head: gives the proposals.
        roi_head: looks at them.
        learnt: proposals of an image at most that the stages learn by.
    """

    def __init__(
        self, encoder: Encoder, neck: FPN, rpn_head: RPNHead, roi_head: RoIHead, *, learnt: int
    ) -> None:
        super().__init__(encoder, neck, roi_head.num_classes)
        self.rpn_head = rpn_head
        self.roi_head = roi_head
        self.learnt = learnt
        self.needs_masks = len(roi_head.mask_head) > 0

    def losses(
        self, pyramid: list[Tensor], images: Images, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        outputs = self.rpn_head(pyramid)
        losses = self.rpn_head.loss(outputs, targets, images)
        found = self.rpn_head.propose(outputs, images, of_map=2000, number=self.learnt)
        proposals = [of_image["boxes"] for of_image in found]
        of_regions = self.roi_head.loss(pyramid[:-1], proposals, targets, images)
        return {name: of_maps.sum() for name, of_maps in losses.items()} | of_regions

    def detect(self, pyramid: list[Tensor], images: Images) -> list[Target]:
        found = self.rpn_head.propose(self.rpn_head(pyramid), images, of_map=1000, number=1000)
        proposals = [of_image["boxes"] for of_image in found]
        return self.roi_head.detect(pyramid[:-1], proposals, images)

    def dense(self, x: Tensor) -> Any:
        """Every layer once, on images of one size, 1,000 regions and 100 masks.

        This is what publications count the cost of; nothing is detected.
        """
        pyramid = self.pyramid(x)
        channels = pyramid[0].shape[1]
        said = [self.rpn_head(pyramid)]
        said += [head(x.new_zeros(1000, channels, 7, 7)) for head in self.roi_head.bbox_head]
        said += [head(x.new_zeros(100, channels, 14, 14)) for head in self.roi_head.mask_head]
        return said


@dataclass(frozen=True)
class _Stages:
    """What Faster, Mask and Cascade Mask R-CNN differ by, as mmdetection configures them."""

    masks: bool = False
    overlaps: tuple[float, ...] = (0.5,)
    weights: tuple[float, ...] = (1.0,)
    stds: tuple[tuple[float, ...], ...] = ((0.1, 0.1, 0.2, 0.2),)
    low_quality: bool = False
    learnt: int = 1000
    beta: float = 0.0
    inside_only: bool = False
    box_head: str = "shared2fc"
    class_agnostic: bool = False
    distance: str = "l1"


_FASTER = _Stages()
_MASK = _Stages(masks=True, low_quality=True)
_CASCADE = _Stages(
    masks=True,
    overlaps=(0.5, 0.6, 0.7),
    weights=(1.0, 0.5, 0.25),
    stds=((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067)),
    learnt=2000,
    beta=1 / 9,
    inside_only=True,
    box_head="conv4fc1",
    distance="giou",
)
_BOX_HEADS = {
    "shared2fc": {"num_convs": 0, "num_fcs": 2},
    "conv4fc1": {"num_convs": 4, "num_fcs": 1},
}


def _retinanet(
    encoder: Encoder,
    num_classes: int,
    *,
    dim: int = 256,
    num_convs: int = 4,
    coarser: str = "input",
    relu: bool = False,
    anchor_scale: float = 4.0,
    **found: Any,
) -> RetinaNet:
    neck = FPN(encoder.channels, dim, coarser=coarser, relu=relu)
    strides = _coarser(encoder.strides, 1 if coarser == "pool" else 2)
    anchors = Anchors(strides, octaves(anchor_scale, 3))
    head = RetinaHead(dim, num_classes, dim=dim, num_convs=num_convs, anchors=anchors, **found)
    return RetinaNet(encoder, neck, head)


def _rcnn(
    encoder: Encoder,
    num_classes: int,
    stages: _Stages,
    *,
    dim: int = 256,
    fc_dim: int = 1024,
    box_head: str | None = None,
    class_agnostic: bool | None = None,
    distance: str | None = None,
    anchor_scale: float = 8.0,
    **found: Any,
) -> RCNN:
    given = {"box_head": box_head, "class_agnostic": class_agnostic, "distance": distance}
    stages = replace(stages, **{name: x for name, x in given.items() if x is not None})
    layers = _BOX_HEADS[one_of(stages.box_head, _BOX_HEADS, "box_head")]
    box_heads = [
        BoxHead(
            dim,
            num_classes,
            conv_dim=dim,
            dim=fc_dim,
            class_agnostic=stages.class_agnostic,
            stds=stds,
            distance=stages.distance,
            **layers,
        )
        for stds in stages.stds
    ]
    mask_heads = [MaskHead(dim, num_classes, dim=dim) for _ in stages.stds if stages.masks]
    roi_head = RoIHead(
        box_heads,
        mask_heads,
        strides=encoder.strides,
        overlaps=stages.overlaps,
        weights=stages.weights,
        low_quality=stages.low_quality,
        **found,
    )
    anchors = Anchors(_coarser(encoder.strides, 1), (anchor_scale,))
    rpn_head = RPNHead(
        dim, dim=dim, anchors=anchors, beta=stages.beta, inside_only=stages.inside_only
    )
    neck = FPN(encoder.channels, dim, coarser="pool")
    return RCNN(encoder, neck, rpn_head, roi_head, learnt=stages.learnt)


def _coarser(strides: Sequence[int], number: int) -> tuple[int, ...]:
    """``strides`` and as many further ones, each twice the last."""
    return (*strides, *(strides[-1] * 2**power for power in range(1, number + 1)))


@dataclass(frozen=True)
class _Kind:
    """What a detector asks for.

    Attributes:
        build: makes it, from the encoder, the classes and its options.
        strides: of the maps that it reads.
        options: what it knows, beside those of what is found.
    """

    build: Callable[..., Detector]
    strides: tuple[int, ...]
    options: tuple[str, ...]


_FOUND = ("score_threshold", "nms_threshold", "detections")
_RETINA = ("dim", "num_convs", "coarser", "relu", "anchor_scale", *_FOUND)
_RCNN = ("dim", "fc_dim", "box_head", "class_agnostic", "distance", "anchor_scale", *_FOUND)
_PYRAMID = (4, 8, 16, 32)
_KINDS = {
    "cascade_mask_rcnn": _Kind(partial(_rcnn, stages=_CASCADE), _PYRAMID, _RCNN),
    "faster_rcnn": _Kind(partial(_rcnn, stages=_FASTER), _PYRAMID, _RCNN),
    "mask_rcnn": _Kind(partial(_rcnn, stages=_MASK), _PYRAMID, _RCNN),
    "retinanet": _Kind(_retinanet, (8, 16, 32), _RETINA),
}


def list_detectors() -> list[str]:
    """Names of the detectors that :func:`create_detector` takes."""
    return sorted(_KINDS)


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
        name: ``"retinanet"``, ``"faster_rcnn"``, ``"mask_rcnn"`` or ``"cascade_mask_rcnn"``.
        backbone: name of one of timm's models, this library's among them; or one that was built
            with ``features_only=True``, as it is or with mechanisms inserted.
        num_classes: classes; labels are 0 to ``num_classes - 1``, background is not among them.
        out_indices: levels of the backbone to read, where not those at the publication's strides.
        feature_norm: whether each map passes a layer norm; as in the published networks of the
            backbone's family if None.
        head_options: of all: ``dim`` (256 channels), ``anchor_scale`` (side of the smallest
            anchor in strides: 4, of R-CNNs 8), ``score_threshold`` (0.05), ``nms_threshold``
            (0.5), ``detections`` (100 an image). RetinaNet: ``num_convs`` (4), ``coarser``
            (``"input"``: what the coarser maps are made of, see :class:`~foveate.heads.FPN`) and
            ``relu`` (False). R-CNNs: ``box_head``, ``class_agnostic`` and ``distance`` (see
            :class:`~foveate.heads.BoxHead`) and ``fc_dim`` (1024). Faster and Mask R-CNN have
            ``"shared2fc"``, a place for each class and ``"l1"``; Cascade Mask R-CNN has
            ``"conv4fc1"``, a place for each class and ``"giou"``, as Swin, NAT, CSWin and Slide
            have it. The plain one of mmdetection, and PVT's, is ``{"box_head": "shared2fc",
            "class_agnostic": True, "distance": "smooth_l1"}``.
        **kwargs: of the backbone, such as ``pretrained=True``, ``in_chans`` or ``drop_path_rate``.
            Unless given here, what the family's published networks for dense predictions have is
            taken (PVT: no class token).

    Raises:
        TypeError: if the backbone is no pyramid of timm's.
        ValueError: if a name is unknown, or the backbone gives fewer maps than are read.

    Example:
        >>> model = create_detector("retinanet", "pvt_small", num_classes=80)
    """
    kind = _KINDS[one_of(name, _KINDS, "detector")]
    positive(num_classes, "num_classes")
    options = dict(head_options or {})
    for option in options:
        if option not in kind.options:
            raise ValueError(f"{name} has no option {option!r}{nearest(option, kind.options)}")
    encoder = create_encoder(
        backbone, kind.strides, out_indices=out_indices, feature_norm=feature_norm, **kwargs
    )
    return kind.build(encoder, num_classes, **options)

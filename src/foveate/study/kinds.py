"""What a study may be for, and what follows for its plan: metrics, settings, and how data are read.

What trials do for each is in :mod:`foveate.study.tasks`, which imports PyTorch; this does not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from foveate.metrics import (
    ACCURACY,
    AP,
    AP50,
    AP75,
    BALANCED_ACCURACY,
    MASK_AP,
    MASK_AP50,
    MEAN_CLASS_ACCURACY,
    MEAN_DICE,
    MEAN_IOU,
    PIXEL_ACCURACY,
    Metric,
)

if TYPE_CHECKING:
    from foveate.data.images import ImageSet


class Kind(NamedTuple):
    """What a study is for.

    Attributes:
        metrics: that it can judge by; the first one unless the plan says otherwise.
        own: settings that mean something for it alone.
        size: of images, where they are not the embedded ones and the plan says nothing.
        prepare: reads the data of a plan into a directory, telling how far it is.
        load: what was prepared there.
        head: what stands on the host, where the plan says nothing.
        needs: what its data are, in words; none where embedded images serve.
    """

    metrics: tuple[Metric, ...]
    own: tuple[str, ...]
    size: tuple[int, int]
    prepare: Callable[[Path, Any, Callable[[int, int], None] | None], ImageSet]
    load: Callable[[Path], ImageSet]
    head: str | None = None
    needs: str | None = None


def _labelled(directory: Path, plan: Any, progress: Any) -> ImageSet:
    from foveate.data.images import prepare

    return prepare(
        directory,
        plan.data,
        plan.image_size or (0, 0),
        root=plan.data_root,
        limit=plan.limit,
        duplicates=plan.duplicates,
        cache=plan.cache,
        progress=progress,
    )


def _masked(directory: Path, plan: Any, progress: Any) -> ImageSet:
    from foveate.data.images import prepare_masks

    return prepare_masks(
        directory,
        plan.data,
        plan.image_size or (0, 0),
        ignored=plan.ignore_label,
        limit=plan.limit,
        duplicates=plan.duplicates,
        progress=progress,
    )


def _annotated(directory: Path, plan: Any, progress: Any) -> ImageSet:
    from foveate.data.detection import prepare_detection

    return prepare_detection(
        directory,
        plan.data,
        plan.image_size or (0, 0),
        root=plan.data_root,
        masks=plan.masks or "none",
        limit=plan.limit,
        duplicates=plan.duplicates,
        cache=plan.cache,
        progress=progress,
    )


def _load(directory: Path) -> ImageSet:
    from foveate.data.images import load

    return load(directory)


def _load_annotated(directory: Path) -> ImageSet:
    from foveate.data.detection import load_detection

    return load_detection(directory)


MASK_METRICS = (MASK_AP, MASK_AP50)
MASK_HEADS = ("mask_rcnn", "cascade_mask_rcnn")
"""Heads of detection that find masks as well."""

KINDS = {
    "classification": Kind(
        metrics=(ACCURACY, BALANCED_ACCURACY),
        own=("label_smoothing", "mixup", "cutmix", "data_root", "cache"),
        size=(64, 64),
        prepare=_labelled,
        load=_load,
    ),
    "segmentation": Kind(
        metrics=(MEAN_IOU, PIXEL_ACCURACY, MEAN_CLASS_ACCURACY, MEAN_DICE),
        own=("head", "head_kwargs", "ignore_label", "class_weights", "dice", "window"),
        size=(128, 128),
        prepare=_masked,
        load=_load,
        head="semantic_fpn",
        needs="masks, and data is {}: give a folder of images and masks",
    ),
    "detection": Kind(
        metrics=(AP, AP50, AP75, *MASK_METRICS),
        own=("head", "head_kwargs", "masks", "data_root", "cache"),
        size=(192, 192),
        prepare=_annotated,
        load=_load_annotated,
        head="retinanet",
        needs="objects, and data is {}: give a folder with annotations (COCO, Pascal VOC or YOLO)",
    ),
}
"""By the word that a plan has for it."""

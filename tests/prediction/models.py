"""Small trained models with the images that were held out, made without a whole study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from foveate.data.detection import DetectionSet, prepare_detection
from foveate.data.images import prepare, prepare_masks
from foveate.models import create_detector
from foveate.saved.info import Architecture, ImageInput, ModelInfo
from foveate.study.plan import Plan, complete, read_plan
from foveate.study.records import Records
from foveate.study.trial import run_trial
from foveate.training.checkpoint import save_weights
from tests.data.annotated import make_coco


def trial(root: Path, **settings: Any) -> tuple[Plan, Path]:
    """A trial of one mechanism, trained in this process; its plan and its folder."""
    fixed = {"seeds": [0], "controls": [], "workers": 1, "threads": 1, "device": "cpu"}
    plan = complete(read_plan({**fixed, **settings}))
    size = plan.image_size or (0, 0)
    if plan.task == "segmentation":
        prepare_masks(root / "data", plan.data, size, ignored=plan.ignore_label)
    else:
        prepare(root / "data", plan.data, size)
    entry = plan.entries[0]
    run_trial(root, plan, entry, 0, lambda event: None)
    return plan, Records(root).trial_folder(entry.key, 0)


def detector(root: Path, masks: bool = False) -> tuple[torch.nn.Module, DetectionSet, ModelInfo]:
    """An untrained detector of a prepared set, in ``model.safetensors`` of ``root``."""
    kind = "given" if masks else "none"
    images = prepare_detection(root / "data", str(make_coco(root / "coco")), (48, 48), masks=kind)
    name = "mask_rcnn" if masks else "retinanet"
    head = {"dim": 8, "score_threshold": 0.0, "detections": 6, **({"fc_dim": 8} if masks else {})}
    torch.manual_seed(0)
    model = create_detector(name, "resnet10t", len(images.classes), head_options=head).eval()
    mean, std, _ = images.moments
    info = ModelInfo(
        task="detection",
        architecture=Architecture("detector", "resnet10t", {}, name, head),
        classes=tuple(images.classes),
        input=ImageInput(3, (48, 48), "inside", mean, std, images.side, images.ranges),
        categories=images.categories,
    )
    save_weights(model, root / "model.safetensors", info)
    return model, images, info

"""Figures of detection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from foveate.tasks.detection_metrics import AveragePrecision
from tests.published.golden import Golden, Row


def _figures(metric: AveragePrecision, golden: Golden) -> dict[str, Tensor]:
    """The case holds -1 where there is no figure, and category ids where ours holds labels."""
    ids = golden.kwargs["category_ids"]
    for number in golden.kwargs["images"]:
        predicted = _target(golden.inputs["dets"], number, ids)
        target = _target(golden.inputs["gts"], number, ids)
        last = golden.inputs["dets"][golden.inputs["dets"][:, 0] == number, 6]
        metric.update([{**predicted, "scores": last}], [target])
    evidence = metric.evidence
    curves = torch.from_numpy(evidence.curves())  # (K, T, R)
    figures: Any = metric.compute().values()
    return {
        "stats": torch.tensor(list(figures), dtype=torch.float64).nan_to_num(-1),
        "ap_per_category": curves.mean((1, 2)).nan_to_num(-1),
        "ap_per_iou": curves.mean(2).nanmean(0),
        "precision_iou50": curves[:, 0].T.nan_to_num(-1),
    }


def _target(rows: Tensor, number: int, ids: list[int]) -> dict[str, Tensor]:
    rows = rows[rows[:, 0] == number]
    return {
        "boxes": torch.cat([rows[:, 2:4], rows[:, 2:4] + rows[:, 4:6]], 1),
        "labels": torch.tensor([ids.index(int(each)) for each in rows[:, 1]], dtype=torch.int64),
        "iscrowd": rows[:, 6] == 1,
        "area": rows[:, 4] * rows[:, 5],
        "image_id": torch.tensor(number),
    }


ROWS = [
    Row(
        "coco_eval_edge",
        lambda category_ids, **_: AveragePrecision(len(category_ids)),
        _figures,
        tolerance=1e-7,
    )
]

"""Detection heads, and what they are built of."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foveate.heads import FPN, Anchors, Assigner, RetinaHead
from foveate.heads._anchor_head import Images
from foveate.heads.anchors import octaves
from foveate.heads.boxes import decode, encode
from tests.published.golden import Golden, Row

EXACT = 1e-5
CPU = torch.device("cpu")


def _nothing(*args: Any, **kwargs: Any) -> nn.Module:
    return nn.Identity()


def _anchors(module: nn.Module, golden: Golden) -> dict[str, Tensor]:
    kwargs = golden.kwargs
    scales = octaves(kwargs["octave_base_scale"], kwargs["scales_per_octave"])
    anchors = Anchors(tuple(kwargs["strides"]), scales, tuple(kwargs["ratios"]))
    sizes = golden.inputs["sizes"].tolist()
    bases = {
        f"base{level}": anchors.around_zero(stride)
        for level, stride in enumerate(anchors.strides, 3)
    }
    grids = {f"grid{level}": grid for level, grid in enumerate(anchors.grid(sizes, CPU), 3)}
    return bases | grids | {"valid3": anchors.on_image(sizes, (40, 32), CPU)[0].float()}


def _assigned(module: nn.Module, golden: Golden) -> dict[str, Tensor]:
    anchors = Anchors((8, 16, 32), octaves(4, 3))
    boxes = torch.cat(anchors.grid([(6, 8), (3, 4), (2, 2)], CPU))
    objects = golden.inputs["gts"]
    found = {}
    for name, assigner in {
        "retina": Assigner(0.5, 0.4),
        "rpn": Assigner(0.7, 0.3, 0.3),
        "rcnn1": Assigner(0.5, 0.5, low_quality=False),
        "rcnn2": Assigner(0.6, 0.6, low_quality=False),
        "rcnn3": Assigner(0.7, 0.7, low_quality=False),
    }.items():
        indices, overlaps = assigner(objects, boxes)
        found |= {f"{name}_inds": indices.float(), f"{name}_overlaps": overlaps}
    empty = torch.tensor([[20.0, 20.0, 20.0, 33.0]])
    indices, _ = Assigner(0.5, 0.4)(torch.cat([empty, objects]), boxes)
    return found | {"retina_zero_area_inds": indices.float()}


_STDS = {
    "s1": (1.0, 1.0, 1.0, 1.0),
    "s01": (0.1, 0.1, 0.2, 0.2),
    "s005": (0.05, 0.05, 0.1, 0.1),
    "s0033": (0.033, 0.033, 0.067, 0.067),
}


def _coded(module: nn.Module, golden: Golden) -> dict[str, Tensor]:
    rois, gts, deltas = (golden.inputs[name] for name in ("rois", "gts", "deltas"))
    found = {}
    for name, stds in _STDS.items():
        found[f"enc_{name}"] = encode(rois, gts, stds)
        found[f"dec_{name}"] = decode(rois, deltas, stds)
        found[f"decclip_{name}"] = decode(rois, deltas, stds, (90, 120))
    found["legacy_enc_s01"] = encode(rois, gts, _STDS["s01"], pixel=1)
    found["legacy_dec_s01"] = decode(rois, deltas, _STDS["s01"], pixel=1)
    return found


def _pooled(in_channels: list[int], out_channels: int, num_outs: int) -> FPN:
    return FPN(in_channels, out_channels, coarser="pool")


def _pyramid(neck: FPN, golden: Golden) -> list[Tensor]:
    maps = list(golden.inputs.values())[-len(neck.inner_blocks) :]
    return list(neck({str(level): x for level, x in enumerate(maps)}).values())


def _three_necks(**kwargs: dict[str, Any]) -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            name: FPN(
                options["in_channels"][options["start_level"] :],
                options["out_channels"],
                coarser=options["add_extra_convs"].removeprefix("on_"),
            )
            for name, options in kwargs.items()
        }
    )


def _three_states(golden: Golden) -> dict[str, Tensor]:
    """The state in our names: the case has three modules of its own making in one."""
    necks = _three_necks(**golden.kwargs)
    state = {}
    for name, neck in necks.items():
        of_neck = {
            key.removeprefix(f"{name}."): value
            for key, value in golden.state.items()
            if key.startswith(f"{name}.")
        }
        converted = neck.convert_published(of_neck)
        state |= {f"{name}.{key}": value for key, value in converted.items()}
    return state


def _of_three(necks: nn.ModuleDict, golden: Golden) -> dict[str, Tensor]:
    return {
        f"{name}_p{level}": x
        for name, neck in necks.items()
        for level, x in enumerate(_pyramid(neck, golden), 3)
        if level >= 5 or name == "on_input"
    }


def _retina(
    num_classes: int, in_channels: int, stacked_convs: int, feat_channels: int
) -> RetinaHead:
    return RetinaHead(in_channels, num_classes, dim=feat_channels, num_convs=stacked_convs)


def _said_by_anchor(head: RetinaHead, golden: Golden) -> dict[str, Tensor]:
    outputs = head(list(golden.inputs.values()))
    logits = {f"cls{level}": x for level, x in enumerate(outputs.logits, 3)}
    return logits | {f"reg{level}": x for level, x in enumerate(outputs.offsets, 3)}


def _detected_and_lost(head: RetinaHead, golden: Golden) -> dict[str, Tensor]:
    outputs = head([x for name, x in golden.inputs.items() if name.startswith("p")])
    images = Images([(72, 112)], [(72, 112)])
    (found,) = head.detect(outputs, images)
    target = {"boxes": golden.inputs["gts"], "labels": golden.inputs["labels"]}
    losses = head.loss(outputs, [target], images)
    empty = {key: value[:0] for key, value in target.items()}
    return {
        **found,
        "labels": found["labels"].float(),
        "loss_cls": losses["classification"],
        "loss_bbox": losses["bbox_regression"],
        "empty_loss_cls": head.loss(outputs, [empty], images)["classification"],
    }


ROWS = [
    Row("mmdet_anchors_retina", _nothing, _anchors, tolerance=1e-6, mechanism="Anchors"),
    Row("mmdet_assigner", _nothing, _assigned, tolerance=1e-6, mechanism="Assigner"),
    Row("mmdet_box_coder", _nothing, _coded, tolerance=EXACT, mechanism="box offsets"),
    Row(
        "mmdet_fpn_maskrcnn_narrow",
        _pooled,
        lambda neck, golden: {f"p{i}": x for i, x in enumerate(_pyramid(neck, golden), 2)},
        tolerance=EXACT,
    ),
    Row(
        "mmdet_fpn_retina_narrow",
        _three_necks,
        _of_three,
        weights=_three_states,
        tolerance=EXACT,
        mechanism="FPN",
    ),
    Row("mmdet_retina_head_full", _retina, _said_by_anchor, tolerance=EXACT),
    Row("mmdet_retina_predict_loss", _retina, _detected_and_lost, tolerance=EXACT),
]

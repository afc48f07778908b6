"""Detection heads, and what they are built of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from foveate.heads import FPN, Anchors, Assigner, BoxHead, MaskHead, RetinaHead, RoIHead, RPNHead
from foveate.heads._anchor_head import Images
from foveate.heads.anchors import octaves
from foveate.heads.boxes import decode, encode
from foveate.heads.mask_head import paste
from foveate.heads.roi_pool import levels, pool
from foveate.published import convert_parts
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


def _converted(build: Callable[..., nn.ModuleDict]) -> Callable[[Golden], dict[str, Tensor]]:
    """The state of a case that has several published modules, in our names."""

    def state_of(golden: Golden) -> dict[str, Tensor]:
        return convert_parts(build(**golden.kwargs), golden.state)

    return state_of


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


def _proposing(head: RPNHead, golden: Golden) -> dict[str, Tensor]:
    outputs = head(list(golden.inputs.values()))
    logits = {f"cls{level}": x for level, x in enumerate(outputs.logits, 2)}
    return logits | {f"reg{level}": x for level, x in enumerate(outputs.offsets, 2)}


def _pooled_regions(module: nn.Module, golden: Golden) -> dict[str, Tensor]:
    rois = golden.inputs["rois"]
    maps = [x for name, x in golden.inputs.items() if name.startswith("p")]
    feats = pool(maps, rois, golden.kwargs["featmap_strides"], 7)
    return {"feats": feats, "levels": levels(rois[:, 1:], len(maps)).float()}


def _box_head(in_channels: int, num_classes: int, **kwargs: Any) -> BoxHead:
    ours = {
        "num_shared_convs": "num_convs",
        "num_shared_fcs": "num_fcs",
        "conv_out_channels": "conv_dim",
        "fc_out_channels": "dim",
        "roi_feat_size": "size",
        "reg_class_agnostic": "class_agnostic",
    }
    options = {ours[key]: value for key, value in kwargs.items() if key in ours}
    return BoxHead(in_channels, num_classes, **options)


def _two_heads(**kwargs: dict[str, Any]) -> nn.ModuleDict:
    return nn.ModuleDict({name: _box_head(**options) for name, options in kwargs.items()})


def _said_of_regions(heads: nn.ModuleDict, golden: Golden) -> dict[str, Tensor]:
    return {
        f"{name}_{what}": y
        for name, head in heads.items()
        for what, y in zip(("cls", "reg"), head(golden.inputs["x"]), strict=True)
    }


def _mask_head(
    num_convs: int, roi_feat_size: int, in_channels: int, conv_out_channels: int, num_classes: int
) -> MaskHead:
    return MaskHead(in_channels, num_classes, num_convs=num_convs, dim=conv_out_channels)


def _some_of_masks(head: MaskHead, golden: Golden) -> dict[str, Tensor]:
    y = head(golden.inputs["x"])
    return {"roi1_class0to7": y[1, :8], "corner": y[:, :, :5, :5]}


def _pasted(module: nn.Module, golden: Golden) -> dict[str, Tensor]:
    masks, boxes = golden.inputs["masks"].sigmoid(), golden.inputs["boxes"]
    return {"soft": paste(masks, boxes, (golden.kwargs["img_h"], golden.kwargs["img_w"]))}


def _cascade(bbox_head: list[dict[str, Any]], **_: Any) -> RoIHead:
    heads = [
        BoxHead(
            of_stage["in_channels"],
            of_stage["num_classes"],
            dim=of_stage["fc_out_channels"],
            class_agnostic=of_stage["reg_class_agnostic"],
            stds=of_stage["bbox_coder"]["target_stds"],
        )
        for of_stage in bbox_head
    ]
    return RoIHead(
        heads, overlaps=(0.5, 0.6, 0.7), weights=(1.0, 0.5, 0.25), score_threshold=SCORED
    )


def _refined(head: RoIHead, golden: Golden) -> dict[str, Tensor]:
    size = (112, 104)
    maps = [x for name, x in golden.inputs.items() if name.startswith("p") and x.dim() == 4]
    boxes = proposals = golden.inputs["proposals"]
    said: dict[str, Tensor] = {}
    total = []
    for stage, of_stage in enumerate(head.bbox_head):
        logits, offsets = head.read(stage, maps, [boxes])
        total.append(logits)
        said |= {f"stage{stage + 1}_cls": logits, f"stage{stage + 1}_reg": offsets}
        if stage < 2:
            boxes = said[f"stage{stage + 1}_boxes"] = of_stage.refine(boxes, logits, offsets, size)
    said["boxes"] = of_stage.lead(boxes, offsets, logits.argmax(1), size)
    said["scores"] = torch.stack(total).mean(0).softmax(1)
    (found,) = head.detect(maps, [proposals], Images([size], [size]))
    return said | {f"det_{key}": value.float() for key, value in found.items()}


def _two_stage(
    channels: int,
    num_classes: int,
    fc_out_channels: int,
    stacked_convs: int,
    anchor_scale: float,
    rpn_strides: list[int],
) -> nn.ModuleDict:
    anchors = Anchors(tuple(rpn_strides), (float(anchor_scale),))

    def regions(stages: int, low_quality: bool, **options: Any) -> RoIHead:
        stds = list(_STDS.values())[1 : stages + 1]
        return RoIHead(
            [BoxHead(channels, num_classes, dim=fc_out_channels, stds=s, **options) for s in stds],
            [MaskHead(channels, num_classes, num_convs=stacked_convs, dim=channels) for _ in stds],
            overlaps=(0.5, 0.6, 0.7)[:stages],
            weights=(1.0, 0.5, 0.25)[:stages],
            low_quality=low_quality,
            detections=20,
        )

    return nn.ModuleDict(
        {
            "rpn": RPNHead(channels, dim=channels, anchors=anchors),
            "rpn_cascade": RPNHead(
                channels, dim=channels, anchors=anchors, beta=1 / 9, inside_only=True
            ),
            "standard": regions(1, True),
            "cascade": regions(3, False, class_agnostic=True, distance="smooth_l1"),
            "cascade_giou": regions(
                3, False, num_convs=4, num_fcs=1, conv_dim=channels, distance="giou"
            ),
        }
    )


def _lost_and_found(heads: nn.ModuleDict, golden: Golden) -> dict[str, Tensor]:
    inputs = golden.inputs
    images = Images(inputs["sizes"].tolist(), inputs["padded"].tolist())
    targets = [
        {
            "boxes": inputs[f"gts{i}"],
            "labels": inputs[f"labels{i}"],
            "masks": inputs[f"masks{i}"] > 0,
        }
        for i in (0, 1)
    ]
    proposals = [inputs[f"proposals{i}"] for i in (0, 1)]
    maps = [x for name, x in inputs.items() if name.startswith("p") and x.dim() == 4]
    of_rpn = [x for name, x in inputs.items() if name.startswith("rpn_p")]
    found: dict[str, Tensor] = {}
    for name, head in heads.items():
        if isinstance(head, RPNHead):
            outputs = head(of_rpn)
            losses = head.loss(outputs, targets, images)
            found[f"{name}_loss_cls"] = losses["loss_objectness"]
            found[f"{name}_loss_bbox"] = losses["loss_rpn_box_reg"]
            detections = head.propose(outputs, images, of_map=40, number=60)
        else:
            # Normalisation in training moves its statistics.
            losses = copy.deepcopy(head).train().loss(maps, proposals, targets, images)
            found |= {f"{name}_{_theirs(key)}": value for key, value in losses.items()}
            detections = head.detect(maps, proposals, images)
        for image, of_image in enumerate(detections):
            for key, value in of_image.items():
                if key == "masks":
                    key, value = "pixels", (value >= 0.5).sum((1, 2, 3))
                found[f"{name}_{key}{image}"] = value.float()
    return found


def _theirs(loss: str) -> str:
    """Mmdetection's name of a loss: loss_box_reg_2 is s1.loss_bbox."""
    name, _, stage = loss.rpartition("_") if loss[-1].isdigit() else (loss, "", "")
    ours = {"loss_classifier": "loss_cls", "loss_box_reg": "loss_bbox", "loss_mask": "loss_mask"}
    return f"s{int(stage) - 1}.{ours[name]}" if stage else ours[name]


SCORED = 0.0
"""Every detection of the cascade's case, of whatever score."""

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
        weights=_converted(_three_necks),
        tolerance=EXACT,
        mechanism="FPN",
    ),
    Row("mmdet_retina_head_full", _retina, _said_by_anchor, tolerance=EXACT),
    Row("mmdet_retina_predict_loss", _retina, _detected_and_lost, tolerance=EXACT),
    Row(
        "mmdet_rpn_head_full",
        lambda in_channels, feat_channels: RPNHead(in_channels, dim=feat_channels),
        _proposing,
        tolerance=EXACT,
    ),
    Row("mmdet_roi_extract", _nothing, _pooled_regions, tolerance=EXACT, mechanism="pool"),
    Row(
        "mmdet_shared2fc_narrow",
        _two_heads,
        _said_of_regions,
        tolerance=EXACT,
        mechanism="BoxHead",
    ),
    Row(
        "mmdet_conv4fc1_narrow",
        _box_head,
        lambda head, golden: dict(zip(("cls", "reg"), head(golden.inputs["x"]), strict=True)),
        tolerance=EXACT,
    ),
    Row("mmdet_fcn_mask_head_full", _mask_head, _some_of_masks, tolerance=EXACT),
    Row("mmdet_fcn_mask_head_narrow", _mask_head, tolerance=EXACT),
    Row("mmdet_mask_paste", _nothing, _pasted, tolerance=EXACT, mechanism="paste"),
    Row("mmdet_cascade_refine_narrow", _cascade, _refined, tolerance=EXACT),
    Row(
        "mmdet_two_stage",
        _two_stage,
        _lost_and_found,
        weights=_converted(_two_stage),
        tolerance=EXACT,
        mechanism="RoIHead",
    ),
]

"""Detectors: any of them on any backbone, at any size, through torchvision's interface."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from torchvision.ops import box_iou

import foveate
from foveate.models import create_detector, list_detectors, published_detectors
from tests.models.small import SMALL
from tests.models.test_contract import agrees
from tests.published.golden import load_case

_SMALL = {"dim": 16, "fc_dim": 32, "score_threshold": 0.0, "detections": 20}
NARROW = {
    "cascade_mask_rcnn": _SMALL,
    "faster_rcnn": _SMALL,
    "mask_rcnn": _SMALL,
    "retinanet": {"dim": 16, "num_convs": 1, "score_threshold": 0.0},
}
_PROPOSED = {"loss_objectness", "loss_rpn_box_reg"}
_LOOKED_AT = ("loss_classifier", "loss_box_reg", "loss_mask")
LOSSES = {
    "cascade_mask_rcnn": _PROPOSED | {f"{name}_{i}" for name in _LOOKED_AT for i in (1, 2, 3)},
    "faster_rcnn": _PROPOSED | set(_LOOKED_AT[:2]),
    "mask_rcnn": _PROPOSED | set(_LOOKED_AT),
    "retinanet": {"classification", "bbox_regression"},
}
EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
EMPTY["masks"] = torch.zeros(0, 64, 64, dtype=torch.uint8)


def small(name: str, backbone: str = "pyramid_pico", **kwargs):
    options = {**SMALL.get(backbone, {}), **kwargs}
    return create_detector(name, backbone, 5, head_options=NARROW[name], **options)


def target(height: int, width: int) -> dict[str, torch.Tensor]:
    boxes = torch.tensor([[3.0, 4.0, 40.0, 50.0], [20.0, 10.0, 60.0, 30.0]])
    masks = torch.zeros(2, height, width, dtype=torch.uint8)
    masks[0, 4:50, 3:40] = masks[1, 10:30, 20:60] = 1
    return {"boxes": boxes, "labels": torch.tensor([4, 0]), "masks": masks}


def batch() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    return [torch.randn(3, 70, 93), torch.randn(3, 64, 64)], [target(70, 93), EMPTY]


@pytest.mark.parametrize("name", list_detectors())
def test_every_detector_learns_from_images_of_different_sizes(name):
    torch.manual_seed(0)
    model = small(name)
    losses = model(*batch())
    assert set(losses) == LOSSES[name]
    total = sum(losses.values())
    assert total.isfinite()
    total.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", list_detectors())
def test_without_objects_it_learns_that_there_are_none(name):
    torch.manual_seed(0)
    model = small(name)
    losses = model([torch.randn(3, 64, 64)], [EMPTY])
    regression = [value for key, value in losses.items() if "reg" in key or "mask" in key]
    assert all(value == 0 for value in regression)
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", list_detectors())
def test_what_is_found_is_within_its_image_and_as_alone(name):
    torch.manual_seed(0)
    model = small(name).eval()
    images = [torch.randn(3, 64, 96), torch.randn(3, 64, 96)]
    with torch.no_grad():
        found = model(images)
        alone = [model([image])[0] for image in images]
    for one, other in zip(found, alone, strict=True):
        assert 0 < len(one["boxes"]) <= 100
        assert one["boxes"].min() >= 0
        assert (one["boxes"].amax(0) <= torch.tensor([96, 64, 96, 64])).all()
        assert ((one["labels"] >= 0) & (one["labels"] < 5)).all()
        assert (one["scores"].diff() <= 0).all()
        torch.testing.assert_close(one["scores"], other["scores"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["mask_rcnn", "retinanet"])
def test_other_precisions(name):
    torch.manual_seed(0)
    model = small(name)
    images, targets = batch()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, targets)
        (found,) = model.eval()(images[1:])
    assert all(value.isfinite() for value in losses.values())
    assert found["boxes"].dtype == torch.float32
    (found,) = model.bfloat16()([images[1].bfloat16()])
    assert found["boxes"].isfinite().all()
    losses = model.double().train()([x.double() for x in images], targets)
    assert all(value.isfinite() for value in losses.values())


def squares() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """Images of a square in each colour, and where they are."""
    generator = torch.Generator().manual_seed(1)
    images, targets = torch.zeros(4, 3, 96, 128), []
    for image in images:
        corner = torch.rand(3, 2, generator=generator) * torch.tensor([80.0, 50.0])
        boxes = torch.cat([corner, corner + 20 + 20 * torch.rand(3, 2, generator=generator)], 1)
        boxes, masks = boxes.floor(), torch.zeros(3, 96, 128, dtype=torch.uint8)
        for colour, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
            image[colour, y1:y2, x1:x2] = masks[colour, y1:y2, x1:x2] = 1
        targets.append({"boxes": boxes, "labels": torch.arange(3), "masks": masks})
    return list(images), targets


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mask_rcnn", "retinanet"])
def test_it_finds_what_it_has_learnt(name):
    torch.manual_seed(0)
    options = {
        "mask_rcnn": {"fc_dim": 64, "anchor_scale": 4.0},
        "retinanet": {"num_convs": 2, "anchor_scale": 2.0},
    }
    model = create_detector(name, "pyramid_pico", 3, head_options={"dim": 32, **options[name]})
    images, targets = squares()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        found = model.eval()(images)
    overlaps, of_masks = [], []
    for one, given in zip(found, targets, strict=True):
        for label in range(3):
            best = (one["labels"] == label).nonzero()[0, 0]
            assert one["scores"][best] > 0.5
            overlaps.append(box_iou(one["boxes"][best][None], given["boxes"][label][None]))
            if "masks" in one:
                mine, true = one["masks"][best, 0] >= 0.5, given["masks"][label] > 0
                of_masks.append((mine & true).sum() / (mine | true).sum())
    assert torch.stack(overlaps).mean() > 0.8
    assert not of_masks or torch.stack(of_masks).mean() > 0.8


@pytest.mark.parametrize("name", list_detectors())
def test_crowds_are_not_learnt_by(name):
    torch.manual_seed(0)
    model = small(name).eval()
    images, targets = batch()
    crowd = {**targets[0], "iscrowd": torch.tensor([0, 1])}
    without = {key: value[:1] for key, value in targets[0].items()}
    model.train()
    losses = []
    for given in (crowd, without):
        torch.manual_seed(0)
        losses.append(copy.deepcopy(model)(images[:1], [given]))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("name", ["mask_rcnn", "retinanet"])
def test_it_is_a_plain_module(name):
    torch.manual_seed(0)
    model = small(name).eval()
    x = [torch.randn(3, 64, 64)]
    with torch.no_grad():
        (expected,) = model(x)
        other = foveate.load_published(small(name).eval(), model.state_dict())
        for copied in (other, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert all(torch.equal(copied(x)[0][key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("resnet10t", {}),
        ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "embed_dim": 24}),
        ("mobilenetv3_small_050", {}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*reads images whose sides")
def test_timms_own_backbones_serve_at_any_size(backbone, options):
    model = small("retinanet", backbone, **options)
    assert model([torch.randn(3, 50, 71)], [target(50, 71)])["classification"].isfinite()


def test_a_backbone_with_mechanisms_inserted_serves_as_it_is():
    network = timm.create_model("resnet10t", features_only=True)
    changed = foveate.insert(network, "squeeze_excitation")
    model = create_detector("retinanet", changed, 5, head_options=NARROW["retinanet"])
    assert model.backbone is changed


def published_state(model, case: str, norm: str, first: int) -> dict[str, torch.Tensor]:
    """Mmdetection's checkpoint: the backbone's recorded names, and what our model's are there."""
    classifier = ("norm.", "head.", "cls_norm.", "cls_head.", "cls_token")
    state = {
        f"backbone.{key}": value
        for key, value in load_case(case).state.items()
        if not key.startswith(classifier)
    }
    for key, value in model.state_dict().items():
        name = key
        part, _, rest = key.partition(".")
        if part == "backbone":
            continue
        if part == "norms":
            level, _, leaf = rest.partition(".")
            name = f"backbone.{norm.format(int(level) + first)}.{leaf}"
        for ours, theirs in (
            ("neck.inner_blocks.{}.0.", "neck.lateral_convs.{}.conv."),
            ("neck.layer_blocks.{}.0.", "neck.fpn_convs.{}.conv."),
        ):
            for level in range(4):
                name = name.replace(ours.format(level), theirs.format(level))
        if "roi_head" in name and not any("_head.1." in other for other in model.state_dict()):
            name = name.replace("_head.0.", "_head.")
        name = name.replace("neck.p6.", "neck.fpn_convs.3.conv.")
        name = name.replace("neck.p7.", "neck.fpn_convs.4.conv.")
        state[name] = torch.randn(value.shape).to(value.dtype)
    return state


@pytest.mark.parametrize(
    ("backbone", "case", "norm", "first"),
    [
        pytest.param("nat_tiny", "nat_tiny", "norm{}", 1, marks=pytest.mark.slow),
        ("cswin_tiny", "cswin_t", "norm{}", 2),
    ],
)
def test_a_published_retinanet_loads_whole(backbone, case, norm, first):
    model = create_detector("retinanet", backbone, 5, head_options=NARROW["retinanet"])
    state = published_state(model, case, norm, first)
    unread = state[f"backbone.{norm.format(first)}.weight"]
    state[f"backbone.{norm.format(first - 1)}.weight"] = unread[: len(unread) // 2]
    state[f"backbone.{norm.format(first - 1)}.bias"] = unread[: len(unread) // 2]
    foveate.load_published(model, {"state_dict": state, "meta": {"mmdet_version": "2.11.0"}})
    loaded = model.state_dict()
    assert torch.equal(loaded["neck.p7.bias"], state["neck.fpn_convs.4.conv.bias"])
    assert torch.equal(loaded["norms.0.weight"], unread)
    assert torch.equal(loaded["bbox_head.retina_cls.bias"], state["bbox_head.retina_cls.bias"])
    with pytest.raises(ValueError, match=r"neck\.fpn_convs|neck\.layer_blocks"):
        foveate.load_published(model, {k: v for k, v in state.items() if "fpn_convs.0" not in k})


def test_weights_whose_boxes_mean_something_else_are_refused():
    model = small("retinanet")
    old = {"state_dict": model.state_dict(), "meta": {"mmdet_version": "1.2.0+abc"}}
    with pytest.raises(ValueError, match=r"of mmdetection 1\.2\.0\+abc, where boxes are a pixel"):
        foveate.load_published(model, old)


@pytest.mark.parametrize(
    "name", [pytest.param("mask_rcnn", marks=pytest.mark.slow), "cascade_mask_rcnn"]
)
def test_a_published_rcnn_loads_whole(name):
    model = create_detector(name, "cswin_tiny", 5, head_options=NARROW[name])
    state = published_state(model, "cswin_t", "norm{}", 1)
    foveate.load_published(model, {"state_dict": state, "meta": {"mmdet_version": "2.11.0"}})
    loaded = model.state_dict()
    last = "2." if name == "cascade_mask_rcnn" else ""
    for part in ("bbox_head.{}fc_reg", "mask_head.{}upsample", "bbox_head.{}shared_fcs.0"):
        theirs = state[f"roi_head.{part.format(last)}.weight"]
        assert torch.equal(loaded[f"roi_head.{part.format(last or '0.')}.weight"], theirs)
    assert torch.equal(loaded["rpn_head.rpn_reg.weight"], state["rpn_head.rpn_reg.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.zeros(4)}, r"targets\[1\] \(image_id 7\): boxes must be \(N, 4\)"),
        ({"boxes": torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]])}, "boxes must be of a floating"),
        (
            {"boxes": torch.tensor([[1.0, 2, 3, 4], [5, 5, 5, 9]])},
            r"targets\[1\] \(image_id 7\): boxes\[1\] is \[5.0, 5.0, 5.0, 9.0\], no box x1, y1",
        ),
        ({"boxes": torch.tensor([[1.0, 2, 3, float("nan")], [5, 5, 6, 9]])}, "no box x1, y1"),
        (
            {"boxes": torch.tensor([[1.0, 2, 3, 4], [70, 5, 80, 9]])},
            r"outside of its image, of 64x64 pixels",
        ),
        ({"labels": torch.tensor([1, 5])}, r"labels\[1\] is 5, and labels are 0 to 4"),
        ({"labels": torch.tensor([-1, 2])}, r"labels\[0\] is -1.*without one for background"),
        ({"labels": torch.tensor([1])}, r"labels must be int64 \(2,\)"),
        ({"labels": torch.tensor([1.0, 2.0])}, r"labels must be int64 \(2,\), one a box, got"),
        ({"labels": None}, "labels must be a torch.Tensor, got none"),
        ({"iscrowd": torch.tensor([0])}, r"iscrowd must be \(2,\)"),
    ],
)
def test_objects_that_cannot_be_are_refused_by_image_and_place(change, message):
    model = small("retinanet")
    images = [torch.randn(3, 64, 64)] * 2
    given = {**target(64, 64), "image_id": torch.tensor([7]), **change}
    with pytest.raises((TypeError, ValueError), match=message):
        model(images, [EMPTY, given])


def test_what_cannot_be_is_refused_in_the_users_terms():
    model = small("retinanet")
    image = torch.randn(3, 64, 64)
    with pytest.raises(TypeError, match="expected a list of images"):
        model({"image": image}, [EMPTY])
    with pytest.raises(ValueError, match=r"images\[1\] must be \(3, H, W\), got \(1, 64, 64\)"):
        model([image, image[:1]], [EMPTY, EMPTY])
    with pytest.raises(ValueError, match="divided by 255"):
        model([(image * 9).byte()], [EMPTY])
    with pytest.raises(ValueError, match="at least one image"):
        model([], [])
    with pytest.raises(ValueError, match="one target an image, got 1 for 2"):
        model([image, image], [EMPTY])
    with pytest.raises(ValueError, match="targets are needed in training"):
        model([image])
    with pytest.raises(ValueError, match="unknown detector 'retinant'; did you mean 'retinanet'"):
        create_detector("retinant", "pyramid_pico")
    with pytest.raises(ValueError, match="retinanet has no option 'dims'; did you mean 'dim'"):
        create_detector("retinanet", "pyramid_pico", head_options={"dims": 3})
    with pytest.raises(ValueError, match="faster_rcnn has no option 'num_convs'"):
        create_detector("faster_rcnn", "pyramid_pico", head_options={"num_convs": 3})
    with pytest.raises(ValueError, match="unknown box_head 'conv4fc'; did you mean 'conv4fc1'"):
        create_detector("faster_rcnn", "pyramid_pico", head_options={"box_head": "conv4fc"})
    unmasked = {key: value for key, value in EMPTY.items() if key != "masks"}
    with pytest.raises(TypeError, match=r"masks must be a torch\.Tensor, got none"):
        small("mask_rcnn")([image], [unmasked])
    with pytest.raises(ValueError, match=r"masks must be \(2, 64, 64\), one a box and of the"):
        small("mask_rcnn")([image], [target(64, 65)])
    with pytest.raises(ValueError, match=r"no anchor lies inside images\[0\], of 20x20 pixels"):
        small("cascade_mask_rcnn")(
            [image[:, :20, :20]], [{**EMPTY, "masks": torch.zeros(0, 20, 20)}]
        )
    with pytest.raises(ValueError, match="num_classes must be an integer of at least 1"):
        create_detector("retinanet", "pyramid_pico", 0)


QUICK = {("mask_rcnn", "pvt_tiny"), ("cascade_mask_rcnn", "slide_swin_tiny")}
PRINTED = {(row.detector, row.backbone): row for row in published_detectors() if row.params}


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id="-".join(key), marks=[] if key in QUICK else [pytest.mark.slow])
        for key, row in PRINTED.items()
    ],
)
@pytest.mark.filterwarnings("ignore:.*reads images")
def test_costs_are_those_that_were_published(row):
    with torch.device("meta"):
        model = create_detector(row.detector, row.backbone, row.num_classes).eval()
    flops = foveate.count_flops(model.dense, torch.empty(1, 3, *row.size, device="meta"))
    params = sum(p.numel() for p in model.parameters())
    assert agrees(params, row.params) or row.note
    assert agrees(flops / 2, row.multiply_adds) or row.note

"""Prepared sets of annotated images: what is read, what is left out and counted, what is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.data import detection
from foveate.data.detection import DetectionSet, load_detection, prepare_detection
from foveate.data.detection_batches import (
    DetectionBatches,
    held_out_detection_batches,
    train_detection_batches,
)
from foveate.data.images import drop_pixels
from foveate.data.moments import Moments
from foveate.data.pixels import pixel_file
from foveate.data.sources.base import DataError
from tests.data import annotated
from tests.data.folders import truncate

HALF = (16, 24)  # images of 40x60 are reduced to 1.25 times this where that halves them


def prepared(root: Path, size=(40, 60), **options) -> DetectionSet:
    return prepare_detection(root / "prepared", str(root), size, cache="none", **options)


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> DetectionSet:
    return prepared(annotated.make_coco(tmp_path_factory.mktemp("coco") / "set"))


def test_pixels_and_boxes_are_read_together(coco):
    assert [len(coco.train), len(coco.test), coco.final] == [4, 2, None]
    for images in (coco.train, coco.test):
        for number, image in enumerate(images.annotated):
            pixels = images[number]
            assert pixels.shape == (*annotated.SIZE, 3)
            for label, box in zip(image.objects.labels, image.objects.boxes, strict=True):
                x1, y1, x2, y2 = box.astype(int)
                color = (220, 20, 20) if label == 0 else (20, 20, 220)
                assert (pixels[y1:y2, x1:x2] == color).all()
                assert (pixels[y1 - 1, x1:x2] != color).any()


def test_sets_without_splits_are_split_and_said(tmp_path):
    found = prepared(annotated.make_yolo(tmp_path / "set", "flat"))
    assert [len(found.train), len(found.test)] == [5, 1]
    assert any("a fifth of it is held out" in note for note in found.findings.notes)


def test_large_images_are_reduced_and_boxes_follow(tmp_path):
    found = prepared(annotated.make_coco(tmp_path / "set"), (8, 12))
    assert found.train[0].shape == (10, 15, 3)
    (images, targets), *_ = held_out_detection_batches(found, (10, 15), 1)
    assert images[0].shape == (3, 10, 15)
    scale = targets[0]["scale"].repeat(2)
    given = [box for _, box in annotated.scenes()[4].objects]
    np.testing.assert_allclose(targets[0]["boxes"] * scale, given, rtol=1e-6)
    assert targets[0]["area"].tolist() == [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in given]


def test_sets_beyond_memory_are_decoded_as_needed(tmp_path, monkeypatch):
    root = annotated.make_coco(tmp_path / "set")
    whole = prepared(root)
    monkeypatch.setattr(pixel_file, "MEMORY_CAP", 1000)
    large = prepare_detection(tmp_path / "large", str(root), (40, 60), cache="none")
    assert whole.train.in_memory
    assert not large.train.in_memory
    assert (large.train[1] == whole.train[1]).all()


def test_a_set_that_lies_there_is_used_again(tmp_path):
    pytest.importorskip("pycocotools")
    root = annotated.make_coco(tmp_path / "set")
    first = prepared(root, masks="given")
    for path in (root / "annotations").iterdir():
        path.unlink()
    again, loaded = prepared(root, masks="given"), load_detection(root / "prepared")
    drop_pixels(root / "prepared")
    restored = prepared(root, masks="given")
    for other in (again, loaded, restored):
        assert other.categories == first.categories
        assert other.findings == first.findings
        assert other.moments == first.moments
        size = (40, 60)
        one, two = (train_detection_batches(each, size, 2, 0) for each in (first, other))
        assert same(one, two)
    with pytest.raises(DataError, match="was prepared with masks='given', not 'none'"):
        prepared(root)
    drop_pixels(root / "prepared")
    annotated.draw(annotated.scenes()[1], root / "train2017" / "train0.png")
    with pytest.raises(DataError, match=r"'train2017/train0.png' has changed"):
        prepared(root, masks="given")
    (root / "train2017" / "train0.png").unlink()
    with pytest.raises(DataError, match="that the study began with cannot be read"):
        prepared(root, masks="given")


def test_a_damaged_record_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no prepared images"):
        load_detection(tmp_path)
    for text, message in (("{", "is damaged"), ('{"format": 99}', "another version of foveate")):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(DataError, match=message):
            load_detection(tmp_path)


def test_a_turned_photograph_keeps_its_boxes(tmp_path):
    root = annotated.make_coco(tmp_path / "set")
    scene = annotated.scenes()[0]
    for path in (root / "annotations").iterdir():
        path.write_text(path.read_text().replace("train0.png", "train0.jpg"))
    (root / "train2017" / "train0.png").unlink()
    annotated.draw(scene, root / "train2017" / "train0.jpg", exif=6)
    found = prepared(root)
    number = next(n for n, i in enumerate(found.train.annotated) if i.name.endswith("jpg"))
    pixels, objects = found.train[number], found.train.annotated[number].objects
    assert pixels.shape == (*annotated.SIZE, 3)
    x1, y1, x2, y2 = objects.boxes[0].astype(int)
    assert pixels[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2, 0].min() > 150
    assert any("boxes refer to the turned image" in note for note in found.findings.notes)


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    def change(document):
        boxes = [[1, 1, 0, 5], [9, 9, -3, 4], [80, 5, 9, 9]]
        for entry, box in zip(document["annotations"], boxes, strict=False):
            entry["bbox"] = box
        document["annotations"][4]["iscrowd"] = 1

    root = annotated.make_coco(tmp_path / "set", change)
    truncate(root / "train2017" / "train3.png")
    found = prepared(root)
    assert len(found.train) == 3
    assert [len(image.objects) for image in found.train.annotated] == [0, 1, 2]
    said = found.findings.lines()
    for text in (
        "left out, boxes without area: 1 (instances_train2017.json, annotation 0 of train2017/",
        "left out, boxes whose second corner lies before the first, or of negative size: 1",
        "left out, boxes outside their image: 1",
        "skipped 1 unreadable file: train2017/train3.png",
        "1 image of the train part without an object: learnt from as background",
        "1 crowd regions of the train part are not learnt from",
    ):
        assert any(line.startswith(text) for line in said), text


def test_classes_without_an_object_are_said(tmp_path):
    def red(document):
        document["annotations"] = document["annotations"][::2]

    found = prepared(annotated.make_coco(tmp_path / "a", red))
    assert "no object of 'blue' in the train part: it cannot be learnt" in found.findings.warnings
    found = prepared(annotated.make_coco(tmp_path / "b", change_val=red))
    assert any("in the test part: its AP is undefined" in w for w in found.findings.warnings)


def test_sets_that_cannot_be_used_are_refused(tmp_path):
    def outside(document):
        for entry in document["annotations"]:
            entry["bbox"] = [100, 100, 5, 5]

    with pytest.raises(DataError, match=r"no object in the test part .* 2 images are all without"):
        prepared(annotated.make_coco(tmp_path / "a", change_val=outside))
    root = annotated.make_coco(tmp_path / "b")
    for path in (root / "val2017").iterdir():
        truncate(path)
    with pytest.raises(
        DataError, match=r"no usable image in the test part .*all 2 .*'val2017/val\d.png' \("
    ):
        prepared(root)
    with pytest.raises(ValueError, match="unknown masks 'elips'; did you mean 'ellipse'"):
        prepared(root, masks="elips")


def test_most_images_of_another_size_are_a_warning(tmp_path):
    def tall(document):
        for image in document["images"][:3]:
            image["height"] = 400

    found = prepared(annotated.make_coco(tmp_path / "set", tall))
    assert found.findings.counts["images of another size than their annotations state"] == 3
    assert not any("most images" in warning for warning in found.findings.warnings)
    found = prepared(
        annotated.make_coco(tmp_path / "more", tall, lambda d: d["images"][0].update(height=400))
    )
    assert "most images are left out: 4 of 6" in found.findings.warnings


def test_images_that_a_limit_leaves_aside_are_not_lost(tmp_path):
    found = prepared(annotated.make_coco(tmp_path / "set"), limit=1)
    assert len(found.train) == 1
    assert not any("most images" in warning for warning in found.findings.warnings)


# Batches


def test_images_are_normalised_by_the_moments_of_training_images(coco):
    ((images, _),) = held_out_detection_batches(coco, (40, 60), 2)
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in coco.moments[:2])
    pixels = torch.from_numpy(np.array(coco.test[1])).permute(2, 0, 1)
    torch.testing.assert_close(images[1] * std + mean, pixels / 255)


def batches(images: DetectionSet, **options) -> DetectionBatches:
    return train_detection_batches(images, (40, 60), 2, 0, **options)


def same(one, other) -> bool:
    return all(
        (a == b).all() and all((s[key] == t[key]).all() for key in s)
        for (xs, ss), (ys, ts) in zip(one, other, strict=True)
        for a, b, s, t in zip(xs, ys, ss, ts, strict=True)
    )


def test_an_epoch_is_a_function_of_seed_and_epoch(coco):
    first, again = list(batches(coco)), batches(coco, processes=1)
    assert same(first, list(again))
    again.set_epoch(1)
    assert not same(first, list(again))


def test_boxes_stay_on_their_objects_through_augmentation(coco):
    seen = 0
    loader = batches(coco, normalize=Moments((0.0,) * 3, (1.0,) * 3))
    for epoch in range(8):
        loader.set_epoch(epoch)
        for images, targets in loader:
            for image, target in zip(images, targets, strict=True):
                assert image.shape == (3, 40, 60)
                assert image.dtype.is_floating_point
                assert set(target) == {
                    "boxes", "labels", "iscrowd", "area", "image_id", "scale"
                }  # fmt: skip
                for box, label in zip(target["boxes"], target["labels"], strict=True):
                    x1, y1, x2, y2 = box.tolist()
                    assert 0 <= x1 < x2 <= 60
                    assert 0 <= y1 < y2 <= 40
                    if min(x2 - x1, y2 - y1) < 5:
                        continue
                    inside = image[:, int(y1) + 2 : int(y2) - 1, int(x1) + 2 : int(x2) - 1]
                    assert inside.mean((1, 2)).argmax() == (0, 2)[label]
                    seen += 1
    assert seen > 30


def test_held_out_images_are_whole_and_of_their_own_sizes(tmp_path):
    root = annotated.make_coco(tmp_path / "set")
    path = root / "annotations" / "instances_val2017.json"
    document = json.loads(path.read_text())
    with Image.open(root / "val2017" / "val4.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(root / "val2017" / "val4.png")
    document["images"][0].update(width=40, height=60)
    document["annotations"][0]["bbox"] = [2, 3, 10, 20]
    path.write_text(json.dumps(document))
    found = prepared(root)
    ((images, targets),) = held_out_detection_batches(found, (20, 30), 2)
    assert [tuple(image.shape) for image in images] == [(3, 20, 13), (3, 20, 30)]
    np.testing.assert_allclose(targets[0]["scale"], [40 / 13, 3])
    np.testing.assert_allclose(
        targets[0]["boxes"][0] * targets[0]["scale"].repeat(2), [2, 3, 12, 23], rtol=1e-6
    )


@pytest.mark.parametrize("masks", detection.MASKS[1:])
def test_masks_go_along(masks, tmp_path):
    pytest.importorskip("pycocotools")
    found = prepared(annotated.make_coco(tmp_path / "set"), masks=masks)
    ((_, targets),) = held_out_detection_batches(found, (40, 60), 2)
    for target in targets:
        sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
        share = target["masks"].sum((1, 2)) / sides.prod(1)
        expected = np.pi / 4 if masks == "ellipse" else 1
        np.testing.assert_allclose(share, expected, rtol=0.05)
    for _, targets in batches(found):
        for target in targets:
            assert target["masks"].shape == (len(target["boxes"]), 40, 60)
            assert target["masks"].any((1, 2)).all()


def test_images_without_objects_have_targets_of_no_boxes(tmp_path):
    def empty(document):
        document["annotations"] = document["annotations"][:2]

    found = prepared(annotated.make_coco(tmp_path / "set", empty), masks="rectangle")
    shapes = {
        (tuple(t["boxes"].shape), tuple(t["masks"].shape)) for _, ts in batches(found) for t in ts
    }
    assert ((0, 4), (0, 40, 60)) in shapes

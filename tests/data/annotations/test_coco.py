"""COCO's files: ids with gaps, two corners, and every fault named with its file and entry."""

from __future__ import annotations

import json

import numpy as np
import pytest

from foveate.data.annotations.masks import read_mask
from foveate.data.annotations.open import open_annotations
from foveate.data.annotations.record import Annotations
from foveate.data.sources.base import DataError
from tests.data import annotated
from tests.data.annotated import make_coco


def read(root, **options) -> Annotations:
    return open_annotations(str(root), **options).annotations


def test_ids_with_gaps_become_labels_in_their_order_and_are_kept(tmp_path):
    found = read(make_coco(tmp_path / "set"))
    assert [(c.id, c.name) for c in found.categories] == [(3, "red"), (7, "blue")]
    assert found.images[0].objects.labels.tolist() == [0, 1]
    assert found.notes == [
        "category ids of instances_train2017.json (3, 7) are labels from 0, in this order"
    ]


def test_other_files_are_matched_by_names_of_categories(tmp_path):
    def exchanged(document):
        document["categories"] = [{"id": 7, "name": "red"}, {"id": 3, "name": "blue"}]
        for entry in document["annotations"]:
            entry["category_id"] = {3: 7, 7: 3}[entry["category_id"]]

    found = read(make_coco(tmp_path / "set", change_val=exchanged))
    assert [image.objects.labels.tolist() for image in found.images] == [[0, 1]] * 6
    assert "matched by name" in found.notes[1]


def test_a_category_that_training_lacks_is_refused(tmp_path):
    def renamed(document):
        document["categories"][1]["name"] = "green"

    with pytest.raises(DataError, match=r"instances_val2017.json has 2 .* 'green'.*red, blue"):
        read(make_coco(tmp_path / "set", change_val=renamed))


def _corners(document):
    for entry in document["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x, y, x + width, y + height]


def test_two_corners_are_recognised_where_most_boxes_would_leave(tmp_path):
    def far(document):
        _corners(document)
        document["annotations"] = [a for a in document["annotations"] if a["bbox"][0] > 20]

    found = read(make_coco(tmp_path / "set", far))
    assert "are read as x1, y1, x2, y2" in found.warnings[0]
    box = annotated.scenes()[0].objects[1][1]
    assert found.images[0].objects.boxes.tolist() == [list(box)]


def test_what_may_be_two_corners_is_said(tmp_path):
    def some(document):
        _corners(document)
        document["annotations"] *= 4
        for number, entry in enumerate(document["annotations"]):
            document["annotations"][number] = {**entry, "id": number}

    found = read(make_coco(tmp_path / "set", some))
    assert "may be x1, y1, x2, y2: 16 of 32 leave their image" in found.warnings[0]


def _edit(key, number, **values):
    def change(document):
        document[key][number].update(values)

    return change


def _twice(document):
    document["images"][1]["id"] = 0


def _one_file_two_ids(document):
    document["images"][1]["file_name"] = document["images"][0]["file_name"]


def _same_id(document):
    document["categories"][1]["id"] = 3


FAULTS = {
    "no annotation": (lambda d: d["annotations"].clear(), "has no annotation: it lists 4 images"),
    "no annotations": (lambda d: d.pop("annotations"), "no list of annotations"),
    "no image": (lambda d: d["images"].clear(), "lists no image"),
    "no category": (lambda d: d.pop("categories"), "has no categories"),
    "category without name": (lambda d: d["categories"][0].pop("name"), "needs an id, a number"),
    "category twice": (_same_id, "has 2 categories of the id 3"),
    "unknown category": (
        _edit("annotations", 2, category_id=34),
        r"annotation 10 has the category_id 34, which is not among .*3 red, 7 blue",
    ),
    "image id twice": (_twice, r"image id 0 to 'train0.png' and to 'train1.png'"),
    "image under two ids": (_one_file_two_ids, "'train0.png' under several ids"),
    "image without a name": (lambda d: d["images"][0].pop("file_name"), "needs id and file_name"),
    "box of three": (_edit("annotations", 1, bbox=[1, 2, 3]), r"annotation 1 needs a bbox of x, y"),
    "box of words": (_edit("annotations", 1, bbox=["1", 2, 3, 4]), "annotation 1 needs a bbox"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_with_file_and_entry(fault, tmp_path):
    change, message = FAULTS[fault]
    with pytest.raises(DataError, match=rf"instances_train2017\.json.*{message}"):
        read(make_coco(tmp_path / "set", change))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"images": [', "is no JSON, or cut off: .* line 1"),
        ("[]", "holds a list, as COCO's results do"),
        ("3", "holds no dict"),
    ],
)
def test_files_that_are_something_else(text, message, tmp_path):
    root = make_coco(tmp_path / "set")
    (root / "annotations" / "instances_val2017.json").write_text(text)
    with pytest.raises(DataError, match=rf"instances_val2017\.json {message}"):
        read(root)


def test_what_training_can_do_without_is_counted(tmp_path):
    def change(document):
        document["annotations"][0]["image_id"] = 99
        document["annotations"][3]["id"] = document["annotations"][2]["id"]
        document["images"].append(document["images"][2])

    root = make_coco(tmp_path / "set", change)
    (root / "train2017" / "train3.png").unlink()
    found = read(root)
    assert [(left.name, left.reason) for left in found.left_out] == [
        (
            "instances_train2017.json, annotation 0",
            "annotations of images that their file does not list",
        ),
        ("train3.png", "annotated images that are not there"),
    ]
    assert "1 images of instances_train2017.json are listed twice: once" in found.notes
    assert (
        "1 annotations of instances_train2017.json have an id that another has"
        in (found.warnings[0])
    )
    assert len(found.images) == 5


def test_images_that_are_all_elsewhere_are_an_error(tmp_path):
    root = make_coco(tmp_path / "set")
    for path in (root / "val2017").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"none of the 2 images .*instances_val2017.json"):
        read(root)


def test_one_name_in_both_splits_is_found_in_its_own_folder(tmp_path):
    root = make_coco(tmp_path / "set", _edit("images", 0, file_name="a.png"),
                     _edit("images", 0, file_name=r"val2017\a.png"))  # fmt: skip
    for split, number in (("train", 0), ("val", 4)):
        (root / f"{split}2017" / f"{split}{number}.png").rename(root / f"{split}2017" / "a.png")
    found = read(root)
    assert [i.name for i in found.images if "a.png" in i.name] == [
        "train2017/a.png",
        "val2017/a.png",
    ]
    (root / "train2017").rename(root / "one")
    (root / "val2017").rename(root / "two")
    with pytest.raises(DataError, match=r"may be 'one/a.png' or 'two/a.png'"):
        read(root)


def test_sizes_and_boxes_that_are_not_stated_come_from_file_and_mask(tmp_path):
    def change(document):
        document["images"][0].pop("width")
        document["annotations"][0].pop("bbox")

    found = read(make_coco(tmp_path / "set", change))
    assert found.images[0].size == annotated.SIZE
    given = [box for _, box in annotated.scenes()[0].objects]
    np.testing.assert_allclose(found.images[0].objects.boxes, given)
    assert "have no width and height" in found.notes[1]


def test_masks_of_all_kinds_are_the_same(tmp_path):
    mask = pytest.importorskip("pycocotools.mask")
    (x1, y1, x2, y2) = annotated.scenes()[0].objects[0][1]
    plane = np.zeros(annotated.SIZE, dtype=np.uint8, order="F")
    plane[y1:y2, x1:x2] = 1
    packed = mask.encode(plane)
    changes = np.flatnonzero(np.diff(plane.ravel(order="F"), prepend=0)).tolist()
    counts = np.diff([0, *changes, plane.size]).tolist()
    half = (x1 + x2) // 2
    kinds = [
        [[x1, y1, x2, y1, x2, y2, x1, y2]],
        [[x1, y1, half, y1, half, y2, x1, y2], [half, y1, x2, y1, x2, y2, half, y2]],
        {"size": list(annotated.SIZE), "counts": counts},
        {"size": list(annotated.SIZE), "counts": packed["counts"].decode()},
    ]
    for number, kind in enumerate(kinds):
        root = make_coco(tmp_path / str(number), _edit("annotations", 0, segmentation=kind))
        objects = read(root, masks=True).images[0].objects
        assert objects.masks is not None
        assert len(objects.masks) == len(objects) == 2
        assert (mask.decode(objects.masks[0]) == plane).all()
    assert read_mask(packed, annotated.SIZE, "bytes")["counts"] == packed["counts"]
    crowd = {"segmentation": kinds[2], "iscrowd": 1}
    objects = read(make_coco(tmp_path / "crowd", _edit("annotations", 0, **crowd)), masks=True)
    assert objects.images[0].objects.crowd.tolist() == [True, False]


MASK_FAULTS = {
    "no segmentation": ([], "has no segmentation: give masks='ellipse'"),
    "two points": ([[1, 2, 3, 4]], "segmentation that is none"),
    "another size": ({"size": [7, 9], "counts": [63]}, "run lengths of an image of 9x7"),
    "too short": ({"size": [40, 60], "counts": [10, 20]}, "run lengths of 30 pixels in .* 2,400"),
    "string cut off": ({"size": [40, 60], "counts": "R1"}, "run lengths of"),
}


@pytest.mark.parametrize("fault", MASK_FAULTS)
def test_faulty_masks_are_named(fault, tmp_path):
    given, message = MASK_FAULTS[fault]
    root = make_coco(tmp_path / "set", _edit("annotations", 0, segmentation=given))
    with pytest.raises(DataError, match=rf"annotation 0.*{message}"):
        read(root, masks=True)
    assert len(read(root).images) == 6  # where boxes alone are asked for


def test_other_json_files_are_counted(tmp_path):
    root = make_coco(tmp_path / "set")
    (root / "annotations" / "captions_val2017.json").write_text(json.dumps({"annotations": []}))
    assert [left.name for left in read(root).left_out] == ["annotations/captions_val2017.json"]


@pytest.mark.parametrize(
    ("part", "key", "value", "said"),
    [
        ("annotations", None, "x", "entry 1 of annotations is no dict"),
        ("images", None, [1], "entry 1 of images is no dict"),
        ("images", "id", [1], "entry 1 of images needs a number as id"),
        ("images", "width", "wide", "image 'train0.png' needs a number of pixels as width"),
        ("images", "height", float("inf"), "needs a number of pixels as height"),
        ("annotations", "id", {}, "entry 1 of annotations needs a number as id"),
        ("annotations", "image_id", [0], "needs a number as image_id"),
        ("annotations", "category_id", [3], "needs a number as category_id"),
        ("annotations", "bbox", [1, 1, 5, 10**400], "annotation 0 needs a bbox"),
        ("annotations", "area", "large", "annotation 0 needs a number of pixels as area"),
        ("annotations", "iscrowd", "0", "annotation 0 needs 0 or 1 as iscrowd, got '0'"),
    ],
)
def test_a_value_of_another_type_is_named(tmp_path, part, key, value, said):
    def change(document):
        if key is None:
            document[part][0] = value
        else:
            document[part][0][key] = value

    with pytest.raises(DataError, match=r"instances_train2017\.json") as error:
        read(make_coco(tmp_path / "set", change))
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": [40], "counts": [2400]}, "the size [40]"),
        ({"size": None, "counts": [2400]}, "the size None"),
        ({"size": [40, 60], "counts": [-5, 2405]}, "whole numbers from 0"),
        ({"size": [40, 60], "counts": [0.5, 2399.5]}, "whole numbers from 0"),
        ({"size": [40, 60], "counts": None}, "whole numbers from 0"),
        ([[1, 1, 1e30, 5, 7, 1e30]], "far outside its image of 60x40"),
        ([[1, 1, 10**400, 5, 7, 9]], "has a segmentation that is none"),
        ([[True, 1, 1, 5, 6, 7]], "has a segmentation that is none"),
    ],
)
def test_damaged_masks_are_named_before_pycocotools_reads_them(given, said):
    with pytest.raises(DataError, match=r"^annotation 3 has") as error:
        read_mask(given, (40, 60), "annotation 3")
    assert said in str(error.value)


def test_run_lengths_without_a_box_need_their_size(tmp_path):
    def change(document):
        document["annotations"][0] |= {"bbox": None, "segmentation": {"counts": "04"}}

    with pytest.raises(DataError, match=r"annotation 0 has run lengths of the size None"):
        read(make_coco(tmp_path / "set", change))


def test_one_file_for_two_entries_is_refused(tmp_path):
    def folders(document):
        for number, folder in enumerate("ab"):
            document["images"][number]["file_name"] = f"{folder}/1.png"

    root = make_coco(tmp_path / "set", folders)
    (root / "train2017" / "b").mkdir()
    (root / "train2017" / "train0.png").rename(root / "train2017" / "b" / "1.png")
    with pytest.raises(DataError, match=r"2 entries have only the image 'train2017/b/1.png'"):
        read(root)


def test_an_image_that_stands_in_for_one_of_another_split_is_refused(tmp_path):
    def same(document):
        document["images"][0]["file_name"] = "train1.png"

    root = make_coco(tmp_path / "set", change_val=same)
    with pytest.raises(DataError, match=r"2 entries of test and train have only the image"):
        read(root)

"""YOLO's files: where labels lie, what their lines may hold, and faults by file and line."""

from __future__ import annotations

import numpy as np
import pytest

from foveate.data.annotations.open import open_annotations
from foveate.data.sources.base import DataError
from tests.data import annotated
from tests.data.annotated import make_yolo


def read(root, **options):
    return open_annotations(str(root), **options).annotations


def _write(root, text, name="train0"):
    (root / "labels" / "train" / f"{name}.txt").write_text(text)
    return root


def test_names_with_gaps_and_splits_as_lists(tmp_path):
    root = make_yolo(tmp_path / "s")
    images = sorted((root / "images" / "train").iterdir())
    lines = "\n".join(f"./images/train/{path.name}" for path in images[:3])
    (root / "train.txt").write_text(lines + "\n")
    text = "train: train.txt\nval: [images/val]\nnames: {3: red, 0: blue}\n"
    (root / "data.yaml").write_text(text)
    for path in (root / "labels").rglob("*.txt"):
        path.write_text("3 .5 .5 .2 .2\n")
    found = read(root)
    assert [(c.id, c.name) for c in found.categories] == [(0, "blue"), (3, "red")]
    assert [len(image.objects) for image in found.images] == [1] * 5
    assert found.images[0].objects.labels.tolist() == [1]


def test_a_polygon_gives_its_box_and_its_mask(tmp_path):
    mask = pytest.importorskip("pycocotools.mask")
    root = make_yolo(tmp_path / "s")
    for path in (root / "labels").rglob("*.txt"):
        path.write_text("1 .1 .2 .5 .2 .5 .7 .1 .7\n")
    found = read(root, masks=True)
    objects = found.images[0].objects
    np.testing.assert_allclose(objects.boxes, [[6, 8, 30, 28]])
    assert objects.masks is not None
    assert mask.area(list(objects.masks)).tolist() == [24 * 20]
    with pytest.raises(DataError, match=r"train0.txt, line 1 has no polygon"):
        read(_write(root, "0 .5 .5 .2 .2\n"), masks=True)


def test_two_corners_are_recognised(tmp_path):
    root = make_yolo(tmp_path / "s")
    for path in (root / "labels").rglob("*.txt"):
        path.write_text("0 .6 .6 .9 .95\n1 .1 .1 .3 .4\n0 .5 .1 .9 .3\n")
    found = read(root)
    assert "are read as x1, y1, x2, y2" in found.warnings[0]
    np.testing.assert_allclose(found.images[0].objects.boxes[0], [36, 24, 54, 38])


def test_images_without_labels_and_repeated_lines_are_counted(tmp_path):
    root = make_yolo(tmp_path / "s")
    (root / "labels" / "train" / "train1.txt").unlink()
    found = read(_write(root, "0 .5 .5 .2 .2\n\n0 .5 .5 .2 .2\n"))
    assert [len(image.objects) for image in found.images] == [1, 0, 2, 2, 2, 2]
    assert found.notes == ["1 image without a label file: taken to hold no object, as YOLO does"]
    assert [(left.name, left.reason) for left in found.left_out] == [
        ("train0.txt, line 3", "lines repeated in a label file")
    ]


LINES = {
    "class without a name": ("5 .5 .5 .2 .2", "has the class 5; those that have a name are 0, 1"),
    "half a class": ("0.5 .5 .5 .2 .2", "has the class 0.5"),
    "pixels": ("0 30 20 12 8", "holds 30: positions and sizes are shares of the image"),
    "a score": ("0 .5 .5 .2 .2 .9", "has six numbers, as predictions with a score have"),
    "too few": ("0 .5 .5 .2", "has 4 numbers: expected class x y width height"),
    "a word": ("red .5 .5 .2 .2", "holds something else than numbers"),
}


@pytest.mark.parametrize("fault", LINES)
def test_faulty_lines_are_named(fault, tmp_path):
    line, message = LINES[fault]
    root = _write(make_yolo(tmp_path / "s"), f"0 .5 .5 .2 .2\n{line}\n")
    with pytest.raises(DataError, match=rf"train0\.txt, line 2 {message}"):
        read(root)


DESCRIPTIONS = {
    "no names": ("train: images/train\n#names:\n", "has no names"),
    "another number": ("train: images/train\nnc: 3\nnames: [a, b]\n", "nc: 3, but names 2"),
    "no folder": ("names: [a, b]\n", "names no folder of images under train"),
    "not there": ("train: images/train1\nnames: [a]\n", "train is 'images/train1', which is not"),
    "both": ("train: images/train\nval: images/train\nnames: [a, b]\n", "is in two splits"),
    "no yaml": ("names: [a\n", "is no YAML"),
}


@pytest.mark.parametrize("fault", DESCRIPTIONS)
def test_faulty_descriptions_are_named(fault, tmp_path):
    text, message = DESCRIPTIONS[fault]
    root = make_yolo(tmp_path / "s")
    (root / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        read(root)


def test_labels_without_names_or_images_without_labels_are_refused(tmp_path):
    root = make_yolo(tmp_path / "s", "flat")
    (root / "classes.txt").unlink()
    with pytest.raises(DataError, match="but no names"):
        read(root)
    other = make_yolo(tmp_path / "t")
    for path in (other / "labels").rglob("*.txt"):
        path.unlink()
    with pytest.raises(DataError, match=r"no image below .* has a label file"):
        read(other)


def test_boxes_refer_to_the_upright_image(tmp_path):
    root = make_yolo(tmp_path / "s")
    scene = annotated.scenes()[0]
    (root / "images" / "train" / scene.name).unlink()
    annotated.draw(scene, root / "images" / "train" / "train0.jpg", exif=6)
    image = next(image for image in read(root).images if "train0" in image.name)
    assert image.size == annotated.SIZE
    np.testing.assert_allclose(image.objects.boxes, [box for _, box in scene.objects], atol=1e-6)


@pytest.mark.parametrize("name", ["labels/train/train0.txt", "classes.txt", "data.yaml"])
def test_text_of_another_encoding_is_named(tmp_path, name):
    root = make_yolo(tmp_path / "s", "yaml" if name == "data.yaml" else "names")
    (root / name).write_bytes(b"names: \xff\xfe")
    with pytest.raises(DataError, match=rf"{name} is not UTF-8 text"):
        read(root)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("{a: 1}", "got 'a': 1"),
        ("[red, no]", "got 1: False"),
        ("[red, red]", "2 classes of the name 'red'"),
    ],
)
def test_names_that_are_none_are_refused(tmp_path, names, said):
    root = make_yolo(tmp_path / "s")
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {names}\n")
    with pytest.raises(DataError, match=r"data\.yaml") as error:
        read(root)
    assert said in str(error.value)


def test_a_blank_line_among_names_would_shift_the_classes(tmp_path):
    root = make_yolo(tmp_path / "s", "names")
    (root / "classes.txt").write_text("red\n\nblue\n")
    with pytest.raises(DataError, match=r"classes.txt has a blank line"):
        read(root)


def test_an_unreadable_image_without_labels_does_not_hide_the_labels_of_others(tmp_path):
    root = make_yolo(tmp_path / "s")
    for number in range(6):
        (root / "images" / "train" / f"x{number}.png").write_bytes(b"no image")
    found = read(root)
    assert len(found.images) == 6
    for path in root.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no readable image .* for one \(not an image\)"):
        read(root)


def test_labels_without_an_image_are_counted(tmp_path):
    root = make_yolo(tmp_path / "s")
    (root / "images" / "train" / "train1.png").unlink()
    (root / "labels" / "train" / "notes.txt").write_text("by hand\n")
    assert [(left.name, left.reason) for left in read(root).left_out] == [
        ("../labels/train/train1.txt", "label files without an image")
    ]

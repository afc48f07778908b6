"""Every layout that people have gives the same boxes, labels and splits."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from foveate.data.annotations.open import open_annotations
from foveate.data.annotations.record import categories_of, categories_to_list
from foveate.data.sources.base import DataError
from tests.data import annotated

LAYOUTS = {
    "coco": annotated.make_coco,
    "coco beside its images": annotated.make_roboflow,
    "voc": annotated.make_voc,
    "voc from zero": partial(annotated.make_voc, shift=0),
    "voc beside its images": partial(annotated.make_voc, lists=False),
    "yolo": annotated.make_yolo,
    "yolo of roboflow": partial(annotated.make_yolo, layout="roboflow"),
    "yolo without yaml": partial(annotated.make_yolo, layout="names"),
    "yolo in one folder": partial(annotated.make_yolo, layout="flat"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(layout, tmp_path):
    root = LAYOUTS[layout](tmp_path / "images" / "set")
    if layout == "voc from zero":  # which only a zero can tell
        path = root / "Annotations" / "train0.xml"
        path.write_text(path.read_text().replace("<object>", _AT_ZERO + "<object>", 1))
    found, where = open_annotations(str(root))
    names = [category.name for category in found.categories]
    assert sorted(names) == ["blue", "red"]
    by_name = {image.name.rsplit("/", 1)[-1]: image for image in found.images}
    assert len(by_name) == len(found.images) == 6
    for scene in annotated.scenes():
        image = by_name[scene.name]
        assert (where / image.name).exists()
        assert image.size == annotated.SIZE
        assert image.split == ("" if "one folder" in layout else _split(scene.split))
        objects = image.objects.keep(image.objects.boxes[:, 0] > 0)
        given = [annotated.CLASSES[label] for label, _ in scene.objects]
        assert [names[label] for label in objects.labels] == given
        np.testing.assert_allclose(objects.boxes, [box for _, box in scene.objects], atol=1e-6)
    assert not found.left_out
    assert not found.warnings


_AT_ZERO = (
    "<object><name>red</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>3</xmax><ymax>3</ymax>"
    "</bndbox></object>"
)


def _split(name: str) -> str:
    return {"train": "train", "val": "test"}[name]


def test_one_file_and_its_images_elsewhere(tmp_path):
    root = annotated.make_coco(tmp_path / "set")
    file = root / "annotations" / "instances_train2017.json"
    assert len(open_annotations(str(file)).annotations.images) == 4
    alone = tmp_path / "alone.json"
    alone.write_text(file.read_text())
    found = open_annotations(str(alone), root=str(root)).annotations
    assert {image.name for image in found.images} == {f"train2017/train{n}.png" for n in range(4)}
    described = annotated.make_yolo(tmp_path / "yolo") / "data.yaml"
    assert len(open_annotations(str(described)).annotations.images) == 6


def test_what_is_no_set_is_refused_with_what_would_be_right(tmp_path):
    for name in ("nowhere", "empty", "list.csv"):
        path = tmp_path / name
        if name == "empty":
            path.mkdir()
        elif name == "list.csv":
            path.write_text("a,b\n")
        with pytest.raises(DataError, match=r"COCO's JSON files, Pascal VOC's XML"):
            open_annotations(str(path))


def test_two_files_of_one_split_are_refused(tmp_path):
    root = annotated.make_coco(tmp_path / "set")
    file = root / "annotations" / "instances_train2017.json"
    (root / "annotations" / "instances_train2014.json").write_text(file.read_text())
    with pytest.raises(DataError, match="are both of the split train"):
        open_annotations(str(root))


def test_ids_of_categories_are_kept_as_plain_values():
    categories = categories_of([{"id": 3, "name": "red"}, {"id": 7, "name": "blue"}])
    assert categories_of(categories_to_list(categories)) == categories
    assert categories[1].id == 7

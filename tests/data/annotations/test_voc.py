"""Pascal VOC's files: what counts from one, what is difficult, and faults by name."""

from __future__ import annotations

import pytest

from foveate.data.annotations.open import open_annotations
from foveate.data.sources.base import DataError
from tests.data.annotated import make_voc


def read(root):
    return open_annotations(str(root)).annotations


def _edit(root, name, before, after):
    path = root / "Annotations" / f"{name}.xml"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    return root


def test_a_set_without_a_zero_counts_from_one(tmp_path):
    assert "pixels are counted from one, as in Pascal VOC" in read(make_voc(tmp_path / "s")).notes
    text = "<xmin>0</xmin><ymin>5</ymin><xmax>9</xmax><ymax>9</ymax>"
    found = "<object><name>red</name><bndbox>" + text + "</bndbox></object></annotation>"
    root = _edit(make_voc(tmp_path / "zero"), "val4", "</annotation>", found)
    assert "pixels are counted from zero: the least xmin or ymin is 0" in read(root).notes[0]


def test_difficult_objects_count_neither_way(tmp_path):
    root = _edit(make_voc(tmp_path / "s"), "train0", "<bndbox>", "<difficult>1</difficult><bndbox>")
    found = read(root)
    image = next(image for image in found.images if "train0" in image.name)
    assert image.objects.crowd.tolist() == [True, False]
    assert found.notes[-1].startswith("1 objects marked difficult")


def test_names_and_lists_that_do_not_fit_are_counted(tmp_path):
    root = make_voc(tmp_path / "s")
    (root / "JPEGImages" / "train1.png").unlink()
    (root / "ImageSets" / "Main" / "train.txt").write_text("train0 1\ntrain1 1\ntrain2 -1\n")
    _edit(root, "train2", "train2.png", "renamed.png")  # found by the name of the XML
    found = read(root)
    assert len(found.images) == 4
    assert {(left.name, left.reason) for left in found.left_out} == {
        ("train1.png", "annotated images that are not there"),
        ("Annotations/train3.xml", "annotation files that no list in ImageSets/Main names"),
    }


def test_a_list_that_lost_all_its_images_is_refused(tmp_path):
    root = make_voc(tmp_path / "s")
    (root / "ImageSets" / "Main" / "test.txt").write_text("kept0\nkept1\n")
    listed = "listed in ImageSets/Main, without an annotation file"
    assert [left.name for left in read(root).left_out if left.reason == listed] == [
        "kept0",
        "kept1",
    ]
    for name in ("val4", "val5"):
        (root / "JPEGImages" / f"{name}.png").unlink()
    with pytest.raises(DataError, match=r"all 2 images that the lists in .* have held out are"):
        read(root)


FAULTS = {
    "cut off": ("</annotation>", "", "train0.xml is no XML, or cut off"),
    "no name": ("<name>red</name>", "", "train0.xml: object 1 has no name"),
    "no corner": ("<xmin>", "<xmid>", "cut off"),
    "word": ("<ymax>", "<ymax>x", r"object 1 \(red\) needs a bndbox"),
    "same image": ("train0.png", "train1.png", "are both of the image 'JPEGImages/train1.png'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_with_file_and_entry(fault, tmp_path):
    before, after, message = FAULTS[fault]
    root = _edit(make_voc(tmp_path / "s"), "train0", before, after)
    with pytest.raises(DataError, match=message):
        read(root)


def test_a_class_of_held_out_images_alone_is_refused(tmp_path):
    root = _edit(make_voc(tmp_path / "s"), "val4", "<name>red", "<name>green")
    with pytest.raises(DataError, match=r"val4.xml has an object 'green'.*blue, red"):
        read(root)


def test_masks_cannot_be_asked_for(tmp_path):
    root = make_voc(tmp_path / "s")
    with pytest.raises(DataError, match="boxes only: give masks='ellipse'"):
        open_annotations(str(root), masks=True)


def test_a_coordinate_that_is_no_number_does_not_decide_where_pixels_count_from(tmp_path):
    root = _edit(make_voc(tmp_path / "s"), "train0", "<xmin>", "<xmin>nan</xmin><xmin>")
    _edit(root, "train1", "<ymin>", "<ymin>0</ymin><ymin>")
    assert "pixels are counted from zero" in read(root).notes[0]


def test_xml_of_another_kind_is_no_image_without_objects(tmp_path):
    root = make_voc(tmp_path / "s")
    (root / "Annotations" / "train0.xml").write_text("<project/>")
    found = read(root)
    assert not any("train0" in image.name for image in found.images)
    assert [left.name for left in found.left_out] == ["Annotations/train0.xml"]


def test_damaged_files_are_named(tmp_path):
    root = make_voc(tmp_path / "a")
    (root / "Annotations" / "train0.xml").write_text('<?xml version="1.0" encoding="foo"?><a/>')
    with pytest.raises(DataError, match=r"train0.xml is no XML.*unknown encoding"):
        read(root)
    root = _edit(make_voc(tmp_path / "b"), "train0", "<bndbox>", "<difficult>2</difficult><bndbox>")
    with pytest.raises(DataError, match=r"train0.xml: object 1 .* has difficult '2'"):
        read(root)
    root = make_voc(tmp_path / "c")
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n")
    with pytest.raises(DataError, match=r"train.txt is empty"):
        read(root)
    root = _edit(make_voc(tmp_path / "d"), "train0", "<width>60", "<width>inf")
    assert len(read(root).images) == 6

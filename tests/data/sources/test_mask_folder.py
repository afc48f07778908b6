"""Folders of images and masks: what is read, what is refused, what is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.data.images import ImageSet, drop_pixels, load, prepare_masks
from foveate.data.sources.base import DataError
from tests.data.masks import make_scenes, rewrite

ORIENTATION = 0x0112


def read(root: Path, **options: object) -> ImageSet:
    place = root.with_name(root.name + "-read")
    shutil.rmtree(place, ignore_errors=True)
    return prepare_masks(place, str(root), (16, 16), **options)


def refusal(root: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read(root, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("layout", "kinds"),
    [
        ("{kind}/{split}", ("images", "masks")),
        ("{split}/{kind}", ("images", "masks")),
        ("{split}/{kind}", ("imgs", "labels")),
        ("{split}{kind}", ("", "annot")),
        ("{kind}", ("JPEGImages", "SegmentationClass")),
        ("{kind}", ("images", "annotations")),
    ],
)
def test_layouts_that_people_have_are_read(tmp_path, layout, kinds):
    root = make_scenes(tmp_path / "set", layout=layout, kinds=kinds)
    found = read(root)
    assert len(found.train) + len(found.test) == 10
    assert found.classes == ["ground", "green", "blue"]
    for split in (found.train, found.test):
        for index in range(len(split)):
            image, mask = split[index], split.mask(index)
            assert mask.shape == image.shape[:2]
            for label in (1, 2):
                others = image[..., label][mask == 0]
                assert image[..., label][mask == label].min() > others.max()


def test_lists_of_voc_say_the_split_and_what_they_leave_out(tmp_path):
    root = make_scenes(tmp_path / "voc", layout="{kind}", kinds=("JPEGImages", "SegmentationClass"))
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("train0\ntrain1\ntrain2\n")
    (lists / "val.txt").write_text("val0\nval1\n")
    (root / "SegmentationClass" / "val3.png").unlink()
    found = read(root)
    assert [len(found.train), len(found.test)] == [3, 2]
    lines = "\n".join(found.findings.lines())
    assert "left out, images without a mask: 1 (JPEGImages/val3.png)" in lines
    assert "in no list under ImageSets/Segmentation: 4" in lines
    (lists / "val.txt").write_text("val3\n")
    assert "lists 'val3', which has no image with a mask" in refusal(root)


def test_a_palette_is_read_by_its_indices(tmp_path):
    root = make_scenes(tmp_path / "set")
    before = read(root).train.mask(0).copy()
    for path in root.glob("masks/*/*.png"):
        mask = Image.fromarray(np.asarray(Image.open(path)), mode="L").convert("P")
        mask = Image.fromarray(np.asarray(Image.open(path)))
        mask.putpalette([7 * value % 256 for value in range(768)])
        mask.save(path)
    found = read(root)
    assert Image.open(path).mode == "P"
    assert np.array_equal(found.train.mask(0), before)


def test_colors_are_read_by_a_table_and_not_without(tmp_path):
    root = make_scenes(tmp_path / "set", names=False)
    before = read(root).train.mask(0).copy()
    colors = np.zeros((256, 3), np.uint8)
    colors[:3] = [[0, 0, 0], [0, 200, 0], [9, 9, 200]]
    colors[255] = [250, 250, 250]
    for path in root.glob("masks/*/*.png"):
        rewrite(path, lambda labels: colors[labels])
    assert "is in color (RGB), and no table says" in refusal(root)
    table = "name,r,g,b\nground,0,0,0\ngreen,0,200,0\nblue,9,9,200\n"
    (root / "class_dict.csv").write_text(table)
    text = refusal(root)
    assert "holds the color (250, 250, 250)" in text
    assert "train0.png" in text
    (root / "class_dict.csv").write_text(table + "void,250,250,250\n")
    found = read(root, ignored=3)
    assert found.classes == ["ground", "green", "blue"]
    assert np.array_equal(found.train.mask(0), before)


def test_masks_of_0_and_255_are_binary_and_this_is_said(tmp_path):
    root = make_scenes(tmp_path / "set", names=False)
    for path in root.glob("masks/*/*.png"):
        rewrite(path, lambda labels: np.where(labels % 255 > 0, 255, 0).astype(np.uint8))
    found = read(root)
    assert found.classes == ["background", "foreground"]
    assert set(np.unique(found.train.mask(0))) == {0, 1}
    assert any("0 and 255 alone: read as background and foreground" in n
               for n in found.findings.notes)  # fmt: skip
    assert "have 1 class beside pixels that are ignored (255)" in refusal(root, ignored=255)


def test_masks_that_write_foreground_in_two_ways_are_refused(tmp_path):
    root = make_scenes(tmp_path / "set", names=False)
    for number, path in enumerate(sorted(root.glob("masks/*/*.png"))):
        high = 255 if number % 2 else 1
        rewrite(path, lambda labels, high=high: np.where(labels % 255 > 0, high, 0).astype("u1"))
    text = refusal(root)
    assert "holds 1 and mask" in text
    assert "no mask holds both" in text
    assert "--ignore-label 255" in text
    assert "have 1 class" not in text
    assert read(root, ignored=255).classes == ["class 0", "class 1"]


def test_without_a_list_there_is_a_class_for_each_label_in_use(tmp_path):
    root = make_scenes(tmp_path / "set", names=False, counts={"train": 14, "val": 10})
    rewrite(
        root / "masks/train/train1.png",
        lambda labels: np.where(labels == 2, 200, labels).astype("u1"),
    )
    found = read(root)
    assert found.classes == ["class 0", "class 1", "class 2", "class 200"]
    assert any("4 classes, the labels in use (0 to 2, 200)" in n for n in found.findings.notes)
    warning = "label 200 stands in one of 24 masks"
    assert any(warning in w and "train1.png" in w for w in found.findings.warnings)


def test_too_many_labels_name_a_mask(tmp_path):
    root = make_scenes(tmp_path / "set", names=False)
    path = root / "masks/train/train1.png"
    Image.fromarray((np.arange(20 * 26).reshape(20, 26) * 100).astype(np.uint16)).save(path)
    assert f"up to 255 are read; the mask {path} holds 51900" in refusal(root)


def test_a_list_of_classes_says_what_is_ignored(tmp_path):
    root = make_scenes(tmp_path / "set", names=False)
    listed = {"classes": ["ground", "void", "blue"], "ignore_index": 1}
    (root / "classes.json").write_text(json.dumps(listed))
    found = read(root)
    assert found.classes == ["ground", "blue"]
    assert set(np.unique(found.train.mask(0))) == {0, 1, 255}
    assert "labels that are ignored: 1, 255" in found.findings.notes
    assert sum(found.class_pixels) == sum(
        int((found.train.mask(i) != 255).sum()) for i in range(len(found.train))
    )


def test_an_ignored_label_may_be_given(tmp_path):
    found = read(make_scenes(tmp_path / "set"), ignored=0)
    assert found.classes == ["green", "blue"]
    assert set(np.unique(found.train.mask(0))) == {0, 1, 255}


def test_labels_out_of_range_name_file_value_and_list(tmp_path):
    root = make_scenes(tmp_path / "set")
    rewrite(root / "masks" / "val" / "val1.png", lambda labels: np.where(labels == 2, 7, labels))
    text = refusal(root)
    assert "val1.png holds the label 7 (64 pixels)" in text or "val1.png holds the label 7" in text
    assert "classes.txt has 3 classes, 0 to 2" in text
    assert "--ignore-label 7" in text


def test_a_mask_of_another_size_names_both(tmp_path):
    root = make_scenes(tmp_path / "set")
    rewrite(root / "masks" / "train" / "train2.png", lambda labels: labels[:-3])
    text = refusal(root)
    assert "train2.png is 17x26 (height x width)" in text
    assert "is 20x26" in text


def test_a_missing_mask_is_refused_and_a_spare_one_counted(tmp_path):
    root = make_scenes(tmp_path / "set")
    (root / "images" / "val" / "val0.png").unlink()
    assert "left out, masks without an image: 1 (masks/val/val0.png)" in read(root).findings.lines()
    (root / "masks" / "train" / "train3.png").unlink()
    text = refusal(root)
    assert "1 of 6 images" in text
    assert "first 'images/train/train3.png': expected masks/train/train3.png" in text


def test_a_split_without_masks_is_counted(tmp_path):
    for layout in ("{kind}/{split}", "{split}/{kind}"):
        root = make_scenes(tmp_path / layout[1], {"train": 4, "val": 3, "test": 2}, layout=layout)
        shutil.rmtree(root / layout.format(kind="masks", split="test"))
        found = read(root)
        assert [len(found.train), len(found.test), found.final] == [4, 3, None]
        assert any("images of a folder without masks: 2" in line for line in found.findings.lines())


def test_a_broken_image_is_left_out_with_its_mask(tmp_path):
    root = make_scenes(tmp_path / "set")
    path = root / "images" / "train" / "train1.png"
    path.write_bytes(path.read_bytes()[:60])
    found = read(root)
    assert len(found.train) == 5
    assert found.skipped[0]["file"] == "images/train/train1.png"
    assert found.train.mask(1).shape == found.train[1].shape[:2]


def test_masks_that_lose_values_are_refused(tmp_path):
    root = make_scenes(tmp_path / "set")
    path = root / "masks" / "train" / "train0.png"
    Image.open(path).save(path.with_suffix(".jpg"))
    path.unlink()
    assert "train0.jpg is a JPEG, which changes values" in refusal(root)


def turn(path: Path, orientation: int) -> None:
    """Say by EXIF that the stored image is to be turned; what it shows changes."""
    image = Image.open(path)
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    image.save(path, exif=exif)


def test_a_turned_image_and_its_mask(tmp_path):
    root = make_scenes(tmp_path / "set")
    turn(root / "images" / "train" / "train0.png", 6)
    found = read(root)  # the mask was drawn on the stored pixels
    image, mask = found.train[0], found.train.mask(0)
    assert image.shape[:2] == mask.shape == (26, 20)
    assert image[..., 1][mask == 1].min() > image[..., 1][mask == 0].max()
    assert found.findings.kinds["mask turned"] == 1
    rewrite(root / "masks" / "train" / "train0.png", lambda labels: np.rot90(labels, -1).copy())
    assert np.array_equal(read(root).train.mask(0), mask)  # and now on the upright ones


def test_a_turned_image_whose_mask_fits_both_ways_is_left_out(tmp_path):
    root = make_scenes(tmp_path / "set")
    turn(root / "images" / "train" / "train0.png", 3)
    found = read(root)
    assert len(found.train) == 5
    assert "fits both ways" in found.skipped[0]["reason"]
    turn(root / "masks" / "train" / "train0.png", 3)
    assert len(read(root).train) == 6


def test_what_cannot_be_a_set_of_masks_says_what_would_be(tmp_path):
    (tmp_path / "set" / "cats").mkdir(parents=True)
    assert "expected images/{train,val,test} beside masks/" in refusal(tmp_path / "set")
    assert "is no folder" in refusal(tmp_path / "absent")
    root = make_scenes(tmp_path / "two")
    (root / "labels").mkdir()
    assert "has labels and masks: keep one folder" in refusal(root)


def test_a_set_goes_on_with_the_same_masks_or_not_at_all(tmp_path):
    root, place = make_scenes(tmp_path / "set"), tmp_path / "read"
    before = prepare_masks(place, str(root), (16, 16))
    kept = before.test.mask(1).copy()
    drop_pixels(place)
    assert not list(place.glob("*.pixels"))
    assert np.array_equal(prepare_masks(place, str(root), (16, 16)).test.mask(1), kept)
    assert np.array_equal(load(place).test.mask(1), kept)
    drop_pixels(place)
    rewrite(root / "masks" / "val" / "val1.png", lambda labels: labels * 0)
    with pytest.raises(DataError, match=r"val1\.png' has changed"):
        prepare_masks(place, str(root), (16, 16))


def test_what_stands_for_two_things_is_refused(tmp_path):
    root = make_scenes(tmp_path / "set")
    image = root / "images" / "train" / "train0.png"
    shutil.copy(image, image.with_suffix(".bmp"))
    assert "have one mask, 'masks/train/train0.png'" in refusal(root)
    image.with_suffix(".bmp").unlink()
    (root / "classes.txt").write_text("ground\n\ngreen\nblue\n")
    assert "line 2 is blank" in refusal(root)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('"abc"', "expected a list of names"),
        ('[["a"], ["b"], ["c"]]', "needs a name for each class"),
        ('{"a": 0, "b": 1, "c": 1}', "two classes one number"),
        ('{"a": 0, "b": 1, "c": 2.5}', "the number of a class is 2.5"),
        ('{"classes": ["a", "b", "c"], "ignore_index": 1.7}', "ignore_index must be"),
        ('{"classes": ["a", "b", "c"], "ignore_index": 999999999999}', "ignore_index must be"),
    ],
)
def test_lists_of_classes_are_not_guessed_at(tmp_path, text, said):
    root = make_scenes(tmp_path / "set", names=False)
    (root / "classes.json").write_text(text)
    assert said in refusal(root)
    (root / "classes.json").unlink()
    assert "ignore_label must be" in refusal(root, ignored=10**12)


def test_minus_one_is_ignored_where_masks_hold_it(tmp_path):
    root = make_scenes(tmp_path / "set")
    mask = root / "masks" / "train" / "train0.png"
    labels = np.asarray(Image.open(mask)).astype(np.int32)
    mask.unlink()
    Image.fromarray(np.where(labels == 255, -1, labels)).save(mask.with_suffix(".tif"))
    found = read(root, ignored=-1)
    assert np.array_equal(found.train.mask(0), labels)


def test_classes_without_a_pixel_are_said_and_a_split_of_ignored_pixels_is_refused(tmp_path):
    root = make_scenes(tmp_path / "set")
    for mask in (root / "masks" / "train").iterdir():
        rewrite(mask, lambda labels: np.where(labels == 2, 0, labels).astype(np.uint8))
    warnings = read(root).findings.warnings
    assert warnings == ("no pixel of 'blue' in the train part: such a class cannot be learnt",)
    for mask in (root / "masks" / "val").iterdir():
        rewrite(mask, lambda labels: labels * 0 + 255)
    assert "no pixel in the test part" in refusal(root)


def test_a_damaged_mask_is_not_said_to_be_its_image(tmp_path):
    root = make_scenes(tmp_path / "set")
    (root / "masks" / "train" / "train0.png").write_bytes(b"")
    assert read(root).skipped[0]["reason"] == "of its mask: not an image"


@pytest.mark.parametrize(
    ("val", "said"),
    [
        (b"a\n", "'a' is in the lists of two splits"),
        (b"\n", "val.txt is empty"),
        (b"\xff\xfe", "val.txt is no list of images that can be read"),
    ],
)
def test_lists_of_splits_that_cannot_be_meant_are_refused(tmp_path, val, said):
    root = make_scenes(
        tmp_path / "set", {"": 3}, layout="{kind}", kinds=("JPEGImages", "SegmentationClass")
    )
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for kind in ("JPEGImages", "SegmentationClass"):
        (root / kind / "0.png").rename(root / kind / "a.png")
    (lists / "train.txt").write_text("a\n1\n")
    (lists / "val.txt").write_bytes(val)
    assert said in refusal(root)


def test_a_link_to_the_folder_around_it_is_not_followed(tmp_path):
    root = make_scenes(tmp_path / "set")
    for kind in ("images", "masks"):
        (root / kind / "train" / "loop").symlink_to(root / kind / "train")
    assert len(read(root).train) == 6

"""Folders as people have them: what is read, and what is said of the rest."""

from __future__ import annotations

import os
import shutil
import socket

import numpy as np
import pytest
from PIL import Image

from foveate.data.findings import printable
from foveate.data.images import prepare
from foveate.data.sources.base import DataError, split_named
from tests.data.folders import blocks, make_blocks, make_folder, truncate


def read(root, **options):
    return prepare(root.parent / f"{root.name}-out", str(root), (32, 32), cache="none", **options)


def said(images):
    return "\n".join(images.findings.lines())


def is_above(image):
    """Whether the bright block is in the upper half, as in the class above."""
    gray = image.reshape(*image.shape[:2], -1).mean(2)
    middle = len(gray) // 2
    return gray[:middle].mean() > gray[middle:].mean()


def all_right(images):
    return all(
        is_above(split[i]) == (images.classes[label] == "above")
        for split in (images.train, images.test)
        for i, label in enumerate(split.labels)
    )


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def eight(tmp_path):
    return read(make_blocks(tmp_path / "eight"))


def test_eight_bits(eight):
    assert (len(eight.train), len(eight.test), eight.findings.left_out) == (10, 2, ())
    assert all_right(eight)


def test_sixteen_bits_read_as_eight_do(root, eight):
    def save(pixels, path):
        Image.fromarray(pixels.astype(np.uint16) * 257).save(path.with_suffix(".png"))

    found = read(make_blocks(root, save=save))
    for i in range(len(eight.train)):
        np.testing.assert_array_equal(found.train[i], eight.train[i])
    assert "12 images of 16 bits" in said(found)
    assert "16-bit values 0 to 65535 are read as 0 to 255" in said(found)


def test_exif_turned(root):
    turned = Image.Exif()
    turned[0x0112] = 3

    def save(pixels, path):
        image = Image.fromarray(pixels).rotate(180)
        image.save(path.with_suffix(".jpg"), exif=turned)

    make_blocks(root, splits=("train",), save=save)
    make_blocks(root, splits=("val",))
    found = read(root)
    assert all_right(found)
    assert "12 images turned upright, as their EXIF orientation says" in said(found)


def test_ink_on_nothing_is_laid_on_white(root):
    def save(pixels, path):
        page = np.zeros((40, 40, 4), np.uint8)
        page[..., 3] = np.where(pixels > 100, 255, 0)
        Image.fromarray(page).save(path.with_suffix(".png"))

    found = read(make_blocks(root, save=save))
    assert said(found).count("with transparency laid on white") == 1
    assert found.train[0].max() == 255
    assert found.train[0].min() == 0


def test_light_ink_on_nothing_is_warned_of(root):
    def save(pixels, path):
        page = np.full((40, 40, 4), 255, np.uint8)
        page[..., 3] = np.where(pixels > 100, 255, 0)
        Image.fromarray(page).save(path.with_suffix(".png"))

    found = read(make_blocks(root, save=save))
    assert "warning: most images are of one color throughout" in said(found)


def test_one_pixel_among_good_ones(root):
    make_blocks(root)
    Image.new("RGB", (1, 1)).save(root / "above" / "tracking.gif")
    found = read(root)
    shapes = {split[i].shape for split in (found.train, found.test) for i in range(len(split))}
    assert shapes == {(40, 40, 3), (1, 1, 3)}
    assert len(found.train) + len(found.test) == 13


@pytest.mark.parametrize(
    "names",
    [
        ("Training", "Testing"),
        ("train", "Validation"),
        ("training_set", "test_set"),
        ("TRN", "dev"),
        ("Train Data", "valid"),
        ("training-images", "val"),
    ],
)
def test_split_names_of_any_habit(root, names):
    found = read(make_blocks(root, splits=names))
    assert found.classes == ["above", "below"]
    assert (len(found.train), len(found.test), found.final) == (12, 12, None)
    assert {name.split("/")[0] for name in found.train.names} == {names[0]}
    assert f"{names[1]} as held out" in said(found)


@pytest.mark.parametrize("name", ["traincar", "trainer", "contest", "value", "testament", "cat"])
def test_other_words_are_no_splits(name):
    assert split_named(name) is None


def test_three_splits_keep_the_last_for_the_end(root):
    found = read(make_blocks(root, splits=("train", "val", "test")))
    assert {name.split("/")[0] for name in found.test.names} == {"val"}
    assert {name.split("/")[0] for name in found.final.names} == {"test"}
    np.testing.assert_array_equal(found.final[0][..., 0], blocks(6, True, 2)[0])
    assert "12 images of the test split are kept for the very end" in said(found)


def test_notebook_copies_are_left_out(root):
    make_blocks(root)
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".thumbnails", "thumbs"):
        shutil.copytree(root / "above", root / "above" / name, ignore=lambda d, f: f[:0])
        shutil.copy(root / "above" / "0.png", root / "above" / name / "0.png")
    for name in ("Thumbs.db", "._0.png", ".DS_Store", "desktop.ini"):
        (root / "above" / name).write_bytes(b"x")
    found = read(root)
    assert len(found.train) + len(found.test) == 12
    counts = found.findings.counts
    assert counts["in hidden or thumbnail folders"] >= 5
    assert counts["hidden files and files of the operating system"] == 4
    assert "above/.ipynb_checkpoints" in said(found)
    assert not found.skipped


def test_broken_links_are_named_and_the_class_warned_of(root):
    make_blocks(root)
    for file in sorted((root / "below").iterdir())[:4]:
        file.unlink()
        file.symlink_to("/unmounted/" + file.name)
    found = read(root)
    assert "left out, broken links: 4 (below/0.png, below/1.png, below/2.png, ...)" in said(found)
    assert "warning: class 'below' lost most of its images: 4 of 6 are left out" in said(found)


def test_a_class_of_broken_links_only_is_refused(root):
    make_blocks(root)
    for file in (root / "below").iterdir():
        file.unlink()
        file.symlink_to("/unmounted/" + file.name)
    with pytest.raises(
        DataError, match=r"'below' .* only files that cannot be read: 6 broken links"
    ):
        read(root)


def test_copies_across_the_split(root):
    make_blocks(root, splits=("train",))
    shutil.copytree(root / "train", root / "val")
    found = read(root)
    assert found.findings.duplicates.across == 12
    assert found.findings.duplicates.pairs[0] == ("val/above/0.png", "train/above/0.png")
    assert "warning: 12 images held out and among the training images as well" in said(found)


def test_copies_can_be_left_out(root):
    make_blocks(root, splits=("train", "val"))
    shutil.copy(root / "val" / "above" / "0.png", root / "train" / "above" / "copy.png")
    shutil.copy(root / "train" / "above" / "1.png", root / "train" / "below" / "again.png")
    kept = read(root)
    assert len(kept.train) == 14
    found = kept.findings.duplicates
    assert (found.across, found.within, found.conflicting) == (1, 1, 2)
    shutil.rmtree(root.parent / "data-out")
    left = read(root, duplicates="leave_out")
    assert (len(left.train), len(left.test)) == (13, 12)
    assert "train/above/copy.png" not in left.train.names
    assert "1 image held out and among the training images as well; 1 left out" in said(left)


def test_a_class_called_train(root):
    make_blocks(root)
    (root / "below").rename(root / "train")
    found = read(root)
    assert found.classes == ["above", "train"]
    assert "'train' is read as a class" in said(found)


def test_a_class_called_train_with_folders_is_refused_in_helpful_words(root):
    make_blocks(root)
    (root / "train").mkdir()
    (root / "below").rename(root / "train" / "steam")
    with pytest.raises(DataError, match="if 'train' is a class, put its images into it directly"):
        read(root)


@pytest.mark.parametrize("name", ["坏.jpg", os.fsdecode(b"\xe9t\xe9.jpg"), "a\x1b[2Jb.jpg"])
def test_names_in_any_encoding(root, name):
    make_blocks(root)
    (root / "above" / name).touch()
    good = os.fsdecode(b"na\xefve.png")
    shutil.copy(root / "above" / "0.png", root / "below" / good)
    found = read(root)
    text = said(found)
    text.encode()
    assert printable(f"above/{name}") in text
    again = read(root)
    assert f"below/{good}" in [*again.train.names, *again.test.names]


def test_names_are_escaped():
    assert printable(os.fsdecode(b"\xe9t\xe9") + "\x1b[2J") == "\\xe9t\\xe9\\x1b[2J"
    assert printable("坏 é") == "坏 é"


def test_a_folder_s_name_in_another_encoding(root):
    make_blocks(root)
    (root / "below").rename(root / os.fsdecode(b"\xe9t\xe9"))
    assert read(root).classes == ["above", "\\xe9t\\xe9"]


def test_stray_images_are_said(root):
    make_blocks(root)
    Image.new("L", (4, 4)).save(root / "cover.png")
    assert "left out, images in no class folder: 1 (cover.png)" in said(read(root))


def test_stray_images_alone_are_refused_in_helpful_words(root):
    root.mkdir()
    Image.new("L", (4, 4)).save(root / "cover.png")
    with pytest.raises(
        DataError, match=r"1 images lie in .* expected one folder a class, or a list"
    ):
        read(root)


def test_the_study_s_own_runs_are_no_class(root):
    make_blocks(root)
    run = root / "runs" / "study"
    (run / "views").mkdir(parents=True)
    (run / "plan.yaml").write_text("epochs: 1")
    Image.new("L", (4, 4)).save(run / "views" / "a.png")
    found = read(root)
    assert found.classes == ["above", "below"]
    assert "left out, run directories of foveate: 2 (runs)" in said(found)


def test_a_class_called_runs_is_one(root):
    make_blocks(root)
    (root / "below").rename(root / "runs")
    assert read(root).classes == ["above", "runs"]


def test_folders_without_images_are_no_classes(root):
    make_blocks(root)
    (root / "notes").mkdir()
    (root / "notes" / "readme.txt").write_text("x")
    (root / "empty").mkdir()
    found = read(root)
    assert found.classes == ["above", "below"]
    assert found.findings.counts["folders without images"] == 2


def test_heic_names_the_package(root):
    make_blocks(root)
    (root / "above" / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    (root / "above" / "draw.svg").write_text("<svg/>")
    reasons = {s["file"]: s["reason"] for s in read(root).skipped}
    assert "pillow-heif" in reasons["above/phone.HEIC"]
    assert "convert it to PNG" in reasons["above/draw.svg"]


def test_folders_that_cannot_be_opened_are_said(root, monkeypatch):
    make_blocks(root)
    make_folder(root / "more", {"x": 2})
    scan = os.scandir

    def closed(path):
        if str(path).endswith("more"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", closed)
    found = read(root)
    assert "folders that cannot be opened: Permission denied: 1 (more)" in said(found)
    assert "warning: 'more' is missing from the set" in said(found)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no such files here")
def test_pipes_and_sockets_do_not_hang(root, monkeypatch):
    make_blocks(root)
    os.mkfifo(root / "above" / "pipe.png")
    monkeypatch.chdir(root / "below")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        assert read(root).findings.counts["not regular files"] == 2


def test_links_to_folders_are_followed_and_circles_end(root):
    make_blocks(root)
    (root / "below").rename(root.parent / "elsewhere")
    (root / "below").symlink_to(root.parent / "elsewhere")
    (root / "above" / "round").symlink_to(root / "above")
    found = read(root)
    assert len(found.train) + len(found.test) == 12


def test_unlabelled_test_images_are_said(root):
    make_blocks(root, splits=("train", "val"))
    (root / "test").mkdir()
    Image.new("L", (4, 4)).save(root / "test" / "1.png")
    found = read(root)
    assert found.final is None
    assert "left out, images of a split in no class folder: 1 (test)" in said(found)


def test_two_folders_of_one_split_are_refused(root):
    make_blocks(root, splits=("train", "Training", "val"))
    with pytest.raises(DataError, match=r"'Training' and 'train' .* name the same split"):
        read(root)


def test_held_out_classes_are_matched_in_any_case_and_form(root):
    make_blocks(root, splits=("train", "val"))
    (root / "val" / "above").rename(root / "val" / "Above")
    found = read(root)
    assert all_right(found)
    assert "class 'Above' of val is taken for 'above'" in said(found)


def test_a_class_with_no_held_out_image_is_said(root):
    make_blocks(root, splits=("train", "val"))
    shutil.rmtree(root / "val" / "below")
    assert "val has no image of 1 of 2 classes (below)" in said(read(root))


def test_a_held_out_part_alone_is_refused(root):
    with pytest.raises(DataError, match="images to hold out, but none to train on"):
        read(make_blocks(root, splits=("val", "test")))


def test_limit_decodes_only_what_it_uses(root):
    make_blocks(root, count=40)
    calls = []
    found = read(root, limit=16, progress=lambda *count: calls.append(count))
    assert (len(found.train), len(found.test)) == (16, 4)
    assert calls[-1] == (20, 20)


def test_limit_makes_up_for_unreadable_images(root):
    make_blocks(root, count=40)
    for i in range(30):
        truncate(root / "above" / f"{i}.png")
    found = read(root, limit=16)
    assert len(found.train) == 16
    assert len(found.findings.left_out) > 0


def test_a_folder_that_grows_shifts_nothing(root, tmp_path, monkeypatch):
    from foveate.data.images import drop_pixels, load
    from foveate.data.pixels import pixel_file

    make_blocks(root)
    monkeypatch.setattr(pixel_file, "MEMORY_CAP", 100)  # decoded as needed
    before = read(root)
    assert not before.train.in_memory
    images = [before.train[i] for i in range(len(before.train))]
    Image.new("RGB", (40, 40)).save(root / "above" / "-first.png")
    after = load(tmp_path / "data-out")
    for i, image in enumerate(images):
        np.testing.assert_array_equal(after.train[i], image)
    drop_pixels(tmp_path / "data-out")
    again = read(root)
    assert again.train.names == before.train.names
    assert "1 images came to" in said(again)
    assert "'above/-first.png'; not used" in said(again)


def test_an_image_that_went_away_is_named_when_a_study_goes_on(root, tmp_path):
    from foveate.data.images import drop_pixels

    make_blocks(root)
    read(root)
    drop_pixels(tmp_path / "data-out")
    (root / "below" / "3.png").unlink()
    with pytest.raises(DataError, match=r"cannot be read any more, first 'below/3.png' \(No such"):
        read(root)


def test_more_unreadable_files_than_are_recorded_are_still_counted():
    from foveate.data.findings import Duplicates, Findings, LeftOut

    lost = [LeftOut(f"{i}.png", "not an image", "a", unreadable=True) for i in range(1500)]
    found = Findings.of(lost, {}, [], [], Duplicates())
    assert len(found.left_out) == 1000
    assert found.lines()[0].startswith("skipped 1500 unreadable files: 0.png (not an image)")

"""Data sets: what is read, what is skipped and named, what is refused."""

from __future__ import annotations

import struct
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from foveate._files import read_json
from foveate.data.images import drop_pixels, load, prepare
from foveate.data.pixels import pixel_file
from foveate.data.sources.open import DataError
from foveate.data.splitting import stratified_split
from tests.data.folders import make_folder, truncate


def test_the_digits_are_split_stratified_and_always_the_same_way(tmp_path):
    one = prepare(tmp_path / "a", "digits", (32, 32))
    other = prepare(tmp_path / "b", "digits", (32, 32))
    assert len(one.train) + len(one.test) == 1797
    assert one.test.labels == other.test.labels
    shares = [Counter(one.test.labels)[c] / Counter(one.train.labels)[c] for c in range(10)]
    assert min(shares) > 0.23
    assert max(shares) < 0.27
    assert one.channels == 1
    assert one.augmentation.kind == "affine"
    assert one.train[0].shape == (8, 8)
    np.testing.assert_array_equal(one.train[7], other.train[7])


def test_every_image_is_in_one_part_only(tmp_path):
    prepare(tmp_path, "digits", (8, 8))
    index = read_json(tmp_path / "index.json")
    names = index["train"]["names"] + index["test"]["names"]
    assert sorted(map(int, names)) == list(range(1797))


def test_a_split_holds_out_at_least_one_of_each_class():
    train, test = stratified_split([0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    assert len(test) == 3
    assert sorted(train + test) == list(range(12))


def test_a_folder_in_one_tree(tmp_path):
    folder = make_folder(tmp_path / "data", {"cat": 10, "dog": 5})
    found = prepare(tmp_path / "out", str(folder), (16, 16))
    assert found.classes == ["cat", "dog"]
    assert (len(found.train), len(found.test)) == (12, 3)
    assert found.train[0].shape == (20, 26, 3)
    for split in (found.train, found.test):
        for index, label in enumerate(split.labels):
            assert split[index].mean((0, 1)).argmax() == label


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_a_folder_in_two_trees(tmp_path, held_out):
    make_folder(tmp_path / "data" / "train", {"cat": 4, "dog": 3})
    make_folder(tmp_path / "data" / held_out, {"cat": 2, "dog": 1})
    found = prepare(tmp_path / "out", str(tmp_path / "data"), (16, 16))
    assert (len(found.train), found.test.labels) == (7, [0, 0, 1])


def test_large_images_are_kept_reduced(tmp_path):
    folder = make_folder(tmp_path / "data", {"a": 2, "b": 2}, (100, 160))
    assert prepare(tmp_path / "out", str(folder), (16, 16)).train[0].shape == (20, 32, 3)


def test_unreadable_files_are_skipped_and_named(tmp_path):
    folder = make_folder(tmp_path / "data", {"cat": 6, "dog": 6})
    truncate(folder / "cat" / "3.png")
    (folder / "dog" / "notes.txt").write_text("not an image")
    (folder / "dog" / "empty.jpg").touch()
    found = prepare(tmp_path / "out", str(folder), (16, 16))
    assert {s["file"] for s in found.skipped} == {"cat/3.png", "dog/notes.txt", "dog/empty.jpg"}
    reasons = {s["file"]: s["reason"] for s in found.skipped}
    assert "truncated" in reasons["cat/3.png"]
    assert reasons["dog/notes.txt"] == "not an image"
    assert len(found.train) + len(found.test) == 11


def empty(root):
    (root / "data").mkdir()


def only_empty_classes(root):
    for name in ("cat", "dog"):
        (root / "data" / name).mkdir(parents=True)


def one_class(root):
    make_folder(root / "data", {"cat": 4})


def lonely_image(root):
    make_folder(root / "data", {"cat": 4, "dog": 1})


def lonely_after_skipping(root):
    make_folder(root / "data", {"cat": 4, "dog": 2})
    truncate(root / "data" / "dog" / "0.png")


def nothing_readable(root):
    make_folder(root / "data", {"cat": 2, "dog": 2})
    for file in (root / "data").rglob("*.png"):
        file.write_text("no")


def class_unreadable(root):
    make_folder(root / "data" / "train", {"cat": 2, "dog": 1})
    make_folder(root / "data" / "val", {"cat": 2, "dog": 2})
    truncate(root / "data" / "train" / "dog" / "0.png")


def unknown_class(root):
    make_folder(root / "data" / "train", {"cat": 2, "dog": 2})
    make_folder(root / "data" / "val", {"cat": 2, "dogs": 2})


def a_file(root):
    (root / "data").touch()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "does not exist"),
        (a_file, "is a file"),
        (empty, "no images in"),
        (only_empty_classes, "no images in"),
        (one_class, "only one class, 'cat'"),
        (lonely_image, "class 'dog' has one readable image"),
        (lonely_after_skipping, r"class 'dog' has one readable image.*1 unreadable.*dog/0\.png"),
        (nothing_readable, "no readable image.*4 unreadable, first 'cat/0.png'"),
        (class_unreadable, "class 'dog' has no readable image"),
        (unknown_class, "class 'dogs' of .* did you mean 'dog'"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, make, message):
    make(tmp_path)
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "out", str(tmp_path / "data"), (16, 16))


def test_a_prepared_set_is_used_again(tmp_path):
    folder = make_folder(tmp_path / "data", {"cat": 4, "dog": 4})
    calls = []
    for _ in range(2):
        prepare(tmp_path / "o", str(folder), (8, 8), progress=lambda *count: calls.append(count))
    assert calls == [(i, 8) for i in range(1, 9)]


def test_pixels_dropped_come_back_if_the_images_are_still_the_same(tmp_path):
    folder = make_folder(tmp_path / "data", {"cat": 4, "dog": 4})
    before = prepare(tmp_path / "out", str(folder), (16, 16))
    first = before.train[0].copy()
    drop_pixels(tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.pixels"))
    np.testing.assert_array_equal(prepare(tmp_path / "out", str(folder), (16, 16)).train[0], first)

    drop_pixels(tmp_path / "out")
    Image.new("RGB", (26, 20)).save(folder / "cat" / "0.png")
    with pytest.raises(DataError, match="no longer those"):
        prepare(tmp_path / "out", str(folder), (16, 16))


@pytest.mark.parametrize("text", ["[]", "{", "3", "null", '{"format": []}'])
def test_a_damaged_record_is_named(tmp_path, text):
    folder = make_folder(tmp_path / "data", {"cat": 4, "dog": 4})
    prepare(tmp_path / "out", str(folder), (8, 8))
    (tmp_path / "out" / "index.json").write_text(text)
    with pytest.raises(DataError, match=r"index\.json (is damaged|was written by another)"):
        prepare(tmp_path / "out", str(folder), (8, 8))


def test_a_set_too_large_for_memory_is_read_as_needed(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "data", {"cat": 6, "dog": 6})
    monkeypatch.setattr(pixel_file, "MEMORY_CAP", 5000)
    found = prepare(tmp_path / "out", str(folder), (16, 16))
    assert not found.train.in_memory
    assert (tmp_path / "out" / "images.pixels").stat().st_size == 0
    assert found.train[0].shape == (20, 26, 3)
    monkeypatch.undo()
    whole = prepare(tmp_path / "whole", str(folder), (16, 16))
    np.testing.assert_array_equal(whole.train[3], load(tmp_path / "out").train[3])


def test_limit_keeps_the_classes_in_proportion(tmp_path):
    found = prepare(tmp_path, "digits", (8, 8), limit=100)
    assert len(found.train) == 100
    assert len(found.test) == 25
    assert set(Counter(found.train.labels).values()) <= {9, 10, 11}


def test_a_data_set_by_name_comes_through_timm(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for kind, count in (("train", 30), ("t10k", 10)):
        pixels = np.arange(count * 64, dtype=np.uint32).astype(np.uint8).tobytes()
        labels = bytes(i % 10 for i in range(count))
        (raw / f"{kind}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 2051, count, 8, 8) + pixels
        )
        (raw / f"{kind}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, count) + labels)
    found = prepare(tmp_path / "out", "torchvision/mnist", (16, 16), root=str(tmp_path))
    assert (len(found.train), len(found.test), found.channels) == (30, 10, 1)
    assert len(found.classes) == 10


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"torchvision/nope.*cannot be opened"):
        prepare(tmp_path / "out", "torchvision/nope", (8, 8), root=str(tmp_path))

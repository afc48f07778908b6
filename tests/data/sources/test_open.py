"""Lists, NumPy files, saved data sets and what is embedded."""

from __future__ import annotations

import io
import subprocess
import sys
import types
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from foveate.data.images import prepare
from foveate.data.sources.base import DataError
from foveate.data.sources.open import open_source
from tests.data.folders import blocks, make_blocks


def read(path, **options):
    return prepare(path.parent / "out", str(path), (32, 32), cache="none", **options)


def refused(path, message):
    with pytest.raises(DataError, match=message):
        read(path)


# Lists


def write_list(root, text):
    make_blocks(root)
    path = root / "list.csv"
    path.write_text(text)
    return path


def rows_of(separator=",", split=False):
    lines = []
    for name in ("above", "below"):
        for i in range(6):
            fields = [f"{name}/{i}.png", name, *(["Train" if i < 4 else "VAL"] if split else [])]
            lines.append(separator.join(fields))
    return "\n".join(lines)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_list(tmp_path, separator):
    path = write_list(tmp_path, f"\ufeffPath{separator}Label\n{rows_of(separator)}\n")
    found = read(path)
    assert found.classes == ["above", "below"]
    assert (len(found.train), len(found.test)) == (10, 2)


def test_a_list_with_a_split(tmp_path):
    found = read(write_list(tmp_path, f"file,class,split\n{rows_of(split=True)}\n"))
    assert (len(found.train), len(found.test)) == (8, 4)
    assert set(found.test.names) == {f"{c}/{i}.png" for c in ("above", "below") for i in (4, 5)}


def test_numbers_as_labels_are_in_order(tmp_path):
    rows = "\n".join(f"above/{i}.png,{10 if i % 2 else 9}" for i in range(6))
    assert read(write_list(tmp_path, f"path,label\n{rows}\n")).classes == ["9", "10"]


def test_paths_written_on_windows(tmp_path):
    text = rows_of().replace("/", "\\")
    assert len(read(write_list(tmp_path, f"path,label\n{text}\n")).train) == 10


def test_what_a_list_lacks_is_said(tmp_path):
    path = write_list(tmp_path, f"path,label\n{rows_of()}\nabove/x.png,above\nabove/1.png,\n")
    found = read(path)
    counts = found.findings.counts
    assert counts["files of the list that are not there"] == 1
    assert counts["rows without a label"] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("path,label\n", "has no rows"),
        ("photo,label\na.png,x\n", "no column 'path'; its columns are 'photo', 'label'"),
        ("path,what\na.png,x\n", "no column 'label'; its columns are 'path', 'what'"),
        ("path,label\nno.png,x\n", "no image that can be used, files of the list"),
        (
            "path,label\nabove/0.png,a\nabove/0.png,b\nabove/1.png,a\n",
            "'above/0.png' twice, with different labels",
        ),
        ("path,label\nabove/0.png,a\nabove/1.png,a\n", "one class only, 'a'"),
        ("path,label\nabove/0.png,0.37\nabove/1.png,0.5\n", "are measurements, such as 0.37"),
        ("path,label\nabove/0.png,q\nabove/1.png,w\n", "every row .* a label of its own"),
        (
            "path,label,split\nabove/0.png,a,practice\n",
            "row 1: 'practice' in column 'split' is no split",
        ),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, text, message):
    refused(write_list(tmp_path, text), message)


def test_a_list_that_is_not_in_utf_8(tmp_path):
    path = write_list(tmp_path, "")
    path.write_bytes("path,label\ncafé.png,x\n".encode("latin-1"))
    refused(path, "is not in UTF-8")


def test_parquet_without_pyarrow_names_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    path = tmp_path / "list.parquet"
    path.write_bytes(b"PAR1")
    refused(path, "needs the package pyarrow: pip install pyarrow")


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_parquet_files_that_hold_the_images(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    for split in ("train", "test"):
        rows = [
            {"image": {"bytes": encoded(pixels), "path": None}, "label": int(above)}
            for above in (True, False)
            for pixels in blocks(3, above, split == "train")
        ]
        table = pa.Table.from_pylist(rows)
        parquet.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    found = read(folder)
    assert (len(found.train), len(found.test), found.classes) == (6, 6, ["0", "1"])


def test_rows_of_a_parquet_file_as_pyarrow_gives_them(tmp_path, monkeypatch):
    """The same, with the one call into pyarrow in the place of the package."""
    rows = [
        {"image": {"bytes": encoded(pixels), "path": None}, "label": int(above)}
        for above in (True, False)
        for pixels in blocks(5, above)
    ]
    monkeypatch.setattr("foveate.data.sources.lists.read_parquet", lambda path: rows)
    path = tmp_path / "train.parquet"
    path.touch()
    found = read(path)
    assert (len(found.train), len(found.test), found.classes) == (8, 2, ["0", "1"])
    first = int(found.train.names[0].removeprefix("row "))
    np.testing.assert_array_equal(found.train[0][..., 0], blocks(5, True)[first])


# NumPy files

X = np.array([*blocks(6, True), *blocks(6, False)])
Y = np.array([0] * 6 + [1] * 6)


def test_npz(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, images=X, labels=Y, classes=np.array(["up", "down"]))
    found = read(path)
    assert (len(found.train), len(found.test), found.channels) == (10, 2, 1)
    assert found.classes == ["up", "down"]
    np.testing.assert_array_equal(found.train[0], X[0])


@pytest.mark.parametrize("style", ["{}_images {}_labels", "x_{} y_{}", "X_{} Y_{}"])
def test_npz_with_arrays_a_split(tmp_path, style):
    path = tmp_path / "set.npz"
    images, labels = style.split()
    arrays = {}
    for split in ("train", "val", "test"):
        arrays[images.format(split)], arrays[labels.format(split)] = X, Y[:, None]
    np.savez(path, **arrays)
    found = read(path)
    assert (len(found.train), len(found.test), len(found.final)) == (12, 12, 12)


def test_npz_with_words(tmp_path):
    path = tmp_path / "set.npz"
    words = np.array(["training", "training", "test"] * 4)
    np.savez(path, images=X, labels=np.where(Y, "b", "a"), split=words)
    found = read(path)
    assert (len(found.train), len(found.test), found.classes) == (8, 4, ["a", "b"])


def test_npy_pair(tmp_path):
    np.save(tmp_path / "train_images.npy", X)
    np.save(tmp_path / "train_labels.npy", Y)
    assert len(read(tmp_path / "train_images.npy").train) == 10


@pytest.mark.parametrize(
    ("images", "note"),
    [
        (X.astype(np.uint16) * 257, "16-bit values 0 to 65535"),
        ((X / 255).astype(np.float32), "floating-point values 0 to 1 "),
        (np.stack([X] * 3, 1), "channels first"),
        (np.stack([X] * 3, 3) / 255, "color values 0 to 1 (float64) are read as 0 to 255"),
    ],
)
def test_types_and_layouts_of_arrays(tmp_path, images, note):
    path = tmp_path / "set.npz"
    np.savez(path, images=images, labels=Y)
    found = read(path)
    assert note in "\n".join(found.findings.lines())
    np.testing.assert_array_equal(found.train[0].reshape(40, 40, -1)[..., 0], X[0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": X}, "holds 'a'; expected arrays 'images' and 'labels'"),
        ({"images": X, "labels": Y[:5]}, "12 images but 5 labels"),
        ({"images": X[0], "labels": Y}, r"expected \(N, H, W\)"),
        ({"images": np.zeros((12, 5, 5, 2), np.uint8), "labels": Y}, "1, 3 or 4 channels"),
        ({"images": X.astype(complex), "labels": Y}, "expected numbers"),
        ({"images": X, "labels": Y + 0.5}, "are no class numbers"),
        ({"images": X, "labels": np.ones((12, 3), int)}, "several an image"),
        ({"images": X, "labels": Y * 0}, "one class only, '0'"),
        ({"images": X, "labels": Y, "split": np.array(["x"] * 12)}, "'x' is no split"),
        ({"images": X.astype(object), "labels": Y}, "holds Python objects"),
    ],
)
def test_arrays_that_cannot_be_used(tmp_path, arrays, message):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    refused(path, message)


def test_files_that_are_none(tmp_path):
    for name in ("set.npz", "set.npy"):
        (tmp_path / name).write_bytes(b"PK nothing")
    np.save(tmp_path / "labels.npy", Y)
    refused(tmp_path / "set.npz", "cannot be read")
    refused(tmp_path / "set.npy", "cannot be read")
    (tmp_path / "set.mat").touch()
    refused(tmp_path / "set.mat", "a file of a kind that is not read")


def test_npy_without_labels(tmp_path):
    np.save(tmp_path / "scans.npy", X)
    refused(tmp_path / "scans.npy", "needs its labels in a file beside it")


# datasets


def saved_dataset(tmp_path):
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "dataset_dict.json").write_text("{}")
    return folder


def test_a_saved_data_set_without_the_package_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused(saved_dataset(tmp_path), "needs the package datasets: pip install datasets")


def test_a_saved_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["up", "down"])}
    )
    rows = {"image": [Image.fromarray(x) for x in X], "label": Y.tolist()}
    split = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(train=split, validation=split).save_to_disk(tmp_path / "saved")
    found = read(tmp_path / "saved")
    assert (len(found.train), len(found.test), found.classes) == (12, 12, ["up", "down"])


class FakeSplit:
    """A split as ``datasets`` gives it: columns by name, rows by number, features."""

    def __init__(self, label):
        kinds = {"Image": object, "ClassLabel": types.SimpleNamespace}
        image = type("Image", (kinds["Image"],), {})()
        named = type("ClassLabel", (), {"names": ["up", "down"]})()
        self.features = {"image": image, label: named}
        self.label = label

    def __getitem__(self, key):
        if key == self.label:
            return Y.tolist()
        return {"image": Image.fromarray(X[key]), self.label: int(Y[key])}


def test_a_saved_data_set_as_the_package_gives_it(tmp_path, monkeypatch):
    """The same where the package is absent, with what it returns in its place."""

    class DatasetDict(dict):
        pass

    loaded = DatasetDict(train=FakeSplit("fine_label"), validation=FakeSplit("fine_label"))
    module = types.SimpleNamespace(DatasetDict=DatasetDict, load_from_disk=lambda path: loaded)
    monkeypatch.setitem(sys.modules, "datasets", module)
    found = read(saved_dataset(tmp_path))
    assert (len(found.train), len(found.test), found.classes) == (12, 12, ["up", "down"])
    assert "columns 'image' and 'fine_label'" in "\n".join(found.findings.lines())
    np.testing.assert_array_equal(found.train[3][..., 0], X[3])


# Embedded


def test_characters_hold_out_new_writers(tmp_path):
    found = prepare(tmp_path, "characters", (32, 32))
    assert (len(found.train), len(found.test), len(found.classes)) == (2040, 680, 136)
    assert set(Counter(found.train.labels).values()) == {15}
    assert set(Counter(found.test.labels).values()) == {5}
    drawers = {int(name.split("/")[1]) for name in found.test.names}
    assert drawers == {16, 17, 18, 19, 20}
    assert found.channels == 1
    assert found.train[0].shape == (32, 32)
    ink = np.mean([(found.train[i] == 0).mean() for i in range(0, 2040, 17)])
    assert 0.05 < ink < 0.2
    assert found.augmentation.mirror is False
    assert found.findings.duplicates.across == 0
    assert "5 of 20 drawers of each alphabet are held out" in found.findings.notes


def test_characters_need_numpy_alone_to_load():
    code = (
        "import sys\n"
        "from foveate.data.sources.characters import Characters\n"
        "assert len(Characters().list().items) == 2720\n"
        "assert not {'torch', 'sklearn', 'timm'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_license_of_the_characters_is_beside_them():
    from importlib.resources import files

    text = (files("foveate.data.sources") / "characters.LICENSE").read_text()
    assert "Copyright (c) 2015 Brenden Lake" in text
    assert "shall be included in all" in text


def test_a_missing_home_is_one_line(tmp_path, monkeypatch):
    from pathlib import Path

    def homeless(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(DataError, match="cannot be opened: Could not determine home directory"):
        open_source("torchvision/mnist")

"""The cache of reduced images: bounded, checksummed, safe to delete."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.data.images import prepare
from foveate.data.pixels import pixel_file
from foveate.data.pixels.cache import ImageCache, cache_directory
from foveate.data.sources.folders import Folder

PIXELS = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)


@pytest.fixture
def photographs(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(4):
            small = Image.fromarray(rng.integers(0, 255, (10, 12, 3), dtype=np.uint8))
            small.resize((360, 300)).save(tmp_path / "data" / name / f"{i}.jpg")
    return tmp_path / "data"


def test_what_is_put_comes_back(tmp_path):
    cache = ImageCache(tmp_path, writable=True)
    key = cache.key("x|1", (8, 8), "3")
    assert cache.get(key) is None
    cache.put(key, PIXELS, ("turned", "16 bits a channel"))
    pixels, kinds = ImageCache(tmp_path).get(key)
    np.testing.assert_array_equal(pixels, PIXELS)
    assert kinds == ("turned", "16 bits a channel")
    cache.put(key, PIXELS[..., 0], ())
    np.testing.assert_array_equal(cache.get(key)[0], PIXELS[..., 0])
    assert cache.key("x|2", (8, 8), "3") != key
    assert cache.key("x|1", (8, 9), "3") != key


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_a_damaged_entry_counts_as_absent(tmp_path, damage):
    cache = ImageCache(tmp_path, writable=True)
    key = cache.key("x", (8, 8), "3")
    cache.put(key, PIXELS, ())
    (file,) = tmp_path.glob("??/*")
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(bytes(data) if damage is None else damage)
    assert cache.get(key) is None
    assert not file.exists()


def test_it_stays_within_its_bound(tmp_path):
    cache = ImageCache(tmp_path, limit=1000, writable=True)
    for i in range(50):
        cache.put(cache.key(str(i), (8, 8), "3"), PIXELS, ())
    files = list(tmp_path.glob("??/*"))
    assert 8 <= len(files) <= 11
    assert sum(file.stat().st_size for file in files) <= 1000
    ImageCache(tmp_path, limit=1000, writable=True)  # opened again, it makes room
    assert 0 < sum(file.stat().st_size for file in tmp_path.glob("??/*")) <= 500


def test_a_reader_never_writes(tmp_path):
    cache = ImageCache(tmp_path)
    cache.put(cache.key("x", (8, 8), "3"), PIXELS, ())
    assert not list(tmp_path.iterdir())


def decodes(monkeypatch):
    """Counts what is decoded from files."""
    calls = []
    read = Folder.read

    def counted(self, name, side=None):
        calls.append(name)
        return read(self, name, side)

    monkeypatch.setattr(Folder, "read", counted)
    return calls


def test_large_images_are_decoded_once(photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(pixel_file, "MEMORY_CAP", 1000)
    calls = decodes(monkeypatch)
    where = str(tmp_path / "cache")
    one = prepare(tmp_path / "one", str(photographs), (32, 32), cache=where)
    assert sorted(set(calls)) == sorted(calls)
    assert len(calls) == 8
    other = prepare(tmp_path / "other", str(photographs), (32, 32), cache=where)
    images = [one.train[i] for i in range(len(one.train))]
    assert len(calls) == 8
    shutil.rmtree(where)  # safe at any time
    for i, image in enumerate(images):
        np.testing.assert_array_equal(other.train[i], image)
    assert len(calls) == 8 + len(images)
    none = prepare(tmp_path / "none", str(photographs), (32, 32), cache="none")
    assert none.findings.lines() == one.findings.lines()
    np.testing.assert_array_equal(none.train[0], images[0])


def test_a_changed_photograph_is_decoded_again(photographs, tmp_path):
    where = str(tmp_path / "cache")
    prepare(tmp_path / "one", str(photographs), (32, 32), cache=where)
    Image.new("RGB", (360, 300), "red").save(photographs / "a" / "0.jpg")
    found = prepare(tmp_path / "other", str(photographs), (32, 32), cache=where)
    names = [*found.train.names, *found.test.names]
    place = names.index("a/0.jpg")
    split = found.train if place < len(found.train) else found.test
    assert split[place % len(found.train)][0, 0, 0] > 250


def test_small_images_are_not_cached(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("L", (30, 30), i).save(tmp_path / "data" / name / f"{i}.png")
    prepare(tmp_path / "out", str(tmp_path / "data"), (32, 32), cache=str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").iterdir())


def test_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory("auto") == (tmp_path / "foveate" / "images", None)
    assert cache_directory("none") == (None, None)
    assert cache_directory(str(tmp_path / "x"))[0] == tmp_path / "x"


def test_a_missing_home_is_one_line(monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    directory, complaint = cache_directory("auto")
    assert directory is None
    assert "there is no home directory" in complaint


def test_a_cache_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    directory, complaint = cache_directory(str(tmp_path / "file" / "cache"))
    assert directory is None
    assert "not cached" in complaint

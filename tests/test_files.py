"""Files are whole or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from foveate._files import read_json, replacing, replacing_several, walk, write_json


def test_a_file_takes_its_place_only_when_all_went_well(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, "é"]})
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines([b"half", None])
    assert read_json(path) == {"a": [1, "é"]}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_keeps_the_old_file_and_names_the_new(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, 1)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"a\.json") as caught:
        write_json(path, 2)
    assert caught.value.errno == errno.ENOSPC
    assert read_json(path) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_walks_through_links_outside_once_and_not_back(tmp_path):
    inside, outside = tmp_path / "set" / "a", tmp_path / "elsewhere"
    inside.mkdir(parents=True)
    outside.mkdir()
    (inside / "1").touch()
    (outside / "2").touch()
    for name, meant in {"b": outside, "c": outside, "d": inside, "e": tmp_path}.items():
        (tmp_path / "set" / name).symlink_to(meant)
    (outside / "back").symlink_to(outside)
    found = [
        f"{Path(folder).name}/{f}" for folder, _, files in walk(tmp_path / "set") for f in files
    ]
    assert sorted(found) == ["a/1", "b/2"]


def test_several_files_take_their_places_together(tmp_path):
    path = tmp_path / "a.xml"
    path.mkdir()
    (tmp_path / "a.bin").write_text("old")

    def fail(folder):
        (folder / "a.bin").write_text("new")
        raise ValueError("half")

    with pytest.raises(ValueError, match="half"), replacing_several(path) as folder:
        fail(folder)
    assert (tmp_path / "a.bin").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "a.xml"]
    with replacing_several(path) as folder:
        (folder / "a.bin").write_text("new")
        (folder / "a.xml").mkdir()
    assert (tmp_path / "a.bin").read_text() == "new"
    with replacing_several(path) as folder:  # a folder takes the place of one
        (folder / "a.xml").mkdir()
        (folder / "a.xml" / "inside").touch()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "a.xml"]
    assert (path / "inside").exists()


def test_several_files_take_no_place_of_what_is_not_theirs(tmp_path):
    def write():
        with replacing_several(tmp_path / "m.xml") as folder:
            (folder / "m.xml").write_text("new")
            (folder / "m.bin").write_text("new")

    (tmp_path / "m.bin").write_text("mine")
    with pytest.raises(ValueError, match=r"m.bin is there without m.xml"):
        write()
    assert (tmp_path / "m.bin").read_text() == "mine"
    (tmp_path / "m.bin").unlink()
    (tmp_path / "m.bin").mkdir()
    with pytest.raises(ValueError, match=r"m.bin is a folder"):
        write()
    (tmp_path / "m.bin").rmdir()
    for _ in range(2):
        write()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m.bin", "m.xml"]

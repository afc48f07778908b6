"""Which images are meant, and what results call them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from foveate.data.sources.base import DataError
from foveate.prediction.files import HIDDEN, NO_IMAGE, TWICE, Named, file_names, find_images


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("a.png", "sub/a.png", "sub/deeper/b.jpg", "sub/bare", "out/old.png", ".h/c.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, "PNG")
    (tmp_path / "images" / "notes.txt").write_text("hello")
    (tmp_path / "images" / ".DS_Store").write_text("hello")
    return tmp_path / "images"


def names(*given: Path | str, out: Path = Path("/nowhere")) -> list[str]:
    return [image.name for image in find_images([str(each) for each in given], out).images]


def test_folders_are_read_with_all_below_them(folder):
    found = find_images([str(folder)], folder / "out")
    assert [image.name for image in found.images] == [
        "a.png", "sub/a.png", "sub/bare", "sub/deeper/b.jpg",
    ]  # fmt: skip
    reasons = [each.reason for each in found.left_out]
    assert sorted(reasons) == sorted([NO_IMAGE, HIDDEN, HIDDEN])
    assert all(image.path.is_file() for image in found.images)


def test_names_that_collide_are_kept_apart(folder):
    assert names(folder / "a.png", folder / "sub" / "a.png") == ["images/a.png", "sub/a.png"]
    assert names(folder / "sub", folder / "a.png")[:1] == ["sub/a.png"]
    capital = folder / "A.PNG"
    Image.new("RGB", (4, 4)).save(capital, "PNG")
    both = names(folder / "sub" / "a.png", capital)
    assert both == ["sub/a.png", "images/A.PNG"]


def test_an_image_that_is_named_twice_counts_once(folder):
    found = find_images([str(folder / "a.png"), str(folder / "a.png")], Path("/nowhere"))
    assert [image.name for image in found.images] == ["a.png"]
    assert [each.reason for each in found.left_out] == [TWICE]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "# images\na.png\n\nsub/a.png\ngone.png\n"),
        ("list.csv", "label,path\n1,a.png\n2,sub/a.png\n3,gone.png\n"),
        ("bare.csv", "a.png\nsub/a.png\ngone.png\n"),
        ("list.tsv", "file\tlabel\na.png\t1\nsub/a.png\t2\ngone.png\t3\n"),
    ],
)
def test_lists_name_images_relative_to_themselves(folder, name, text):
    (folder / name).write_text(text)
    assert names(folder / name) == ["images/a.png", "sub/a.png", "gone.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "names no image"), ("hello", "none is there, first 'hello'"), ("\xff", "first")],
)
def test_a_list_of_nothing_is_refused(tmp_path, text, message):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        names(tmp_path / "list.txt")


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no such file or folder"):
        names(tmp_path / "nothing.png")
    with pytest.raises(DataError, match="no image in the folder"):
        names(tmp_path)
    with pytest.raises(DataError, match="no images are named"):
        names()
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        names(tmp_path / "list.txt")


def test_results_keep_the_ending_of_their_image_where_they_must():
    one, other = (Named(name, Path(name)) for name in ("s/a.jpg", "b.png"))
    assert file_names([one, other], ".png") == ["s/a.png", "b.png"]
    alike = Named("S/A.png", Path("x"))
    assert file_names([one, other, alike], ".png") == ["s/a.jpg.png", "b.png.png", "S/A.png.png"]


def test_an_empty_name_is_not_the_folder_at_hand():
    with pytest.raises(DataError, match="no images are named by ''"):
        names("")


def test_folders_behind_links_are_looked_into(folder, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (4, 4)).save(other / "c.png")
    (folder / "linked").symlink_to(other)
    (other / "back").symlink_to(other)
    assert [name for name in names(folder) if "linked" in name] == ["linked/c.png"]

"""The page of predictions: whole with no image and with many, escaped, and bounded."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from foveate.data.findings import LeftOut
from foveate.prediction.base import Shown
from foveate.prediction.page import MOST, write_page
from tests.saved.test_info import CLASSIFIER, SEGMENTER


def page(tmp_path, shown, images=None, info=CLASSIFIER, left_out=(), said=()) -> str:
    count = len(shown) if images is None else images
    return write_page(tmp_path, "<model>", info, shown, count, left_out, said).read_text()


def one(number: int) -> Shown:
    return Shown(f"<i>{number}.png", (("image", Image.new("RGB", (20, 10))),), ("<dog> 90 %",))


def test_nothing_to_show(tmp_path):
    text = page(tmp_path, [])
    assert text.startswith("<!doctype html>")
    assert "<dd>0</dd>" in text
    assert "<figure" not in text


def test_names_are_escaped_and_pictures_described(tmp_path):
    left_out = [LeftOut("<b>\x1b.png", "no <image>")]
    text = page(tmp_path, [one(0)], left_out=left_out, said=["<script>"])
    for bad in ("<i>", "<b>", "<dog>", "<script>", "<model>", "\x1b"):
        assert bad not in text
    assert 'alt="&lt;i&gt;0.png: image: &lt;dog&gt; 90 %"' in text
    assert "1 image could not be read" in text
    assert "default-src &#x27;none&#x27;" in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "prefers-color-scheme: dark" in text


def test_a_thousand_images_are_bounded_and_that_is_said(tmp_path):
    text = page(tmp_path, [one(number) for number in range(MOST)], images=1000)
    assert text.count("<figure") == MOST
    assert text.count('loading="lazy"') == MOST
    assert "The first 500 of 1,000 images; the files hold all." in text
    unread = [LeftOut(f"{n}.png", "not an image") for n in range(300)]
    text = page(tmp_path, [], left_out=unread)
    assert "300 images could not be read" in text
    assert "and 200 more, in unreadable.csv" in text


def test_the_key_names_the_colors_of_classes(tmp_path):
    text = page(tmp_path, [], info=SEGMENTER)
    assert text.count('class="colors"') == 1
    assert "road</li>" in text


@pytest.mark.parametrize("width", [1, 500])
def test_small_and_large_pictures(width, tmp_path):
    shown = Shown("a", (("image", Image.new("RGB", (width, 3))),), ("x", "y", "z"))
    assert f'width="{width}"' in page(tmp_path, [shown])

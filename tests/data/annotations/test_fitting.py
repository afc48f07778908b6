"""Boxes against the image that is there: turned, scaled, clipped, and dropped by reason."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageOps

from foveate.data.annotations.fitting import Fitting
from foveate.data.annotations.geometry import (
    INVERTED,
    NO_AREA,
    NO_NUMBER,
    OUTSIDE,
    clip,
    turn_boxes,
    turn_pixels,
)
from foveate.data.annotations.record import AnnotatedImage, Objects
from foveate.data.pixels.decode import Header


def objects(*boxes, masks=None) -> Objects:
    count = len(boxes)
    entries = tuple(f"annotation {n}" for n in range(count))
    return Objects(
        np.array(boxes, float), np.zeros(count, int), np.zeros(count, bool),
        np.full(count, np.nan), masks, entries,
    )  # fmt: skip


def image(size, *boxes, masks=None) -> AnnotatedImage:
    return AnnotatedImage("a.jpg", size, objects(*boxes, masks=masks))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_and_pixels_turn_as_pillow_turns_images(orientation, tmp_path):
    stored = np.zeros((30, 50), dtype=np.uint8)
    x1, y1, x2, y2 = 4, 7, 19, 12
    stored[y1:y2, x1:x2] = 255
    about = Image.Exif()
    about[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=about)
    with Image.open(tmp_path / "a.png") as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
    (box,) = turn_boxes(np.array([[x1, y1, x2, y2]]), orientation, upright.shape)
    rows, columns = np.nonzero(upright)
    assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert (turn_pixels(stored, orientation) == upright).all()


def test_the_stated_size_says_which_image_boxes_refer_to():
    turned = Header((30, 50), 6)  # upright 50 high, 30 wide
    fitting = Fitting()
    as_shown = fitting.fit(image((50, 30), (0, 0, 10, 20)), turned)
    as_stored = fitting.fit(image((30, 50), (0, 0, 20, 10)), turned)
    either = fitting.fit(image((40, 40), (0, 0, 20, 10)), Header((40, 40), 6))
    assert as_shown is not None
    assert as_stored is not None
    assert either is not None
    assert as_shown.size == as_stored.size == (50, 30)
    assert as_shown.objects.boxes.tolist() == [[0, 0, 10, 20]]
    assert as_stored.objects.boxes.tolist() == [[20, 0, 30, 20]]
    assert either.objects.boxes.tolist() == [[0, 0, 20, 10]]
    assert [note.split(";")[0] for note in fitting.notes()] == [
        "1 image turned upright",
        "1 image turned upright, and their boxes with them, which refer to the stored image by "
        "the width and height stated",
        "1 image turned upright",
    ]


def test_masks_turn_with_their_image():
    mask = pytest.importorskip("pycocotools.mask")
    plane = np.zeros((30, 50), dtype=np.uint8, order="F")
    plane[:10, :20] = 1
    given = image((30, 50), (0, 0, 20, 10), masks=(mask.encode(plane),))
    fitted = Fitting().fit(given, Header((30, 50), 6))
    assert fitted is not None
    assert fitted.objects.masks is not None
    found = mask.decode(fitted.objects.masks[0])
    assert found.shape == (50, 30)
    assert found[:20, 20:].all()
    assert fitted.objects.areas.tolist() == [found.sum()]


def test_exchanged_width_and_height_are_recognised_by_the_boxes():
    fitting = Fitting()
    assert fitting.fit(image((50, 30), (30, 10, 48, 28)), Header((30, 50), 1)) is not None
    assert fitting.fit(image((50, 30), (5, 30, 28, 48)), Header((30, 50), 1)) is None
    assert "width and height exchanged" in fitting.notes()[0]
    assert [left.reason for left in fitting.left_out] == [
        "images of another size than their annotations state"
    ]


def test_boxes_follow_an_image_that_was_resized():
    fitting = Fitting()
    fitted = fitting.fit(image((60, 100), (10, 10, 30, 20)), Header((30, 50), 1))
    assert fitted is not None
    assert fitted.objects.boxes.tolist() == [[5, 5, 15, 10]]
    assert "1 image larger or smaller than their annotations state" in fitting.warnings()[0]
    assert fitting.fit(image((60, 60), (10, 10, 30, 20)), Header((30, 50), 1)) is None


def test_boxes_are_clipped_and_dropped_by_reason():
    boxes = [
        (-5, 5, 10, 60),
        (3, 3, 3, 9),
        (9, 3, 4, 9),
        (60, 3, 70, 9),
        (1, np.nan, 4, 5),
        (49.5, 0, 50.5, 30),
    ]
    clipped, reasons = clip(np.array(boxes, float), (30, 50))
    assert reasons.tolist() == ["", NO_AREA, INVERTED, OUTSIDE, NO_NUMBER, ""]
    assert clipped[[0, 5]].tolist() == [[0, 5, 10, 30], [49.5, 0, 50, 30]]
    fitting = Fitting()
    fitted = fitting.fit(image((30, 50), *boxes), Header((30, 50), 1))
    assert fitted is not None
    assert len(fitted.objects) == 2
    assert fitted.objects.areas.tolist() == [250, 15]
    assert [left.name for left in fitting.left_out] == [
        f"annotation {n} of a.jpg" for n in range(1, 5)
    ]


def _square(size):
    from pycocotools import mask

    pixels = np.zeros(size, np.uint8, order="F")
    pixels[5:15, 5:15] = 1
    return mask.encode(pixels)


def test_areas_of_masks_are_in_pixels_of_the_image_that_is_there():
    stated = image((40, 60), (5, 5, 15, 15), masks=(_square((40, 60)),))
    found = Fitting().fit(stated, Header((80, 120), 1))
    assert found is not None
    assert found.objects.areas.tolist() == [400]


def test_masks_in_a_frame_with_exchanged_sides_are_not_stretched():
    stated = image((60, 40), (5, 5, 15, 15), masks=(_square((60, 40)),))
    fitting = Fitting()
    assert fitting.fit(stated, Header((40, 60), 1)) is None
    assert [left.name for left in fitting.left_out] == ["a.jpg"]


def test_masks_without_a_pixel_are_said():
    from pycocotools import mask

    nothing = mask.encode(np.zeros((40, 60), np.uint8, order="F"))
    fitting = Fitting()
    fitting.fit(image((40, 60), (5, 5, 15, 15), masks=(nothing,)), Header((40, 60), 1))
    assert fitting.warnings() == [
        "1 masks without a pixel in their image, such as annotation 0 of a.jpg: their boxes are "
        "used as they are"
    ]

"""One image file of any kind to 8-bit pixels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from foveate.data.batches import Fit
from foveate.data.pixels.decode import (
    NeedsRangeError,
    ValueRange,
    open_file,
    to_8_bits,
    value_range,
)
from foveate.data.pixels.reader import reduce

RAMP = np.linspace(0, 255, 32 * 24).reshape(24, 32).astype(np.uint8)
COLOR = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=2)


def read(path, channels=3, ranges=None, side=None):
    image, kinds = to_8_bits(open_file(path, side), channels, ranges or {})
    return np.asarray(image), kinds


def saved(tmp_path, image, suffix=".png", **options):
    path = tmp_path / f"image{suffix}"
    image.save(path, **options)
    return path


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "P", "1"])
def test_plain_modes(tmp_path, mode, channels):
    pixels, kinds = read(saved(tmp_path, Image.fromarray(RAMP).convert(mode)), channels)
    assert pixels.shape == ((24, 32) if channels == 1 else (24, 32, 3))
    assert kinds == ()
    gray = pixels.reshape(24, 32, -1).mean(2)
    if mode == "1":
        assert set(np.unique(gray)) == {0, 255}
    else:
        assert np.abs(gray - RAMP).max() <= 2


def test_sixteen_bits_in_gray(tmp_path):
    path = saved(tmp_path, Image.fromarray(RAMP.astype(np.uint16) * 257))
    with pytest.raises(NeedsRangeError, match="16-bit"):
        read(path, 1)
    pixels, kinds = read(path, 1, {"16-bit": ValueRange(0, 65535)})
    np.testing.assert_array_equal(pixels, RAMP)
    assert kinds == ("16-bit",)


def test_sixteen_bits_in_color_are_said(tmp_path):
    from tests.data.png import write_rgb16

    path = tmp_path / "deep.png"
    write_rgb16(path, COLOR.astype(np.uint16) * 257)
    pixels, kinds = read(path)
    np.testing.assert_array_equal(pixels, COLOR)
    assert kinds == ("16 bits a channel",)


def test_integers_and_floats(tmp_path):
    for values, kind, top in (
        (RAMP.astype(np.int32) * 1000, "integer", 255000.0),
        (RAMP.astype(np.float32) / 255, "floating-point", 1.0),
    ):
        path = saved(tmp_path, Image.fromarray(values), ".tiff")
        pixels, kinds = read(path, 1, {kind: ValueRange(0.0, top)})
        np.testing.assert_array_equal(pixels, RAMP)
        assert kinds == (kind,)


def test_values_beyond_the_range_and_no_numbers_are_said(tmp_path):
    values = RAMP.astype(np.float32) / 255
    values[0, 0], values[1, 1] = np.nan, 7
    path = saved(tmp_path, Image.fromarray(values), ".tiff")
    pixels, kinds = read(path, 1, {"floating-point": ValueRange(0.0, 1.0)})
    assert (pixels[0, 0], pixels[1, 1]) == (0, 255)
    assert kinds == ("floating-point", "clipped")


@pytest.mark.parametrize(
    ("kind", "low", "high", "expected"),
    [
        ("16-bit", 0, 65000, (0, 65535)),
        ("16-bit", 3, 4000, (0, 4095)),
        ("16-bit", 0, 200, (0, 255)),
        ("integer", -1000, 3000, (-1000, 3000)),
        ("integer", 0, 10**6, (0, 10**6)),
        ("floating-point", 0.1, 0.9, (0, 1)),
        ("floating-point", 0, 200, (0, 255)),
        ("floating-point", -1, 1, (-1, 1)),
        ("floating-point", -2, -2, (-2, -1)),
    ],
)
def test_the_range_that_becomes_eight_bits(kind, low, high, expected):
    assert value_range(kind, low, high) == expected


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_turn_of_exif(tmp_path, orientation):
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    upright = Image.fromarray(COLOR)
    stored = upright.transpose(back[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels, kinds = read(saved(tmp_path, stored, exif=exif))
    np.testing.assert_array_equal(pixels, COLOR)
    assert kinds == (("turned",) if orientation > 1 else ())


def test_transparency_is_laid_on_white(tmp_path):
    for mode, suffix in (("RGBA", ".png"), ("LA", ".png"), ("PA", ".gif")):
        layers = Image.fromarray(np.dstack([COLOR, np.where(RAMP > 128, 255, 0).astype(np.uint8)]))
        if mode == "LA":
            layers = layers.convert("LA")
        pixels, kinds = read(saved(tmp_path, layers, suffix))
        assert "transparent" in kinds, mode
        assert (pixels[RAMP <= 128] == 255).all()


def test_a_palette_with_a_transparent_color(tmp_path):
    image = Image.fromarray((RAMP > 128).astype(np.uint8), "L").convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    pixels, kinds = read(saved(tmp_path, image, transparency=0))
    assert kinds == ("transparent",)
    assert (pixels[RAMP <= 128] == 255).all()
    assert (pixels[RAMP > 128] == (0, 0, 255)).all()


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    pixels, kinds = read(saved(tmp_path, image, ".jpg", quality=95))
    assert kinds == ("cmyk",)
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() < 12


def test_the_first_of_several_frames(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for suffix in (".gif", ".tiff", ".webp"):
        path = tmp_path / f"frames{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        pixels, kinds = read(path)
        assert "frames" in kinds
        assert pixels[0, 0, 0] > 240
        assert pixels[0, 0, 2] < 20


@pytest.mark.parametrize("turned", [False, True])
def test_large_jpegs_are_decoded_reduced(tmp_path, turned):
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    large = Image.fromarray(COLOR).resize((1600, 400), Image.Resampling.BICUBIC)
    path = saved(tmp_path, large, ".jpg", quality=95, exif=exif)
    raw = open_file(path, (400, 50) if turned else (50, 400))
    assert raw.pixels == 1600 * 400
    assert raw.image.size == ((100, 400) if turned else (400, 100)) or (
        raw.image.size == ((200, 800) if turned else (800, 200))
    )
    assert open_file(path).image.size == ((400, 1600) if turned else (1600, 400))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 500), (700, 3)])
def test_extreme_shapes_are_resized_like_any_other(size):
    image = Image.new("RGB", size, (10, 200, 30))
    reduced = reduce(image, (20, 20))
    assert min(reduced.size) >= 1
    fitted = Fit((16, 24))(reduced)
    assert fitted.shape == (3, 16, 24)
    assert (fitted[1] == 200).all()

"""What is decided from the images: augmentation, mirroring, moments."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.data.augmentation import choose_augmentation
from foveate.data.batches import held_out_batches, train_batches
from foveate.data.images import prepare
from foveate.data.moments import Moments, moments

CLASSES = ["red", "green", "blue"]


def scenes(count, draw=lambda image, label: image, seed=0):
    """Colored noise with structure, three classes that differ by a tint from sky to ground."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = []
    for label in labels:
        coarse = rng.integers(40, 180, (6, 6, 3)).astype(np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC))
        image = image.astype(int)
        image[:24, :, label] += 35
        images.append(draw(image, label).clip(0, 255).astype(np.uint8))
    return images, labels.tolist()


def test_natural_scenes_that_pass_the_test_are_mirrored():
    found = choose_augmentation(*scenes(900), CLASSES)
    assert (found.kind, found.mirror) == ("photo", True)
    assert "leaves their class as it is" in found.reason


def test_few_scenes_are_not():
    found = choose_augmentation(*scenes(60), CLASSES)
    assert (found.kind, found.mirror) == ("photo", False)
    assert "because" in found.reason


def sided(image, label):
    """A patch on the left for one class, on the right for another."""
    if label < 2:
        image[16:32, slice(4, 20) if label == 0 else slice(28, 44)] += 60
    return image


def test_classes_that_mirroring_swaps_are_not_mirrored():
    found = choose_augmentation(*scenes(900, sided), CLASSES)
    assert found.kind == "photo"
    assert not found.mirror
    assert "mirrored images" in found.reason


def test_classes_that_cannot_be_told_apart_are_not_mirrored():
    images, labels = scenes(900)
    rng = np.random.default_rng(1)
    mixed = [label if label < 1 else int(rng.integers(1, 3)) for label in labels]
    found = choose_augmentation(images, mixed, CLASSES)
    assert not found.mirror
    assert "cannot tell 'green' and 'blue' apart" in found.reason


@pytest.mark.parametrize("name", ["left", "turn_right", "Left hand", "Clockwise"])
def test_a_class_of_a_side_is_not_mirrored(name):
    found = choose_augmentation(*scenes(900), [name, "green", "blue"])
    assert not found.mirror
    assert repr(name) in found.reason


def test_names_that_hold_such_a_word_are_no_sides():
    assert choose_augmentation(*scenes(900), ["copyright", "cleft", "blue"]).mirror


def test_gray_images_and_drawings_are_moved_a_little():
    images, labels = scenes(60)
    gray = [image.mean(2).astype(np.uint8) for image in images]
    assert choose_augmentation(gray, labels, CLASSES).kind == "affine"
    drawing = np.full((48, 48, 3), 255, np.uint8)
    drawing[10:20, 10:20] = (255, 0, 0)
    drawing[30:34] = (0, 0, 255)
    found = choose_augmentation([drawing] * 9, [0, 1, 2] * 3, CLASSES)
    assert found.kind == "affine"
    assert "uniform ground" in found.reason


def write_set(root, images, labels):
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    return root


def brightness_by_side(x):
    half = x.shape[3] // 2
    return x[..., :half].mean() - x[..., half:].mean()


def test_photographs_are_mirrored_only_as_decided_or_told(tmp_path):
    def bright_left(image, label):
        image[:, :24] += 70
        return image

    folder = write_set(tmp_path / "data", *scenes(48, bright_left))
    found = prepare(tmp_path / "out", str(folder), (24, 24), cache="none")
    assert not found.augmentation.mirror
    calm = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "color_jitter": None}

    def sides(**options):
        batches = train_batches(
            found, (24, 24), 16, 0, augment="photo", augment_kwargs={**calm, **options}
        )
        return [float(brightness_by_side(x[i : i + 1])) for x, _ in batches for i in range(16)]

    assert min(sides()) > 0
    told = sides(hflip=0.5)
    assert min(told) < 0 < max(told)


def test_moments_are_those_of_the_images():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(50)]
    found = moments(images, (16, 16), 3)
    whole = np.stack(images) / 255
    np.testing.assert_allclose(found.mean, whole.mean((0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(found.std, whole.std((0, 1, 2)), rtol=1e-9)
    assert found.images == 50


def test_moments_of_many_images_come_from_a_bounded_sample():
    images = [np.full((4, 4), i % 256, np.uint8) for i in range(5000)]
    assert moments(images, (4, 4), 1).images == 2000


def test_images_of_one_value_divide_by_no_zero():
    found = moments([np.full((4, 4), 7, np.uint8)] * 3, (4, 4), 1)
    assert found.std == pytest.approx((1 / 255,))


def test_batches_have_zero_mean_and_unit_deviation(tmp_path):
    folder = write_set(tmp_path / "data", *scenes(60))
    found = prepare(tmp_path / "out", str(folder), (48, 48), cache="none")
    assert "normalized by mean" in "\n".join(found.findings.lines())
    batches = train_batches(found, (48, 48), len(found.train), 0, augment="none")
    ((x, _),) = list(batches)
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(x.std((0, 2, 3)), torch.ones(3), atol=1e-3)
    other = Moments((0.0,) * 3, (1.0,) * 3)
    x, _ = next(iter(held_out_batches(found, (48, 48), 8, normalize=other)))
    assert x.min() >= 0
    assert x.max() <= 1

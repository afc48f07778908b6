"""Crops of images with their masks, and whole images of different sizes."""

from __future__ import annotations

import pytest
import torch

from foveate.data.images import ImageSet, prepare_masks
from foveate.data.masked_batches import options_of, train_crops, whole_images
from tests.data.masks import make_scenes


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> ImageSet:
    root = make_scenes(tmp_path_factory.mktemp("masked") / "set")
    return prepare_masks(root.with_name("read"), str(root), (16, 16))


def raw(images: ImageSet, x: torch.Tensor) -> torch.Tensor:
    """Normalised images (B, 3, H, W) in [0, 255] again."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in images.moments[:2])
    return 255 * (x * std + mean)


def test_masks_move_with_their_images(images):
    for size in ((16, 16), (40, 44)):
        batches = train_crops(images, size, 3, seed=1, augment="photo",
                              augment_kwargs={"color_jitter": 0.0})  # fmt: skip
        x, labels = next(iter(batches))
        assert x.shape == (3, 3, *size)
        assert labels.shape == (3, *size)
        assert labels.dtype is torch.int64
        assert set(labels.unique().tolist()) <= {0, 1, 2, 255}
        pixels = raw(images, x)
        for label in (1, 2):  # but for interpolated borders
            assert (pixels[:, label][labels == label] > 100).float().mean() > 0.8
            assert (pixels[:, label][labels == 0] < 100).float().mean() > 0.8
    assert (labels[:, -1] == 255).any()  # beyond the image


def test_an_epoch_is_a_function_of_seed_and_epoch(images):
    def drawn(seed, epoch):
        batches = train_crops(images, (16, 16), 2, seed)
        batches.set_epoch(epoch)
        return torch.cat([x.flatten() for x, _ in batches])

    assert torch.equal(drawn(0, 1), drawn(0, 1))
    assert not torch.equal(drawn(0, 1), drawn(0, 2))
    assert not torch.equal(drawn(0, 1), drawn(1, 1))


def test_whole_images_keep_size_order_and_labels(images):
    row = 0
    for x, labels in whole_images(images, 2):
        assert isinstance(x, list)  # two sizes in this batch
        for one, mask in zip(x, labels, strict=True):
            assert one.shape[1:] == mask.shape
            assert torch.equal(mask.byte(), torch.from_numpy(images.test.mask(row).copy()))
            row += 1
    assert row == len(images.test)
    x, labels = next(iter(whole_images(images, 1)))
    assert x.shape[0] == labels.shape[0] == 1


def test_options_are_checked():
    assert options_of("photo", True, {}).hflip == 0.5
    assert options_of("photo", False, {}).hflip == 0.0
    assert options_of("affine", True, {}).hflip == 0.0
    with pytest.raises(ValueError, match="no option 'flip'"):
        options_of("photo", True, {"flip": 1})
    with pytest.raises(ValueError, match="expected scale="):
        options_of("photo", True, {"scale": [2, 1]})
    with pytest.raises(ValueError, match="expected scale="):
        options_of("photo", True, {"scale": [1, float("inf")]})

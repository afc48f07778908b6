"""What an epoch sees is a function of seed and epoch alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from foveate._random import derive, undisturbed
from foveate.data.batches import held_out_batches, train_batches
from foveate.data.images import prepare
from tests.data.folders import make_folder

SIZE = (24, 16)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    root = tmp_path_factory.mktemp("photographs")
    folder = make_folder(root / "data", {"a": 15, "b": 15})
    return prepare(root / "out", str(folder), SIZE)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("digits"), "digits", SIZE, limit=60)


def epoch(batches, number):
    batches.set_epoch(number)
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


@pytest.mark.parametrize("augment", ["auto", "none", "affine", "photo"])
@pytest.mark.parametrize("kind", ["photographs", "digits"])
def test_an_epoch_depends_on_seed_and_number_alone(kind, augment, request):
    images = request.getfixturevalue(kind)

    def batches(seed):
        return train_batches(images, SIZE, 8, seed, augment=augment)

    one = batches(3)
    first, second = epoch(one, 0), epoch(one, 1)
    random.seed(9)
    torch.manual_seed(9)
    np.random.seed(9)  # noqa: NPY002
    again = epoch(batches(3), 1)
    assert torch.equal(second[0], again[0])
    assert torch.equal(second[1], again[1])
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(epoch(batches(4), 1)[0], second[0])


@pytest.mark.parametrize("kind", ["photographs", "digits"])
def test_shapes_and_scale(kind, request):
    images = request.getfixturevalue(kind)
    batches = train_batches(images, SIZE, 8, 0)
    whole = list(batches)
    assert len(whole) == len(batches) == len(images.train) // 8
    for x, labels in whole:
        assert x.shape == (8, images.channels, *SIZE)
        assert x.dtype is torch.float32
        assert x.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype is torch.int64
    assert x.abs().max() < 4


def test_loader_processes_change_nothing(photographs):
    here, there = (train_batches(photographs, SIZE, 8, 0, processes=p) for p in (0, 2))
    torch.testing.assert_close(epoch(here, 2), epoch(there, 2), rtol=0, atol=0)


def test_drawn_here_they_are_the_same(photographs):
    batches = train_batches(photographs, SIZE, 8, 3, processes=2)
    here = batches.here()
    assert (batches.processes, here.processes) == (2, 0)
    again = train_batches(photographs, SIZE, 8, 3)
    torch.testing.assert_close(epoch(here, 1), epoch(again, 1), rtol=0, atol=0)


def test_held_out_images_come_all_and_in_order(photographs):
    batches = held_out_batches(photographs, SIZE, 4, processes=0)
    x, labels = epoch(batches, 0)
    assert labels.tolist() == photographs.test.labels
    assert torch.equal(x, epoch(batches, 1)[0])
    assert len(batches) == 2


def test_a_set_smaller_than_a_batch_is_one_batch(photographs):
    assert len(list(train_batches(photographs, SIZE, 500, 0))) == 1


def test_an_unknown_augmentation_is_refused(photographs):
    with pytest.raises(ValueError, match="unknown augment 'photos'; did you mean 'photo'"):
        train_batches(photographs, SIZE, 8, 0, augment="photos")


def test_neighbouring_keys_give_unrelated_seeds():
    assert len({derive(seed, number) for seed in range(20) for number in range(20)}) == 400


def test_generators_are_put_back():
    def state():
        return random.random(), float(torch.rand(())), float(np.random.rand())  # noqa: NPY002

    random.seed(1)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    with undisturbed():
        state()
    after = state()
    random.seed(1)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    assert state() == after

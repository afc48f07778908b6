"""Folds hold every image out once; what chooses is never held out."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from foveate.data.images import prepare, prepare_masks
from foveate.study.parts import folds, with_selection
from tests.data.masks import make_scenes


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("data"), "digits", (8, 8), limit=200)


def test_every_image_is_held_out_once(images):
    found = folds(images, 5, (8, 8))
    held_out = np.concatenate([fold.held_out for fold in found])
    total = len(images.train) + len(images.test)
    assert sorted(held_out) == list(range(total))
    for fold in found:
        names = set(fold.images.train.names)
        assert not names & set(fold.images.test.names)
        assert len(names | set(fold.images.test.names)) == total
        counts = np.bincount(fold.images.test.labels, minlength=10)
        whole = np.bincount(images.train.labels + images.test.labels, minlength=10)
        assert (abs(counts - whole / 5) < 1).all()


def test_a_fold_holds_the_images_that_it_names(images):
    fold = folds(images, 3, (8, 8))[1]
    before = {**dict(zip(images.train.names, range(10**6), strict=False))}
    for index in (0, 7, len(fold.images.test) - 1):
        name = fold.images.test.names[index]
        split = images.train if name in before else images.test
        row = split.names.index(name)
        assert np.array_equal(fold.images.test[index], split[row])
        assert fold.images.test.labels[index] == split.labels[row]
    again = pickle.loads(pickle.dumps(fold.images.test))
    assert np.array_equal(again[3], fold.images.test[3])


def test_folds_are_normalized_by_their_own_training_images(images):
    found = folds(images, 2, (8, 8))
    assert found[0].images.moments != found[1].images.moments
    assert folds(images, None, (8, 8))[0].images is images


def test_the_selection_part_is_cut_from_the_training_images(images):
    rest, part = with_selection(images)
    assert set(rest.train.names) | set(part.names) == set(images.train.names)
    assert not set(rest.train.names) & set(part.names)
    assert rest.test is images.test
    assert len(part) == pytest.approx(0.2 * len(images.train), abs=6)
    assert set(part.labels) == set(images.train.labels)


def test_too_few_images_are_refused(images, tmp_path):
    with pytest.raises(ValueError, match="fewer than folds=99"):
        folds(images, 99, (8, 8))
    few = prepare(tmp_path, "digits", (8, 8), limit=10)
    with pytest.raises(ValueError, match="to choose by, every class needs two"):
        with_selection(few)


def test_images_with_masks_have_no_class_of_their_own_to_go_by(tmp_path):
    scenes = make_scenes(tmp_path / "scenes", {"train": 10, "val": 4})
    images = prepare_masks(tmp_path / "data", str(scenes), (16, 16))
    assert len(images.classes) > 1
    rest, part = with_selection(images)
    assert (len(rest.train), len(part)) == (8, 2)
    assert sorted(np.concatenate([fold.held_out for fold in folds(images, 7, (16, 16))])) == [
        *range(14)
    ]


def test_classes_of_pixels_are_weighed_by_the_folds_own_training_masks(tmp_path):
    scenes = make_scenes(tmp_path / "scenes", {"train": 6, "val": 3})
    images = prepare_masks(tmp_path / "data", str(scenes), (16, 16))
    classes = len(images.classes)
    for fold in folds(images, 3, (16, 16)):
        part = fold.images.train
        labels = np.concatenate([part.mask(index).ravel() for index in range(len(part))])
        expected = np.bincount(labels[labels < classes], minlength=classes)
        assert fold.images.class_pixels == tuple(expected)
        assert fold.images.class_pixels != images.class_pixels

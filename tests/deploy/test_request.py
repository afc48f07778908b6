"""What is asked for, and at which sizes it is checked."""

from __future__ import annotations

import pytest

from foveate.deploy.request import AXES, Request, free_axes


def test_a_fixed_file_is_checked_at_its_size_and_a_free_one_at_five_more():
    assert Request((224, 224)).checked() == ((1, 224, 224),)
    free = Request((224, 160), free=AXES).checked()
    assert free[0] == (1, 224, 160)
    assert len(set(free)) == 6
    awkward = [size for size in free if size.height % 32 and size.width % 32]
    assert sorted(size.batch for size in awkward) == [1, 3]
    batches = Request((224, 160), free=("batch",)).checked()
    assert [size.batch for size in batches[:1]] == [1]
    assert len({size.batch for size in batches}) == len(batches) == 5
    assert {size[1:] for size in batches} == {(224, 160)}


def test_a_model_is_traced_at_lengths_that_free_axes_do_not_have_by_chance():
    assert Request((224, 224)).traced == (1, 224, 224)
    traced = Request((224, 224), free=AXES).traced
    assert traced.batch > 1
    assert traced.height != traced.width
    assert 224 not in traced


def test_axes_are_named():
    assert free_axes(["width", "batch"]) == ("batch", "width")
    with pytest.raises(ValueError, match="got 'heights'; did you mean 'height'"):
        free_axes(["heights"])
    with pytest.raises(ValueError, match="several names"):
        free_axes("batch")

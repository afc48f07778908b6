"""What users pass in, refused in their terms."""

from __future__ import annotations

import pytest

from foveate.arguments import pair, probability


@pytest.mark.parametrize("value", [3.0, None, "33", (3, 3.0), (3,), [1, 2, 3], True])
def test_what_is_no_pair_of_integers_is_shown(value):
    with pytest.raises(ValueError, match="window_size must be an integer or a pair of integers"):
        pair(value, "window_size")


@pytest.mark.parametrize("value", ["a", None, 1.0, -0.1, (0.1,)])
def test_what_is_no_probability_is_shown(value):
    with pytest.raises(ValueError, match=r"dropout_p must be a number in \[0, 1\), got"):
        probability(value, "dropout_p")

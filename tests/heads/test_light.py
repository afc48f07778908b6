"""The light head."""

from __future__ import annotations

import pytest

from foveate.heads import LightHead


def test_channels_that_do_not_fit_the_maps_are_refused():
    with pytest.raises(ValueError, match="one entry for each"):
        LightHead((32, 128, 160), 5, dims=(64,))

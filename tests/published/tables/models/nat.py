"""NAT and DiNAT."""

from __future__ import annotations

from foveate.models.dinat import dinat_tiny
from foveate.models.nat import nat_mini, nat_tiny
from tests.published.golden import Row
from tests.published.networks import after_downsampling

ROWS = [
    Row("nat_mini", nat_mini, after_downsampling),
    Row("nat_tiny", nat_tiny, after_downsampling, slow=True),
    Row("dinat_tiny", dinat_tiny, after_downsampling),
]

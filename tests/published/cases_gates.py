"""Gates: channel and spatial attention for convolutional networks."""

from __future__ import annotations

from foveate.attention.gates.cbam import CBAM
from foveate.attention.gates.coordinate import CoordinateAttention
from foveate.attention.gates.squeeze_excitation import SqueezeExcitation
from tests.published.golden import Row

ROWS = [
    Row("se_timm", lambda channels: SqueezeExcitation(channels, divisor=8)),
    Row(
        "se_moskomule",
        lambda channel, reduction: SqueezeExcitation(channel, reduction, bias=False),
    ),
    Row(
        "cbam",
        lambda gate_channels, reduction_ratio, pool_types, no_spatial: CBAM(
            gate_channels, reduction_ratio, pools=pool_types, spatial=not no_spatial
        ),
    ),
    Row(
        "cbam_channel_max",
        lambda gate_channels, reduction_ratio, pool_types: CBAM(
            gate_channels, reduction_ratio, pools=pool_types, spatial=False
        ),
    ),
    Row("cbam_spatial", lambda: CBAM(64, channel=False)),
    Row("coordatt", lambda inp, oup, reduction: CoordinateAttention(inp, reduction)),
]

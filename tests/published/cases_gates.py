"""Gates: channel and spatial attention for convolutional networks."""

from __future__ import annotations

from foveate.attention.gates.bam import BAM
from foveate.attention.gates.cbam import CBAM
from foveate.attention.gates.coordinate import CoordinateAttention
from foveate.attention.gates.dual import DualAttention
from foveate.attention.gates.efficient_channel import EfficientChannelAttention
from foveate.attention.gates.squeeze_excitation import SqueezeExcitation
from foveate.attention.gates.triplet import TripletAttention
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
    Row(
        "eca_official_k3",
        lambda channel, k_size: EfficientChannelAttention(channel, k_size),
    ),
    Row(
        "bam",
        lambda gate_channel, reduction_ratio, dilation_val, **kwargs: BAM(
            gate_channel, reduction_ratio, dilation=dilation_val
        ),
    ),
    Row("triplet", lambda no_spatial: TripletAttention(64, spatial=not no_spatial)),
    Row("danet_pam", lambda in_dim: DualAttention(in_dim, channel=False)),
    Row("danet_cam", lambda in_dim: DualAttention(in_dim, position=False)),
]

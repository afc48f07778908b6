"""Gates: channel and spatial attention for convolutional networks."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from foveate.attention.gates.bam import BAM
from foveate.attention.gates.bilinear import BilinearAttention
from foveate.attention.gates.cbam import CBAM
from foveate.attention.gates.coordinate import CoordinateAttention
from foveate.attention.gates.dual import DualAttention
from foveate.attention.gates.efficient_channel import EfficientChannelAttention
from foveate.attention.gates.relation_aware import RelationAwareAttention
from foveate.attention.gates.selective_kernel import SelectiveKernel
from foveate.attention.gates.squeeze_excitation import SqueezeExcitation
from foveate.attention.gates.triplet import TripletAttention
from tests.published.golden import Golden, Row


def _insight_unit(golden: Golden) -> dict[str, Tensor]:
    """The selective unit of a bottleneck."""
    names = {
        "conv2": "branches.0.0",
        "bn2": "branches.0.1",
        "conv2g": "branches.1.0",
        "bn2g": "branches.1.1",
        "conv_fc1": "reduce",
        "bn_fc1": "bn",
        "conv_fc2": "select",
    }
    parts = [(*key.split("."), value) for key, value in golden.state.items()]
    return {f"{names[name]}.{leaf}": value for name, leaf, value in parts if name in names}


def _insight_bottleneck(module: SelectiveKernel, golden: Golden) -> Tensor:
    """The bottleneck around the unit."""

    def conv_bn(x: Tensor, i: int) -> Tensor:
        x = F.conv2d(x, golden.state[f"conv{i}.weight"])
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(golden.state[f"bn{i}.{name}"] for name in names))

    x = golden.inputs["x"]
    return (x + conv_bn(module(conv_bn(x, 1).relu()), 3)).relu()


def _relation_aware(in_channel: int, use_spatial: bool, use_channel: bool, **ratios: int):
    return RelationAwareAttention(
        in_channel,
        (12, 10),
        spatial=use_spatial,
        channel=use_channel,
        channel_ratio=ratios["cha_ratio"],
        spatial_ratio=ratios["spa_ratio"],
        down_ratio=ratios["down_ratio"],
    )


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
    Row("sk_timm_paper", lambda in_channels, **kwargs: SelectiveKernel(in_channels)),
    Row(
        "sk_timm_split",
        lambda in_channels, **kwargs: SelectiveKernel(
            in_channels, groups=1, min_width=8, split_input=True
        ),
    ),
    Row(
        "sk_insight_bottleneck",
        lambda planes, **kwargs: SelectiveKernel(
            planes, dilations=(1, 1), groups=(1, 32), min_width=1
        ),
        _insight_bottleneck,
        weights=_insight_unit,
    ),
    Row("rga_s", _relation_aware),
    Row("rga_c", _relation_aware),
    Row("bat_bilinear_attention", lambda inChannels, outChannels: BilinearAttention(inChannels)),
]

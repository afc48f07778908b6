"""Gates: channel and spatial attention for convolutional networks."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from foveate.attention.gates.attention_gate import AttentionGate
from foveate.attention.gates.bam import BAM
from foveate.attention.gates.bilinear import BilinearAttention
from foveate.attention.gates.cbam import CBAM
from foveate.attention.gates.coordinate import CoordinateAttention
from foveate.attention.gates.dual import DualAttention
from foveate.attention.gates.efficient_channel import EfficientChannelAttention
from foveate.attention.gates.relation_aware import RelationAwareAttention
from foveate.attention.gates.residual_attention import ResidualAttention
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


def _gated(module: AttentionGate, golden: Golden) -> dict[str, Tensor]:
    x, gating = golden.inputs["x"], golden.inputs["g"]
    return {"y0": module(x, gating), "y1": module.gate(x, gating)}


def _grid_gate(mode: str, **sizes: int) -> AttentionGate:
    channels = (sizes["in_channels"], sizes["gating_channels"], sizes["inter_channels"])
    return AttentionGate(*channels, softplus=mode.endswith("debug"), output=True)


def _classifier_gate(mode: str, use_W: bool, **sizes: int) -> AttentionGate:
    return AttentionGate(
        sizes["in_channels"],
        sizes["gating_channels"],
        sizes["inter_channels"],
        stride=1,
        gating_bias=False,
        normalize="range" if "range" in mode else "sigmoid",
        output=use_W,
    )


def _ported(levels: int):
    return lambda in_channels, **kwargs: ResidualAttention(in_channels, levels, variant="port")


def _caffe_module(golden: Golden) -> dict[str, Tensor]:
    """The attention module's entries, each batch norm with the block that it opens."""
    blocks = {
        "first": ("pre_res_1/bn", "trunk/res1/branch1"),
        "trunk.0": ("trunk/res1/bn", "trunk/res2/branch1"),
        "trunk.1": ("trunk/res2/bn", "trunk/res3/branch1"),
        "down.0": ("mask/down_sample/pool1_3x3_s2/bn", "mask/down_sample/res1_1/branch1"),
        "down.1": ("mask/down_sample/pool2_3x3_s2/bn", "mask/down_sample/res2_1/branch1"),
        "bottom.0": ("mask/down_sample/pool3_3x3_s2/bn", "mask/down_sample/res3_1/branch1"),
        "bottom.1": ("mask/down_sample/res3_1/bn", "mask/down_sample/res3_2/branch1"),
        "skip.0": ("mask/down_sample/res1_1/bn", "mask/skip/res1/branch1"),
        "skip.1": ("mask/down_sample/res2_1/bn", "mask/skip/res2/branch1"),
        "up.0": ("mask/up_sample1/bn", "mask/up_sample/res1_1/branch1"),
        "up.1": ("mask/up_sample2/bn", "mask/up_sample/res2_1/branch1"),
        "last": ("fusion/bn", "branch1"),
    }
    names = {
        "mask/up_sample/interp_1/bn": "head.0",
        "mask/linear_1": "head.2",
        "mask/linear_1/bn": "head.3",
        "mask/linear_2": "head.5",
    }
    for block, (norm, branch) in blocks.items():
        names |= {norm: f"{block}.bn1"}
        for i, size in enumerate(("1x1", "3x3", "1x1"), 1):
            names |= {
                f"{branch}/conv{i}_{size}": f"{block}.conv{i}",
                f"{branch}/conv{i}_{size}/bn": f"{block}.bn{i + 1}",
            }
    parts = [(*key.rsplit(".", 1), value) for key, value in golden.state.items()]
    parts = [(name.removeprefix("AttentionA_1/"), leaf, value) for name, leaf, value in parts]
    return {f"{names[name]}.{leaf}": value for name, leaf, value in parts if name in names}


def _caffe_network(module: ResidualAttention, golden: Golden) -> Tensor:
    """The network's stem and first residual block, then the module."""

    def conv(x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = golden.state[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def bn_relu(x: Tensor, name: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(golden.state[f"{name}/bn.{part}"] for part in names)).relu()

    x = bn_relu(conv(golden.inputs["x"], "conv1", 2), "conv1")
    x = bn_relu(F.max_pool2d(x, 3, 2, ceil_mode=True), "pool1_3x3_s2")
    y = conv(x, "pre_res_1/branch1/conv1_1x1")
    for name in ("conv1_1x1", "conv2_3x3"):
        following = {"conv1_1x1": "conv2_3x3", "conv2_3x3": "conv3_1x1"}[name]
        y = bn_relu(y, f"pre_res_1/branch1/{name}")
        y = conv(y, f"pre_res_1/branch1/{following}")
    return module(y + conv(x, "pre_res_1/branch2/conv1_1x1"))


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
    Row("attgate2d_concatenation", _grid_gate, _gated),
    Row("attgate2d_concatenation_debug", _grid_gate, _gated),
    Row("attgate2d_torr_sigmoid", _classifier_gate, _gated),
    Row("attgate2d_torr_range_normalise", _classifier_gate, _gated),
    Row("attgate2d_torr_W", _classifier_gate, _gated),
    Row(
        "attunet_block",
        lambda F_g, F_l, F_int: AttentionGate(F_l, F_g, F_int, stride=1, batch_norm=True),
        lambda module, golden: module(golden.inputs["x"], golden.inputs["g"]),
    ),
    Row("ran_stage0", _ported(4)),
    Row("ran_stage1", _ported(3)),
    Row("ran_stage2_cifar", _ported(1)),
    Row("ran_stage3_cifar", _ported(0)),
    Row(
        "ran56_caffe_stage1",
        lambda: ResidualAttention(256),
        _caffe_network,
        weights=_caffe_module,
    ),
]

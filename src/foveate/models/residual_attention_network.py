"""Residual attention networks: pre-activation residual blocks, and attention modules among them.

    stem -> (residual block, attention modules) x 3 -> residual block, two more -> norm, ReLU

An attention module (:mod:`foveate.attention.gates.residual_attention`) gates a trunk of residual
blocks by an hourglass; its hourglass halves the map three times in the first stage, twice in the
second, once in the third. Attention-56 has one module a stage, Attention-92 one, two and three.
Maps at 1/4, 1/8, 1/16 and 1/32; for 32x32 images the stem keeps the size, and maps stand at 1/1,
1/2, 1/4 and 1/4, or half of that behind a pooling stem.

Paper: Wang et al., "Residual Attention Network for Image Classification", CVPR 2017,
arXiv:1704.06904.
Published code: fwang91/residual-attention-network@bc207a8885168550723d19270f52c8c9c795c7ba (Caffe
definitions, no license), and the port that most use,
tengshaofeng/ResidualAttentionNetwork-pytorch@88ed90f1b59f4b20e152495d3a5b6a19a4aa4232 (no license),
whose attention modules and pooling are others (``port=True``). The forms for 32x32 images are
the port's; the paper's own for CIFAR are not described. Written from the paper; of the definitions
only facts are used. Caffe's pooling loses the last row of a map with an odd number of them; here
its window is padded, so that a stage's side is the image's over the reduction, rounded up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import DropPath, calculate_drop_path_rates
from timm.models import generate_default_cfgs, register_model
from torch import nn

from foveate.arguments import one_of
from foveate.attention.gates.residual_attention import PreActivationBlock, ResidualAttention
from foveate.models._backbone import Backbone, Published, Stage, State, cfg, create, rename
from foveate.models._layers import ChannelsLast, CornerPool

__all__ = ["ResidualAttentionNetwork", "ran56", "ran56_32", "ran92", "ran92_32"]


STEMS = {"imagenet": 4, "small": 1, "small_pooled": 2}
"""By how much a stem reduces the image."""


class ResidualAttentionNetwork(Backbone):
    """The network; a timm model in full.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm; ``""`` keeps the map.
        stem_dim: channels of the stem.
        dims: channels a stage.
        modules: attention modules a stage, the last excepted.
        levels: how many times the hourglass of a stage's modules halves the map.
        trunk_blocks: residual blocks in a module's trunk.
        stem: "imagenet" (7x7 with stride 2, then pooling), or for small images "small" (3x3) or
            "small_pooled" (5x5, then pooling), with which the last stage keeps its size.
        port: modules and pooling as in the PyTorch port, not as the authors define them.
        drop_rate: dropout before the classifier.
        drop_path_rate: stochastic depth of the residual blocks, rising to this in the last.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        stem_dim: int = 64,
        dims: Sequence[int] = (256, 512, 1024, 2048),
        modules: Sequence[int] = (1, 1, 1),
        levels: Sequence[int] = (3, 2, 1),
        trunk_blocks: int = 2,
        stem: str = "imagenet",
        port: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        if not len(dims) - 1 == len(modules) == len(levels):
            raise ValueError(
                "modules and levels need one number for each stage but the last, got "
                f"{tuple(modules)} and {tuple(levels)} for dims={tuple(dims)}"
            )
        variant = "port" if port else "authors"
        stages = []
        for level, dim in enumerate(dims[:-1]):
            blocks = [
                ResidualAttention(dim, levels[level], trunk_blocks=trunk_blocks, variant=variant)
                for _ in range(modules[level])
            ]
            before = dims[level - 1] if level else stem_dim
            stages.append(Stage(blocks, PreActivationBlock(before, dim, 2 if level else 1)))
        first = STEMS[one_of(stem, STEMS, "stem")]
        last_stride = 2 if stem == "imagenet" else 1
        last = PreActivationBlock(dims[-2], dims[-1], last_stride)
        stages.append(Stage([PreActivationBlock(dims[-1]) for _ in range(2)], last))
        reductions = [first * 2**level for level in range(len(dims) - 1)]
        super().__init__(
            _stem(in_chans, stem_dim, stem, port),
            stages,
            dims=dims,
            reductions=[*reductions, last_stride * reductions[-1]],
            norm=nn.Sequential(nn.BatchNorm2d(dims[-1]), nn.ReLU()),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
        )
        if drop_path_rate > 0:
            blocks = [module for module in self.modules() if isinstance(module, PreActivationBlock)]
            for block, rate in zip(
                blocks, calculate_drop_path_rates(drop_path_rate, len(blocks)), strict=True
            ):
                block.drop_path = DropPath(rate)

    def convert_published(self, state: State) -> State:
        """Read the names of the authors' layers, or the port's."""
        if "conv1.weight" in state:
            names = _caffe_names(self)
            parts = [(*key.rsplit(".", 1), value) for key, value in state.items()]
            return {f"{names.get(name, name)}.{leaf}": value for name, leaf, value in parts}
        rules = [(r"^conv1\.", "stem."), (r"^mpool2\.", "norm."), (r"^fc\.", "head.fc.")]
        final = len(self.stages) - 1
        for level, stage in enumerate(self.stages):
            number = level + 4 - final  # the port's last stage is its fourth
            rules.append((rf"^residual_block{number}\.", f"stages.{level}.downsample."))
            for index in range(len(stage.blocks)):
                name = f"attention_module{number}" + (f"_{index + 1}" if index else "")
                if level == final:
                    name = f"residual_block{number + 1 + index}"
                rules.append((rf"^{name}\.", f"stages.{level}.blocks.{index}."))
        state = super().convert_published(rename(state, rules))
        unused = {f"stages.{final}.blocks.{index}.conv4.weight" for index in range(2)}
        return {key: value for key, value in state.items() if key not in unused}


def _stem(in_chans: int, dim: int, form: str, port: bool) -> ChannelsLast:
    size, stride = {"imagenet": (7, 2), "small": (3, 1), "small_pooled": (5, 1)}[form]
    conv = nn.Conv2d(in_chans, dim, size, stride, size // 2, bias=False)
    stem = ChannelsLast(conv, nn.BatchNorm2d(dim), nn.ReLU())
    if form == "imagenet":
        stem.append(nn.MaxPool2d(3, 2, padding=1) if port else CornerPool())
    if form == "small_pooled":
        stem.append(nn.MaxPool2d(2, ceil_mode=True))
    return stem


def _caffe_names(model: ResidualAttentionNetwork) -> dict[str, str]:
    """Our names of the authors' layers. A sum's batch norm opens the block that reads the sum."""
    final = len(model.stages) - 1
    names = {"conv1": "stem.0", "conv1/bn": "stem.1"}
    total = "pool1_3x3_s2"
    for level, stage in enumerate(model.stages):
        ours = f"stages.{level}"
        block = f"post_res_{level + 1}_1" if level == final else f"pre_res_{level + 1}"
        names |= _caffe_block(f"{ours}.downsample", f"{total}/bn", f"{block}/branch1")
        names[f"{block}/branch2/conv1_1x1"] = f"{ours}.downsample.conv4"
        total = block
        for index, part in enumerate(stage.blocks):
            inside = f"{ours}.blocks.{index}"
            if isinstance(part, ResidualAttention):
                module = f"Attention{'ABC'[level]}_{index + 1}"
                names |= _caffe_module(part, inside, f"{total}/bn", module)
            else:
                module = f"post_res_{level + 1}_{index + 2}"
                names |= _caffe_block(inside, f"{total}/bn", f"{module}/branch1")
            total = module
    return names | {f"{total}/bn": "norm.0", "classifier": "head.fc"}


def _caffe_module(part: ResidualAttention, ours: str, norm: str, module: str) -> dict[str, str]:
    trunk, mask = f"{module}/trunk", f"{module}/mask"
    down, bottom = f"{mask}/down_sample", f"{mask}/down_sample/res{part.levels}"
    blocks = {
        "first": (norm, f"{trunk}/res1"),
        "bottom.0": (f"{down}/pool{part.levels}_3x3_s2/bn", f"{bottom}_1"),
        "bottom.1": (f"{bottom}_1/bn", f"{bottom}_2"),
        "last": (f"{module}/fusion/bn", module),
    }
    for index in range(len(part.trunk)):
        blocks[f"trunk.{index}"] = (f"{trunk}/res{index + 1}/bn", f"{trunk}/res{index + 2}")
    for index in range(part.levels - 1):
        level = index + 1
        blocks |= {
            f"down.{index}": (f"{down}/pool{level}_3x3_s2/bn", f"{down}/res{level}_1"),
            f"skip.{index}": (f"{down}/res{level}_1/bn", f"{mask}/skip/res{level}"),
            f"up.{index}": (f"{mask}/up_sample{level}/bn", f"{mask}/up_sample/res{level}_1"),
        }
    names = {
        f"{mask}/up_sample/interp_1/bn": f"{ours}.head.0",
        f"{mask}/linear_1": f"{ours}.head.2",
        f"{mask}/linear_1/bn": f"{ours}.head.3",
        f"{mask}/linear_2": f"{ours}.head.5",
    }
    for block, (first, branch) in blocks.items():
        names |= _caffe_block(f"{ours}.{block}", first, f"{branch}/branch1")
    return names


def _caffe_block(ours: str, norm: str, branch: str) -> dict[str, str]:
    names = {norm: f"{ours}.bn1"}
    for number, size in enumerate(("1x1", "3x3", "1x1"), 1):
        names[f"{branch}/conv{number}_{size}"] = f"{ours}.conv{number}"
        if number < 3:
            names[f"{branch}/conv{number}_{size}/bn"] = f"{ours}.bn{number + 1}"
    return names


_COUNTS = "counts: README of implus/SKNet"

PUBLISHED = {
    "ran56": Published(
        params="31.9M",
        multiply_adds="6.32G",
        top1=78.24,
        source=f"top-1: README of fwang91/residual-attention-network; {_COUNTS} (AttentionNeXt-56)",
    ),
    "ran92": Published(
        params="51.3M",
        multiply_adds="10.43G",
        source=_COUNTS,
        note="52.47M and 10.53G, as the authors' Caffe definition has; the printed figures lack a "
        "residual block's worth of them. Top-1 of 80.5 is given for 320x320",
    ),
    "ran56_32": Published(size=(32, 32), source="the port has no such variant"),
    "ran92_32": Published(size=(32, 32), source="the port prints none"),
}

_CFG = cfg(
    first_conv="stem.0",
    origin_url="https://github.com/fwang91/residual-attention-network",
    paper_ids="arXiv:1704.06904",
)
_PORT = {
    **_CFG,
    "input_size": (3, 32, 32),
    "num_classes": 10,
    "pool_size": (8, 8),
    "crop_pct": 1.0,
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
    "origin_url": "https://github.com/tengshaofeng/ResidualAttentionNetwork-pytorch",
}

default_cfgs = generate_default_cfgs(
    {
        "ran56.untrained": _CFG,
        "ran92.untrained": _CFG,
        "ran56_32.untrained": _PORT,
        "ran92_32.untrained": _PORT,
    }
)

_SMALL_IMAGES = {
    "stem_dim": 32,
    "dims": (128, 256, 512, 1024),
    "levels": (2, 1, 0),
    "stem": "small",
    "port": True,
    "num_classes": 10,
}


@register_model
def ran56(pretrained: bool = False, **kwargs: Any) -> ResidualAttentionNetwork:
    """Attention-56: one module in each of three stages."""
    return create(ResidualAttentionNetwork, "ran56", pretrained, **kwargs)


@register_model
def ran92(pretrained: bool = False, **kwargs: Any) -> ResidualAttentionNetwork:
    """Attention-92: one, two and three modules."""
    kwargs = {"modules": (1, 2, 3), **kwargs}
    return create(ResidualAttentionNetwork, "ran92", pretrained, **kwargs)


@register_model
def ran56_32(pretrained: bool = False, **kwargs: Any) -> ResidualAttentionNetwork:
    """The port's network for 32x32 images, but with one module a stage, as the port has none."""
    kwargs = {**_SMALL_IMAGES, **kwargs}
    return create(ResidualAttentionNetwork, "ran56_32", pretrained, **kwargs)


@register_model
def ran92_32(pretrained: bool = False, **kwargs: Any) -> ResidualAttentionNetwork:
    """The port's network for 32x32 images, with one, two and three modules."""
    kwargs = {**_SMALL_IMAGES, "modules": (1, 2, 3), **kwargs}
    return create(ResidualAttentionNetwork, "ran92_32", pretrained, **kwargs)

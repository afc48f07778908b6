"""Bilinear attention networks for person retrieval: an Inception trunk, stripes beside it.

    trunk:   stem /8 -> 3a, 3b /16 -> gate -> 4a .. 4e /32 -> (gate) -> 5a, 5b -> (gate) -> BN, ReLU
    stripes: of the map behind the first gate, each -> its own 4a .. 4e -> its own 5a, 5b; all -> BN

A stripe is the i-th of ``parts`` equal bands of rows, stretched to the height of the map. Trunk and
stripes are pooled, embedded and classified each on its own, which makes two sets of scores; here
``forward`` gives their mean, and ``embed`` the features for retrieval: both embeddings, of length
one each, side by side. The gate is :mod:`foveate.attention.gates.bilinear`.

Papers: Fang et al., "Bilinear Attention Networks for Person Retrieval", ICCV 2019, doi
10.1109/ICCV.2019.00812; "Attention in Attention Networks for Person Retrieval", TPAMI 2021, doi
10.1109/TPAMI.2021.3073512.
Published code: PengfeiFANGanu/Attention-in-Attention-Networks
@b5b9822956bb719a167c7bf846207ee0df0268c6 (no license; written from the papers and its layout). Its
layers that no output depends on are left out; grids reach from corner to corner, as in PyTorch 1.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import (
    checkpoint,
    generate_default_cfgs,
    register_model,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import one_of
from foveate.attention._dropout import Dropout
from foveate.attention.gates.bilinear import BilinearAttention
from foveate.contracts import OneStep
from foveate.models._backbone import (
    Backbone,
    Published,
    Stage,
    State,
    cfg,
    check_images,
    create,
    rename,
)
from foveate.models._layers import ChannelsLast, CornerPool

__all__ = ["BilinearAttentionNetwork", "batnet", "batnet_multi"]

WIDTHS = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 204, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 48, 128, 128), (384, 192, 384, 48, 128, 128)),
)
"""Channels in the Inception modules of three stages: see :class:`Inception`."""


class Inception(nn.Module):
    """Convolutions of three reaches and a pool, side by side.

    Args:
        dim: channels in.
        widths: channels of the 1x1 branch; inside and at the end of the 3x3 branch; of the 5x5
            branch likewise; of the pooled branch.
    """

    def __init__(self, dim: int, widths: Sequence[int]) -> None:
        super().__init__()
        one, in_three, three, in_five, five, pooled = widths
        self.out = one + three + five + pooled
        self.branches = nn.ModuleList(
            [
                nn.Sequential(*_conv(dim, one)),
                nn.Sequential(*_conv(dim, in_three), *_conv(in_three, three, 3)),
                nn.Sequential(*_conv(dim, in_five), *_conv(in_five, five, 5)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), *_conv(dim, pooled)),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Stripes(OneStep):
    """``(B, C, H, W) -> (parts, B, C, H, W)``: bands of rows, each stretched to all the height."""

    def __init__(self, parts: int) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self._stripe(x, index) for index in range(self.parts)])

    def _stripe(self, x: Tensor, index: int) -> Tensor:
        # F.affine_grid would tie an exported program to the map of the example.
        height, width = (_corner_to_corner(n, x) for n in x.shape[-2:])
        rows = height / self.parts + (2 * index + 1) / self.parts - 1
        grid = torch.stack(torch.meshgrid(width, rows, indexing="xy"), -1)  # (H, W, 2) of (x, y)
        return F.grid_sample(x, grid.expand(x.shape[0], -1, -1, -1), align_corners=True)


def _corner_to_corner(n: int, like: Tensor) -> Tensor:
    """Coordinates, n of them, from -1 to 1; 0 if there is but one."""
    steps = torch.arange(n, device=like.device)
    return ((2 * steps - (n - 1)) / torch.sym_max(n - 1, 1)).to(like.dtype)


class BranchHead(OneStep):
    """Branches of a map pooled, embedded and classified each on its own; their scores' mean.

    Args:
        dims: channels of the branches, which lie side by side.
        hidden: of an embedding.
        num_classes: classes; 0 gives the embeddings side by side.
        pool: "avg", or "" for the map as it is.
        drop_rate: dropout before linear layers.
    """

    def __init__(
        self, dims: Sequence[int], hidden: int, num_classes: int, pool: str, drop_rate: float
    ) -> None:
        super().__init__()
        self.dims, self.hidden, self.pool = list(dims), hidden, pool
        self.drop = Dropout(drop_rate)
        self.embed = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU()) for dim in dims
        )
        self.fc = nn.ModuleList()
        self.reset(num_classes, pool)

    def reset(
        self,
        num_classes: int,
        pool: str | None = None,
        in_features: int | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """Put new classifiers in place; the embeddings stay."""
        pool = self.pool if pool is None else one_of(pool, ("avg", ""), "global_pool")
        if not pool and num_classes:
            raise ValueError("classes need pooled features: global_pool='' takes num_classes=0")
        self.pool = pool
        self.fc = nn.ModuleList(
            nn.Linear(self.hidden, num_classes, device=device, dtype=dtype)
            for _ in range(len(self.embed) if num_classes else 0)
        )

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if not self.pool:
            return x
        parts = x.mean((2, 3)).split(self.dims, 1)
        embedded = [embed(self.drop(part)) for embed, part in zip(self.embed, parts, strict=True)]
        if pre_logits or len(self.fc) == 0:
            return torch.cat(embedded, 1)
        scores = [fc(self.drop(part)) for fc, part in zip(self.fc, embedded, strict=True)]
        return torch.stack(scores).mean(0)


class BilinearAttentionNetwork(Backbone):
    """The network; a timm model in full.

    Args:
        in_chans: channels of the images.
        num_classes: classes; 0 gives the embeddings side by side.
        global_pool: "avg", or "" for the map of all branches.
        gates: behind which of the trunk's three stages the gate stands.
        parts: stripes beside the trunk; 0 leaves them out.
        hidden: channels of an embedding.
        width: factor of all channels but the embeddings'.
        drop_rate: dropout before linear layers.
    """

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        gates: Sequence[bool] = (True, False, False),
        parts: int = 4,
        hidden: int = 512,
        width: float = 1.0,
        drop_rate: float = 0.1,
    ) -> None:
        if len(gates) != len(WIDTHS):
            raise ValueError(f"gates needs one entry for each of three stages, got {tuple(gates)}")
        stem_dim, before = _scaled((64, 192), width)
        stages, dims = [], []
        stem = ChannelsLast(  # in which PyTorch's poolings of this network are fast
            *_conv(in_chans, stem_dim, 7, 2),
            nn.MaxPool2d(3, 2, 1),
            *_conv(stem_dim, stem_dim),
            *_conv(stem_dim, before, 3),
            nn.MaxPool2d(3, 2, 1),
        )
        for level, gated in enumerate(gates):
            blocks, before = _blocks(before, level, width)
            dims.append(before)
            stages.append(Stage([*blocks, BilinearAttention(before)] if gated else blocks))
        super().__init__(
            stem,
            stages,
            dims=dims,
            reductions=(16, 32, 32),
            norm=nn.Sequential(nn.BatchNorm2d(dims[-1]), nn.ReLU()),
            in_chans=in_chans,
            num_classes=0,
            drop_rate=drop_rate,
        )
        self.stripes = Stripes(parts)
        self.local = nn.ModuleList(
            nn.Sequential(*_blocks(dims[0], 1, width)[0], *_blocks(dims[1], 2, width)[0])
            for _ in range(parts)
        )
        branches = [dims[-1], parts * dims[-1]] if parts else [dims[-1]]
        self.local_norm = nn.BatchNorm2d(branches[-1]) if parts else None
        self.num_classes = num_classes
        self.num_features = sum(branches)
        self.head_hidden_size = hidden * len(branches)
        self.head = BranchHead(branches, hidden, num_classes, global_pool, drop_rate)

    # Written out, because symbolic tracing spares only functions that this file names.
    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """``(B, in_chans, H, W) -> (B, C, h, w)``: the maps of all branches, normalised."""
        check_images(x, self.in_chans, self.smallest)
        first = last = self.stages[0](self.stem(x))
        for stage in self.stages[1:]:
            last = stage(last)
        return self._branches(first, last)

    def _branches(self, first: Tensor, last: Tensor) -> Tensor:
        """The trunk's last map, and what the stripes of its first become."""
        trunk = self.norm(last)
        if self.local_norm is None:
            return trunk
        stripes = self.stripes(first)
        local = [
            checkpoint(part, stripes[index]) if self.grad_checkpointing else part(stripes[index])
            for index, part in enumerate(self.local)
        ]
        return torch.cat([trunk, self.local_norm(torch.cat(local, 1))], 1)

    def embed(self, x: Tensor) -> Tensor:
        """``(B, in_chans, H, W) -> (B, head_hidden_size)``: features to compare by their angle."""
        embedded = self.forward_head(self.forward_features(x), pre_logits=True)
        parts = embedded.split(self.head.hidden, 1)
        return torch.cat([F.normalize(part) for part in parts], 1)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps that the trunk's stages give."""
        take, last = feature_take_indices(len(self.stages), indices)
        end = len(self.stages) - 1
        if intermediates_only or (stop_early and last < end):
            return super().forward_intermediates(
                x, indices, norm, stop_early, output_fmt, intermediates_only
            )
        maps = super().forward_intermediates(x, None, output_fmt=output_fmt)[1]
        chosen = [self.norm(maps[i]) if norm and i == end else maps[i] for i in take]
        return self._branches(maps[0], maps[end]), chosen

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last one asked for, and the stripes, which are no stage."""
        take = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_head or len(self.stages) < 3:
            self.local, self.local_norm = nn.ModuleList(), None
            self.head.embed = nn.ModuleList()
        return take

    def get_classifier(self) -> tuple[nn.Module, ...]:
        """The last linear layer of every branch."""
        return tuple(self.head.fc)

    def convert_published(self, state: State) -> State:
        """Read the published names; layers that no output depends on are dropped."""
        places = {
            name: f"stages.{level}.blocks.{index}"
            for level, names in enumerate((("3a", "3b"), _FOURTH, _FIFTH))
            for index, name in enumerate(names)
        }
        inside = {name: index for index, name in enumerate((*_FOURTH, "pool", *_FIFTH))}
        gates = {
            number: f"stages.{level}.blocks.{len(stage.blocks) - 1}."
            for level, (number, stage) in enumerate(zip("123", self.stages, strict=True))
        }
        rules = [
            (r"^features\.conv\.conv1\.(\d)", r"stem.\1"),
            (r"^features\.conv\.conv2\.(\d)", lambda found: f"stem.{4 + int(found[1])}"),
            (r"^features\.conv\.conv3\.(\d)", lambda found: f"stem.{7 + int(found[1])}"),
            (r"^features\.bilinearatt_global(\d?)\.", lambda found: gates[found[1] or "1"]),
            (
                r"^features\.inception\d_local\.(\d)\.inception_(\d\w)",
                lambda found: f"local.{found[1]}.{inside[found[2]]}",
            ),
            (r"^features\.inception\d\.inception_(\d\w)", lambda found: places[found[1]]),
            (r"^features\.norm1_1\.", "norm.0."),
            (r"^features\.norm1_2\.", "local_norm."),
        ]
        rules += [
            (rf"\.{name}\.{i}\.", f".branches.{branch}.{first + i}.")
            for name, (branch, first) in _BRANCHES.items()
            for i in (0, 1)
        ]
        for branch, name in enumerate(("global", "local")):
            rules += [
                (rf"^fc_{name}\.1\.", f"head.embed.{branch}.0."),
                (rf"^fc_{name}\.2\.", f"head.embed.{branch}.1."),
                (rf"^classifier_{name}\.1\.", f"head.fc.{branch}."),
            ]
        dropped = ("features.part_predictor",) if self.local_norm is not None else _LOCAL
        kept = {name: value for name, value in state.items() if not name.startswith(dropped)}
        return super().convert_published(rename(kept, rules))


_FOURTH, _FIFTH = ("4a", "4b", "4c", "4d", "4e"), ("5a", "5b")
# Where a published branch's first convolution stands in ours: branch, and position in it.
_BRANCHES = {
    "conv1": (0, 0),
    "conv3_1": (1, 0),
    "conv3_3": (1, 3),
    "conv5_1": (2, 0),
    "conv5_5": (2, 3),
    "conv_max_1": (3, 1),
}
_LOCAL = ("features.part_predictor", "features.norm1_2", "fc_local", "classifier_local")


def _scaled(channels: Sequence[int], width: float) -> list[int]:
    return [max(1, int(count * width)) for count in channels]


def _blocks(dim: int, level: int, width: float) -> tuple[list[nn.Module], int]:
    """The Inception modules of a stage and the pool behind them, and the channels they give."""
    blocks: list[nn.Module] = []
    for widths in WIDTHS[level]:
        module = Inception(dim, _scaled(widths, width))
        blocks.append(module)
        dim = module.out
    pools = [[CornerPool()], [nn.MaxPool2d(3, 2, 1)], []]
    return [*blocks, *pools[level]], dim


def _conv(dim: int, out: int, kernel_size: int = 1, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(dim, out, kernel_size, stride, kernel_size // 2)
    return [conv, nn.BatchNorm2d(out), nn.ReLU()]


_NO_COUNTS = "the papers' tables could not be read"

PUBLISHED = {
    "batnet": Published(size=(256, 128), source=_NO_COUNTS),
    "batnet_multi": Published(size=(256, 128), source=_NO_COUNTS),
}

_CFG = cfg(
    input_size=(3, 256, 128),
    pool_size=(8, 4),
    num_classes=751,
    crop_pct=1.0,
    crop_mode="squash",
    interpolation="bilinear",
    first_conv="stem.0",
    classifier=("head.fc.0", "head.fc.1"),
    origin_url="https://github.com/PengfeiFANGanu/Attention-in-Attention-Networks",
)

default_cfgs = generate_default_cfgs({"batnet.untrained": _CFG, "batnet_multi.untrained": _CFG})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> BilinearAttentionNetwork:
    kwargs = {"num_classes": 751, "out_indices": (0, 1, 2), **kwargs}
    return create(BilinearAttentionNetwork, variant, pretrained, **kwargs)


@register_model
def batnet(pretrained: bool = False, **kwargs: Any) -> BilinearAttentionNetwork:
    """Bilinear attention behind the trunk's first stage, four stripes; for 751 people."""
    return _create("batnet", pretrained, **kwargs)


@register_model
def batnet_multi(pretrained: bool = False, **kwargs: Any) -> BilinearAttentionNetwork:
    """Bilinear attention behind all three stages, four stripes; for 751 people."""
    return _create("batnet_multi", pretrained, **{"gates": (True, True, True), **kwargs})

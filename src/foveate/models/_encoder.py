"""A backbone as the encoder of dense predictions: which maps of it are read, and at what sizes.

Any of timm's models that ``features_only`` takes is one, a registered one of this library or not.
What has to be settled for it is settled here, once: which levels, in which layout, normed or not,
and what happens to images whose size the network does not take.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.arguments import nearest
from foveate.models._backbone import Backbone
from foveate.models._timm import TimmBackbone

_NORMED = ("swin", "convnext")
"""Timm's families whose published networks for dense predictions norm the maps that they give."""

_ODD = (97, 131)  # height and width that few numbers divide


@dataclass(frozen=True)
class Encoder:
    """A network that gives maps, and how they are read.

    Attributes:
        network: what timm builds with ``features_only=True``.
        name: what messages call it.
        levels: which of the maps that it gives are read.
        channels: of these.
        strides: of these.
        norms: whether a layer norm is put on each of these.
        multiple: what the sides of images are padded to a multiple of; 1 for nothing.
    """

    network: nn.Module
    name: str
    levels: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    norms: bool
    multiple: int


def create_encoder(
    backbone: str | nn.Module,
    wanted: Sequence[int],
    *,
    out_indices: Sequence[int] | None = None,
    feature_norm: bool | None = None,
    **kwargs: Any,
) -> Encoder:
    """The encoder that a backbone makes.

    Args:
        backbone: name of one of timm's models, or what ``features_only=True`` has given, changed
            or not.
        wanted: strides of the maps that are read. Where the network has other ones, its coarsest
            maps are, as many.
        out_indices: levels of the network to read instead.
        feature_norm: whether to put a layer norm on each map; as the family's published networks
            for dense predictions have it if None.
        **kwargs: of the network, for ``timm.create_model``.

    Raises:
        TypeError: if ``backbone`` is neither.
        ValueError: if it is unknown, or gives fewer maps than are wanted.
    """
    if "features_only" in kwargs:
        raise ValueError("features_only is set here, since maps are read: leave it out")
    _check_indices(out_indices)
    if isinstance(backbone, str):
        network, multiple = _build(backbone, wanted, out_indices, kwargs)
        name = backbone
    else:
        network, name = backbone, type(_inside(backbone)).__name__
        if kwargs:
            raise ValueError(f"{next(iter(kwargs))} is of no use: the backbone is built already")
        _feature_info(network, name)
        multiple = _multiple_of(network, name)
    info = _feature_info(network, name)
    strides, channels = info.reduction(), info.channels()
    levels = _levels(strides, wanted, name) if out_indices is None else range(len(strides))
    if len(levels) != len(wanted):
        raise ValueError(
            f"{len(wanted)} maps are read; out_indices={tuple(out_indices or ())} of {name} "
            f"gives {len(levels)}"
        )
    own = isinstance(_inside(network), Backbone) and _inside(network).dense_norms
    return Encoder(
        network,
        name,
        tuple(levels),
        tuple(channels[level] for level in levels),
        tuple(strides[level] for level in levels),
        (own or name.startswith(_NORMED)) if feature_norm is None else feature_norm,
        multiple,
    )


class PyramidModel(nn.Module):
    """What stands on an encoder: its network as ``backbone``, norms, and the maps to be read.

    Args:
        encoder: the encoder.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.backbone = encoder.network
        self.levels = encoder.levels
        self.strides = encoder.strides
        self.multiple = encoder.multiple
        self.norms = nn.ModuleList(
            LayerNorm2d(channels, eps=1e-5) if encoder.norms else nn.Identity()
            for channels in encoder.channels
        )

    def features(self, x: Tensor) -> list[Tensor]:
        """Images to the maps (B, C_i, h_i, w_i) that are read, the finest first."""
        maps = self.backbone(x)
        if getattr(self.backbone, "output_fmt", "NCHW") == "NHWC":
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        return [norm(maps[level]) for norm, level in zip(self.norms, self.levels, strict=True)]

    def padded(self, x: Tensor) -> Tensor:
        """Images with zeros at the bottom and the right, up to the multiple that is needed."""
        if self.multiple == 1:
            return x
        height, width = x.shape[2:]
        return F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How parameters group into layers, as timm's models say it: the backbone's, then the rest.

        Where timm took a backbone apart, what it said is lost, and the numbers in the names count.
        """
        inner = _inside(self.backbone)
        if not hasattr(inner, "group_matcher"):
            return _layers_by_number(coarse)
        start = r"backbone\.model\." if inner is not self.backbone else r"backbone\."
        return {
            name: rf"{start}(?:{said.replace('^', '')})"
            if isinstance(said, str)
            else [(rf"{start}(?:{pattern.replace('^', '')})", last) for pattern, last in said]
            for name, said in inner.group_matcher(coarse).items()
            if said is not None
        }

    def encoder_rules(self, state: dict[str, Tensor]) -> list[tuple[str, Any]]:
        """The published names of the backbone and its norms, and ours."""
        rules: list[tuple[str, Any]] = []
        if isinstance(self.norms[0], LayerNorm2d):
            rules += [
                (r"^backbone\.norms\.(\d)\.norm\.", r"backbone.norm\1."),  # DAT
                (r"^backbone\.norm(\d)\.", self._norm_at(state)),
            ]
        inside = "backbone.model." if hasattr(self.backbone, "model") else "backbone."
        return [*rules, (r"^backbone\.(?!model\.)", inside)]

    def _norm_at(self, state: dict[str, Tensor]) -> Callable[[re.Match[str]], str]:
        """Which norm is meant: CSWin counts from 1, and the last is that of the coarsest map."""
        names = (re.match(r"backbone\.(?:norms\.(\d)\.norm|norm(\d))\.", key) for key in state)
        numbers = [int(found[1] or found[2]) for found in names if found]
        last = max(numbers, default=0)
        return lambda found: f"norms.{int(found[1]) - last + len(self.norms) - 1}."


def _layers_by_number(coarse: bool) -> dict[str, Any]:
    """Layers of a backbone that was taken apart: stages, and in them blocks."""
    stage = r"(?:layer|layers|stages|blocks)[._]?"
    number = rf"backbone\.{stage}(\d+)"
    blocks = number if coarse else [(rf"{number}\.(?:blocks\.)?(\d+)", None), (number, (0,))]
    return {"stem": rf"backbone\.(?!{stage}\d)", "blocks": blocks}


def _check_indices(out_indices: Sequence[int] | None) -> None:
    if out_indices is None:
        return
    given = list(out_indices)
    ints = all(isinstance(i, int) and not isinstance(i, bool) for i in given)
    if not given or not ints or given != sorted(set(given)):
        raise ValueError(
            "out_indices must be levels of the backbone, each once, the finest first, got "
            f"{tuple(given)}"
        )


def _build(
    name: str, wanted: Sequence[int], out_indices: Sequence[int] | None, kwargs: dict[str, Any]
) -> tuple[nn.Module, int]:
    """The network with what its family needs for dense predictions, and its multiple."""
    if ":" not in name and not timm.is_model(name.split(".")[0]):
        raise ValueError(f"unknown backbone {name!r}{nearest(name, timm.list_models())}")
    if out_indices is not None:
        kwargs = {**kwargs, "out_indices": tuple(out_indices)}
    network = _create(name, kwargs)
    more = dict(getattr(type(_inside(network)), "dense_options", {}))
    if out_indices is None:
        levels = _levels(_feature_info(network, name).reduction(), wanted, name)
        if max(levels) + 1 < len(_feature_info(network, name).reduction()):
            more["out_indices"] = tuple(_feature_info(network, name).out_indices[i] for i in levels)
    if set(more) - set(kwargs):
        kwargs = {**more, **kwargs}
        network = _create(name, kwargs)
    if _reads(network, _ODD):
        return network, 1
    if "dynamic_img_size" not in kwargs:
        try:
            network = _create(name, {**kwargs, "dynamic_img_size": True})
        except TypeError:  # it has no such option
            pass
        else:
            if _reads(network, _ODD):
                return network, 1
    return network, _multiple_of(network, name)


def _create(name: str, kwargs: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, features_only=True, **kwargs)
    except (AttributeError, AssertionError, RuntimeError, KeyError) as error:
        raise ValueError(f"timm builds no pyramid of {name!r}: {error}") from error


def _inside(network: nn.Module) -> Any:
    """The model that a feature extractor holds, or the extractor where it took it apart."""
    return getattr(network, "model", network)


def _feature_info(network: Any, name: str) -> Any:
    info = getattr(network, "feature_info", None)
    if not isinstance(network, nn.Module) or not hasattr(info, "reduction"):
        raise TypeError(
            f"expected the name of a timm model, or one built with features_only=True, got {name}"
        )
    return info


def _levels(strides: Sequence[int], wanted: Sequence[int], name: str) -> list[int]:
    """Of which levels the maps are read: those at the strides wanted, or the coarsest ones."""
    if len(set(strides)) == len(strides) and set(wanted) <= set(strides):
        return [strides.index(stride) for stride in wanted]
    if len(strides) < len(wanted):
        raise ValueError(
            f"{len(wanted)} maps are read, and {name} gives {len(strides)}, at strides "
            f"{', '.join(map(str, strides))}: name {len(wanted)} of its levels by out_indices, or "
            "take a backbone with as many stages"
        )
    return list(range(len(strides) - len(wanted), len(strides)))


def _multiple_of(network: nn.Module, name: str) -> int:
    """1 if images of any size pass, or else the coarsest stride, up to whose multiples to pad."""
    if _reads(network, _ODD):
        return 1
    multiple = max(_feature_info(network, name).reduction())
    sides = [-(-side // multiple) * multiple for side in _ODD]
    if not _reads(network, (sides[0], sides[1])):
        warnings.warn(
            f"{name} reads images of certain sizes alone, such as that which img_size says: others "
            f"are refused by it, after padding to a multiple of {multiple}",
            stacklevel=4,
        )
    else:
        warnings.warn(
            f"{name} reads images whose sides are multiples of {multiple}: others are padded with "
            "zeros at the bottom and the right, and what is said of these pixels is cut off",
            stacklevel=4,
        )
    return multiple


def _reads(network: nn.Module, size: tuple[int, int]) -> bool:
    """Whether images of ``size`` pass, tried without numbers (on the meta device)."""
    if isinstance(_inside(network), Backbone | TimmBackbone):
        return True  # these take any
    entries = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    shapes = {key: torch.empty_like(value, device="meta") for key, value in entries.items()}
    first = next(iter(entries.values()))
    channels = getattr(network, "in_chans", 3)
    images = torch.empty(1, channels, *size, device="meta", dtype=first.dtype)
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.no_grad():
            torch.func.functional_call(network.eval(), shapes, (images,))
    except Exception:  # whatever a network says to a size that it does not take
        return False
    finally:
        for module, training in modes.items():
            module.training = training
    return True

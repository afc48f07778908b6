"""What every backbone shares: timm's model contract, written once.

    images (B, in_chans, H, W) -> stem -> stages -> norm -> pool -> dropout -> classifier

A family's file says what its stem, stages and norm are; features, heads, checkpointing, pruning and
layer groups follow from here. Maps are (B, C, h, w) throughout, with h = ceil(H / reduction), and
nothing is fixed to an input size at construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead
from timm.models import (
    build_model_with_cfg,
    checkpoint_seq,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.fx import Proxy

from foveate.arguments import check_map
from foveate.models._synchronised import KeepsActivations
from foveate.published import convert_parts as convert_parts  # every family's file asks for these
from foveate.published import converted, of_today, tensors_of
from foveate.published import rename as rename

Model = TypeVar("Model", bound=nn.Module)
State = dict[str, Tensor]


@dataclass(frozen=True)
class Published:
    """What the publication says of a variant, for the table of models.

    Attributes:
        params: parameters as printed, such as ``"22M"``; empty where none are given.
        multiply_adds: of one image, as printed, such as ``"4.2G"``; empty where none are given.
        top1: ImageNet-1K accuracy in percent; None where none is given.
        size: height and width of the image.
        source: where the figures stand: a table of the paper or a README.
        note: why ours differ, wherever they do by more than one percent and the printed rounding.
    """

    params: str = ""
    multiply_adds: str = ""
    top1: float | None = None
    size: tuple[int, int] = (224, 224)
    source: str = ""
    note: str = ""


class Stage(nn.Module):
    """Down-sampling, then blocks; the blocks recomputed in backward when asked for.

    Args:
        blocks: modules ``(B, C, h, w) -> (B, C, h, w)``, run in order.
        downsample: what comes before them.
    """

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None = None) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.downsample = nn.Identity() if downsample is None else downsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.downsample(x))

    def run(self, x: Tensor) -> Tensor:
        """The blocks alone."""
        if self.grad_checkpointing:
            return checkpoint_seq(self.blocks, x)
        return self.blocks(x)


class Backbone(KeepsActivations):
    """A pyramid of features, and a classifier on it; a timm model in full.

    Args:
        stem: images to the first map.
        stages: one :class:`Stage` a level.
        dims: channels that each stage gives.
        reductions: of the map's sides against the image's, after each stage.
        norm: what the last map passes before it is pooled.
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm; ``""`` keeps the map.
        drop_rate: dropout before the classifier.
        smallest: the shortest side of an image that the stem can read.
    """

    spared: ClassVar[tuple[str, ...]] = (
        "position_bias",
        "rel_pos_bias",
        "pos_embed",
        "cls_token",
    )
    """What the names of parameters contain that weight decay should spare."""
    dense_options: ClassVar[dict[str, Any]] = {}
    """Options of the network that the publication builds for segmentation and detection."""
    dense_norms: ClassVar[bool] = False
    """Whether that network has a layer norm on each map that it gives."""

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        *,
        dims: Sequence[int],
        reductions: Sequence[int] = (4, 8, 16, 32),
        norm: nn.Module | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        smallest: int = 1,
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.map_channels = self.num_features = self.head_hidden_size = dims[-1]
        self.drop_rate = drop_rate
        self.smallest = smallest
        self.grad_checkpointing = False
        self.feature_info = [
            {"num_chs": dim, "reduction": reduction, "module": f"stages.{index}"}
            for index, (dim, reduction) in enumerate(zip(dims, reductions, strict=True))
        ]
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.norm = nn.Identity() if norm is None else norm
        self.head = ClassifierHead(dims[-1], num_classes, global_pool, drop_rate)

    def forward_features(self, x: Tensor) -> Tensor:
        """``(B, in_chans, H, W) -> (B, num_features, h, w)``: the last map, normalised.

        All that :meth:`forward_head` reads, in one tensor; a family whose stages give more than a
        map says in :meth:`as_features` how.
        """
        check_images(x, self.in_chans, self.smallest)
        return self.as_features(self.finish(self.stages(self.stem(x))))

    def finish(self, x: Any) -> Any:
        """The final norm on what the last stage gives."""
        return self.norm(x)

    def as_map(self, x: Any) -> Tensor:
        """The map in what a stage gives, which is more where a network has two branches."""
        return x

    def as_features(self, x: Any) -> Tensor:
        """What :meth:`finish` gives, as the one tensor that the head reads."""
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pooling, dropout and, unless ``pre_logits``, the classifier."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps that the stages give.

        Args:
            x: images (B, in_chans, H, W).
            indices: which stages: the last n if an int, all if None.
            norm: give the last stage's map after the final norm.
            stop_early: stop after the last stage asked for.
            output_fmt: ``"NCHW"``.
            intermediates_only: leave out the final features.

        Raises:
            ValueError: if another format is asked for.
        """
        check_output_format(output_fmt)
        check_images(x, self.in_chans, self.smallest)
        take, last = feature_take_indices(len(self.stages), indices)
        final = len(self.stages) - 1
        x = self.stem(x)
        intermediates = []
        for index, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = stage(x)
            if index in take:
                intermediates.append(self.as_map(self.finish(x) if norm and index == final else x))
        if intermediates_only:
            return intermediates
        whole = last == final or not stop_early
        return (self.as_features(self.finish(x)) if whole else self.as_map(x)), intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last one asked for; the norm and the head if asked or cut."""
        take, last = feature_take_indices(len(self.stages), indices)
        cut = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        if cut:
            self.map_channels = self.feature_info[last]["num_chs"]
            self.num_features = self.head_hidden_size = self.map_channels
        if cut or prune_norm:
            self.norm = nn.Identity()
        if cut or prune_head:
            self.reset_classifier(0, "")
        return take

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.head.fc

    def reset_classifier(
        self,
        num_classes: int,
        global_pool: str | None = None,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """Put a new classifier in place.

        Args:
            num_classes: classes; 0 gives features.
            global_pool: other pooling; ``""`` keeps the map.
            device: where its parameters are made; the model's otherwise.
            dtype: of its parameters; the model's otherwise.
        """
        parameter = next(self.parameters())
        self.head.reset(  # which may refuse
            num_classes,
            global_pool,
            in_features=self.map_channels,
            device=parameter.device if device is None else device,
            dtype=parameter.dtype if dtype is None else dtype,
        )
        self.num_classes = num_classes

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in backward instead of keeping their activations."""
        self.grad_checkpointing = enable
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of parameters, beside biases and norms, that weight decay should spare."""
        return {
            name
            for name, _ in self.named_parameters()
            if any(spared in name for spared in self.spared)
        }

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How parameters group into layers, for layer-wise learning rates."""
        blocks = (
            r"^stages\.(\d+)"
            if coarse
            else [
                (r"^stages\.(\d+)\.(?:downsample|cls_token)", (0,)),
                (r"^stages\.(\d+)\.blocks\.(\d+)", None),
                (r"^norm", (99999,)),
            ]
        )
        return {"stem": r"^stem", "blocks": blocks}

    def convert_published(self, state: State) -> State:
        """The published implementation's state under the names and layouts of this one."""
        return convert_parts(self, state)


def check_images(x: Tensor, in_chans: int, smallest: int = 1) -> None:
    """Refuse anything but floating images ``(B, in_chans, H, W)`` with H, W >= ``smallest``.

    A symbol (``torch.fx``) passes; what is traced does not check.

    Raises:
        TypeError: if ``x`` is not a tensor.
        ValueError: if its dtype, rank, channels or size are wrong.
    """
    if isinstance(x, Proxy):
        return
    check_map(x, in_chans)
    if min(x.shape[2:]) < smallest:
        raise ValueError(
            f"expected images of at least {smallest}x{smallest} pixels, got {tuple(x.shape)}"
        )


def check_output_format(output_fmt: str) -> None:
    """Refuse to give maps in another layout than ``"NCHW"``."""
    if output_fmt != "NCHW":
        raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")


def checkpoint_filter_fn(state: State, model: nn.Module) -> State:
    """What timm asks of a checkpoint before loading: the published names under ours.

    A state of our own passes as it is. Which it is, the names tell, though networks that stand on
    one of timm's share most of theirs with the publication.
    """
    ours = model.state_dict().keys()
    state = of_today(model, tensors_of(state, ours))
    if ours <= state.keys():
        return state
    known = len(ours & state.keys())
    try:
        renamed = converted(model, state)
    except ValueError:
        if known <= len(ours) // 2:
            raise
        return state  # ours, in part
    return renamed if len(ours & renamed.keys()) > known else state


def cfg(**kwargs: Any) -> dict[str, Any]:
    """Timm's configuration of a variant's weights, ImageNet's unless said otherwise.

    Images are cut from 256 to 224, as nearly all of the published codes do.
    """
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "classifier": "head.fc",
        **kwargs,
    }


#: Options that may be None, which ``timm.create_model`` leaves out; there they are called "none".
_OPTIONAL = ("gate", "layer_scale")


def create(
    family: Callable[..., Model],
    variant: str,
    pretrained: bool,
    *,
    device: Any = None,
    dtype: torch.dtype | None = None,
    out_indices: Sequence[int] = (0, 1, 2, 3),
    **kwargs: Any,
) -> Model:
    """The model of a variant as timm builds it.

    Args:
        family: the model's class.
        variant: name that the configuration of weights goes by.
        pretrained: whether to load weights.
        device: where the parameters are made.
        dtype: of the parameters.
        out_indices: stages that ``features_only`` gives unless told otherwise.
        **kwargs: timm's, and the constructor's.
    """
    kwargs |= {key: None for key in _OPTIONAL if kwargs.get(key) == "none"}
    with made_on(device, dtype):
        return build_model_with_cfg(
            family,
            variant,
            pretrained,
            pretrained_filter_fn=checkpoint_filter_fn,
            feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
            **kwargs,
        )


@contextmanager
def made_on(device: Any, dtype: torch.dtype | None) -> Iterator[None]:
    """Parameters made inside lie on ``device`` and have ``dtype``, where these are given."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(default if dtype is None else dtype)
    try:
        with torch.device(torch.get_default_device() if device is None else device):
            yield
    finally:
        torch.set_default_dtype(default)

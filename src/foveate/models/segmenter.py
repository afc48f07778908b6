"""A class for every pixel: a head of the publications' on any backbone of timm.

    maps = backbone(image), normed if the family's published networks norm them
    logits = up(head(maps)),   and in training those of an auxiliary head on the last map but one

Shapes: images (B, in_chans, H, W) of any H, W to logits (B, num_classes, H, W).

Which maps a head reads: Semantic FPN and UPerNet those at 1/4, 1/8, 1/16, 1/32, the light head
those at 1/8, 1/16, 1/32 (SeaFormer's own with SeaFormer), the others the last one. That is at 1/8
in the publications of PSP, FCN and DANet, which dilate a ResNet's stages: ``output_stride=8``.

Checkpoints of mmsegmentation (``backbone.``, ``neck.``, ``decode_head.``, ``auxiliary_head.``) load
by :func:`foveate.load_published` where the backbone reads its own publication's names. One without
the auxiliary head needs ``auxiliary=False``.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from foveate.arguments import nearest, one_of, positive
from foveate.heads import DualHead, FCNHead, LightHead, PixelHead, PSPHead, SemanticFPN, UPerHead
from foveate.heads._layers import resize
from foveate.models._backbone import State, check_images
from foveate.models._encoder import Encoder, PyramidModel, create_encoder
from foveate.models.seaformer import HEADS as SEAFORMER_DIMS
from foveate.published import convert_parts, rename

AUXILIARY_WEIGHT = 0.4
"""What the auxiliary head counts in the loss, as in mmsegmentation's configurations."""


class Segmenter(PyramidModel):
    """A backbone and a head: images to logits of their size.

    In training it gives all that is learnt by, as a dict of logits: ``"out"``, ``"aux"`` where
    there is an auxiliary head, and of the dual head ``"position"`` and ``"channel"``;
    :attr:`loss_weights` says what each counts. In evaluation it gives the logits alone.

    Args:
        encoder: the backbone, and how it is read.
        head: what reads the maps.
        auxiliary: what reads the last map but one in training; None for nothing.
    """

    def __init__(self, encoder: Encoder, head: PixelHead, auxiliary: PixelHead | None) -> None:
        super().__init__(encoder)
        self.num_classes = head.num_classes
        self.in_chans: int = getattr(encoder.network, "in_chans", 3)
        self.head = head
        self.auxiliary = auxiliary
        self.loss_weights = dict(head.loss_weights)
        if auxiliary is not None:
            self.loss_weights["aux"] = AUXILIARY_WEIGHT

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        check_images(x, self.in_chans)
        height, width = x.shape[2:]
        x = self.padded(x)
        features = self.features(x)
        read = features if self.head.reads_pyramid else features[-1]
        logits = self.head.outputs(read) if self.training else {"out": self.head(read)}
        if self.auxiliary is not None and self.training:
            logits["aux"] = self.auxiliary(features[-2])
        logits = {name: resize(y, x.shape[2:])[..., :height, :width] for name, y in logits.items()}
        return logits if self.training else logits["out"]

    def convert_published(self, state: State) -> State:
        """The state of mmsegmentation's encoder and decoder."""
        rules = [
            *self.encoder_rules(state),
            (r"^neck\.", "head.neck."),
            (r"^decode_head\.", "head."),
            (r"^auxiliary_head\.", "auxiliary."),
        ]
        return convert_parts(self, rename(state, rules))


@dataclass(frozen=True)
class _Kind:
    """What a head asks for.

    Attributes:
        build: makes it, from the channels that it reads, the classes and its options.
        strides: of the maps that it reads, or that its auxiliary head does.
        auxiliary: whether its publication has an auxiliary head.
    """

    build: type[PixelHead]
    strides: tuple[int, ...]
    auxiliary: bool


_PYRAMID = (4, 8, 16, 32)
_KINDS = {
    "dual": _Kind(DualHead, (16, 32), True),
    "fcn": _Kind(FCNHead, (16, 32), True),
    "light": _Kind(LightHead, (8, 16, 32), False),
    "psp": _Kind(PSPHead, (16, 32), True),
    "semantic_fpn": _Kind(SemanticFPN, _PYRAMID, False),
    "upernet": _Kind(UPerHead, _PYRAMID, True),
}


def list_segmenters() -> list[str]:
    """Names of the heads that :func:`create_segmenter` takes."""
    return sorted(_KINDS)


def create_segmenter(
    head: str,
    backbone: str | nn.Module,
    num_classes: int,
    *,
    auxiliary: bool | None = None,
    out_indices: Sequence[int] | None = None,
    feature_norm: bool | None = None,
    head_options: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Segmenter:
    """A segmentation model: a head of :func:`list_segmenters` on a backbone of timm.

    Args:
        head: ``"semantic_fpn"``, ``"upernet"``, ``"dual"`` (DANet), ``"psp"``, ``"fcn"`` or
            ``"light"`` (SeaFormer).
        backbone: name of one of timm's models, this library's among them; or one that was built
            with ``features_only=True``, as it is or with mechanisms inserted.
        num_classes: classes.
        auxiliary: whether an :class:`~foveate.heads.FCNHead` of one convolution with 256 channels
            learns beside the head; as published if None.
        out_indices: levels of the backbone to read, where not those at the head's strides.
        feature_norm: whether each map passes a layer norm; as in the published networks of the
            backbone's family if None (Swin, NAT, CSWin and DAT have them, PVT has none).
        head_options: options of the head, such as ``{"dim": 256}``.
        **kwargs: of the backbone, such as ``pretrained=True``, ``in_chans`` or ``drop_path_rate``.
            Unless given here, what the family's published networks for dense predictions have is
            taken (PVT: no class token).

    Raises:
        TypeError: if the backbone is no pyramid of timm's, or ``auxiliary`` is no bool.
        ValueError: if a name is unknown, or the backbone gives fewer maps than the head reads.

    Example:
        >>> model = create_segmenter("upernet", "slide_swin_tiny", num_classes=150)
    """
    kind = _KINDS[one_of(head, _KINDS, "head")]
    positive(num_classes, "num_classes")
    if not isinstance(auxiliary, bool | None):
        raise TypeError(f"auxiliary must be True, False or None, got {auxiliary!r}")
    strides, options = kind.strides, dict(head_options or {})
    _check_options(head, options)
    if head == "light":
        strides, dims = _light(backbone)
        options.setdefault("dims", dims)
    encoder = create_encoder(
        backbone, strides, out_indices=out_indices, feature_norm=feature_norm, **kwargs
    )
    if head == "semantic_fpn":
        options.setdefault("strides", encoder.strides)
    channels: Any = encoder.channels if kind.build.reads_pyramid else encoder.channels[-1]
    made = kind.build(channels, num_classes, **options)
    beside = None
    if kind.auxiliary if auxiliary is None else auxiliary:
        beside = FCNHead(
            encoder.channels[-2], num_classes, dim=256, num_convs=1, concat_input=False
        )
    return Segmenter(encoder, made, beside)


def _check_options(head: str, options: dict[str, Any]) -> None:
    _, _, *known = inspect.signature(_KINDS[head].build).parameters
    for name in options:
        if name not in known:
            raise ValueError(f"{head} has no option {name!r}{nearest(name, known)}")


def _light(backbone: str | nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The strides of the maps, and the channels after each fusion: SeaFormer's, or like its B."""
    dims = SEAFORMER_DIMS.get(backbone) if isinstance(backbone, str) else None
    if dims is None:
        return _KINDS["light"].strides, SEAFORMER_DIMS["seaformer_base"]
    return ((8, 32, 64) if len(dims) == 2 else (8, 16, 32, 64)), dims

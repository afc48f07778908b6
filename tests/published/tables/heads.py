"""Segmentation heads, as parts and on a backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from foveate.heads import FPN, DualHead, FCNHead, FPNHead, PixelHead, SemanticFPN, UPerHead
from foveate.heads.psp import PyramidPooling
from foveate.models.segmenter import Segmenter, create_segmenter
from tests.published.golden import Golden, Row

EXACT = 1e-5


def _inputs(golden: Golden, run: str) -> list[Tensor]:
    """The maps of one of the case's two runs, the finest first."""
    return [value for name, value in golden.inputs.items() if name.startswith(run)]


def _named(call: Callable[[Any, list[Tensor]], dict[str, Tensor]]) -> Any:
    """Both runs of a case, and what each gives by the names that the case has."""

    def run(module: nn.Module, golden: Golden) -> dict[str, Tensor]:
        return {
            f"{run}_{name}": value
            for run in "ab"
            for name, value in call(module, _inputs(golden, run)).items()
        }

    return run


def _fpn(in_channels: Sequence[int], out_channels: int, num_outs: int) -> FPN:
    return FPN(in_channels, out_channels)


def _pyramid(module: FPN, maps: list[Tensor]) -> dict[str, Tensor]:
    return module({f"p{level + 2}": x for level, x in enumerate(maps)})


def _options(kwargs: dict[str, Any]) -> dict[str, Any]:
    """A head's options in our words."""
    ours = {"channels": "dim", "dropout_ratio": "dropout", "feature_strides": "strides"}
    ours |= {"pam_channels": "hidden"}
    left_out = ("in_index", "norm_cfg", "align_corners", "in_channels", "num_classes")
    return {ours.get(key, key): value for key, value in kwargs.items() if key not in left_out}


def _head(cls: type[PixelHead]) -> Callable[..., PixelHead]:
    return lambda **kwargs: cls(kwargs["in_channels"], kwargs["num_classes"], **_options(kwargs))


def _semantic_fpn(neck: dict[str, Any], decode_head: dict[str, Any]) -> SemanticFPN:
    options = _options(decode_head)
    return SemanticFPN(
        neck["in_channels"],
        decode_head["num_classes"],
        neck_dim=neck["out_channels"],
        **options,
    )


def _pvt(backbone: str, neck: dict[str, Any], decode_head: dict[str, Any]) -> Segmenter:
    return create_segmenter("semantic_fpn", backbone.removesuffix("()"), decode_head["num_classes"])


def _whole_and_within(model: Segmenter, golden: Golden) -> dict[str, Tensor]:
    x = golden.inputs["x"]
    maps = model.features(x)
    logits = model.head(maps)
    return {
        "c3_corner": maps[1][:, :32, :4, :4],  # C3 is at 1/8
        "logits": logits[:, ::2],
        "up_class0to4_every3": model(x)[:, :5, ::3, ::3],
    }


ROWS = [
    Row("mmseg_fpn_neck_narrow", _fpn, _named(_pyramid), tolerance=EXACT),
    Row(
        "mmseg_fpnhead_narrow",
        _head(FPNHead),
        _named(lambda head, maps: {"logits": head(maps)}),
        tolerance=EXACT,
    ),
    Row(
        "mmseg_semfpn_pvt_full",
        _semantic_fpn,
        lambda head, golden: {"logits": head(list(golden.inputs.values()))},
        tolerance=EXACT,
    ),
    Row("pvt_tiny_semfpn", _pvt, _whole_and_within, tolerance=EXACT),
    Row(
        "mmseg_fcnhead_narrow",
        _head(FCNHead),
        _named(lambda head, maps: {"logits": head(maps[0])}),
        tolerance=EXACT,
    ),
    Row(
        "mmseg_ppm_narrow",
        lambda in_channels, channels, pool_scales, **_: PyramidPooling(
            in_channels, channels, pool_scales
        ),
        _named(
            lambda pools, maps: {
                f"pool{scale}": y for scale, y in zip((1, 2, 3, 6), pools(maps[0]), strict=True)
            }
        ),
        tolerance=EXACT,
    ),
    Row(
        "mmseg_uperhead_narrow",
        _head(UPerHead),
        _named(lambda head, maps: {"logits": head(maps)}),
        tolerance=EXACT,
    ),
    Row(
        "mmseg_dahead_narrow",
        _head(DualHead),
        _named(
            lambda head, maps: dict(
                zip(("pam_cam", "pam", "cam"), head.outputs(maps[0]).values(), strict=True)
            )
        ),
        tolerance=EXACT,
    ),
    Row(
        "danet_head_narrow",
        lambda in_channels, out_channels, norm_layer: DualHead(in_channels, out_channels),
        _named(
            lambda head, maps: dict(
                zip(("sasc", "sa", "sc"), head.outputs(maps[0]).values(), strict=True)
            )
        ),
        tolerance=EXACT,
    ),
]

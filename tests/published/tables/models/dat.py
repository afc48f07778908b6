"""DAT++."""

from __future__ import annotations

from functools import partial
from typing import Any

from foveate.models.dat import DAT
from tests.published.golden import Row
from tests.published.pyramids import means_and_corners


def _dat(
    dims: list[int],
    depths: list[int],
    stage_spec: list[list[str]],
    heads: list[int],
    groups: list[int],
    **options: Any,
) -> DAT:
    tables = zip(options["use_pes"], options["dwc_pes"], strict=True)
    return DAT(
        options["img_size"],
        num_classes=options["num_classes"],
        dims=dims,
        depths=depths,
        spec=["".join(letters) for letters in stage_spec],
        num_heads=heads,
        groups=groups,
        strides=options["strides"],
        offset_kernels=options["ksizes"],
        offset_range=options["offset_range_factor"],
        offsets=[not fixed for fixed in options["no_offs"]],
        position=[
            "none" if not used else "convolution" if convolution else "table"
            for used, convolution in tables
        ],
        kernel_size=options["nat_ksizes"],
        window_size=options["window_sizes"],
        mlp_ratio=options["expansion"],
        conv_patches=options["use_conv_patches"],
        conv_position=all(options["use_lpus"]),
        conv_mlp=all(options["use_dwc_mlps"]),
    )


ROWS = [Row("dat_pp_tiny", _dat, partial(means_and_corners, corner="corner"))]

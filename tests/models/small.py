"""One small form of every family: what the default suite runs the common checks over.

The keyword arguments make a variant cheap (fewer blocks, narrower) without leaving out a kind of
layer. Every variant at its own size is checked in the slow sweep.
"""

from __future__ import annotations

from typing import Any

SMALL: dict[str, dict[str, Any]] = {
    "cswin_tiny": {"depths": (1, 1, 2, 1), "dims": (16, 32, 48, 64), "num_heads": (2, 2, 4, 4)},
    "cvt_13": {"dims": (16, 32, 48), "depths": (1, 1, 2), "num_heads": (1, 2, 3)},
    "dat_tiny": {
        "dims": (16, 32, 48, 64),
        "depths": (2, 2, 1, 1),
        "spec": ("ND", "LS", "D", "D"),
        "num_heads": (1, 2, 3, 4),
        "groups": (1, 2, 3, 4),
        "window_size": (3, 3, 3, 3),
        "layer_scale": 0.5,
    },
    "msg_tiny": {
        "dims": (16, 32, 48, 64),
        "depths": (1, 2, 1, 1),
        "num_heads": (1, 2, 3, 4),
        "window_size": 3,
    },
    "mobile_former_26m": {
        "stages": (((3, 12),), ((6, 16), (3, 16)), ((6, 24),), ((6, 32),)),
        "token_dim": 32,
        "hidden": 64,
    },
    "pale_tiny": {"depths": (1, 1, 2, 1), "dims": (16, 32, 48, 64), "num_heads": (1, 2, 3, 4)},
    "conformer_tiny": {"base_channel": 16, "embed_dim": 32, "num_heads": 2, "depth": 6},
    "dsnet_tiny": {"depths": (1, 1, 1, 1), "dims": (16, 32, 48, 64), "num_heads": (1, 2, 3, 4)},
    "localvit_tiny": {"embed_dim": 48, "depth": 3, "reduction": 48},
    "pvt_tiny": {"depths": (1, 1, 2, 1), "dims": (16, 32, 48, 64), "num_heads": (1, 2, 3, 4)},
    "pyramid_pico": {},
    "seaformer_tiny": {"dims": (16, 16, 24, 32, 48), "depths": (1, 1), "num_heads": 2},
    "shuffle_tiny": {
        "stem_dim": 8,
        "dims": (16, 32, 48, 64),
        "depths": (1, 2, 1, 1),
        "num_heads": (1, 2, 3, 4),
        "window_size": 3,
    },
    "slide_cswin_tiny": {
        "depths": (1, 1, 2, 1),
        "dims": (16, 32, 48, 64),
        "num_heads": (2, 2, 4, 4),
    },
    "slide_pvt_tiny": {
        "depths": (1, 1, 2, 1),
        "dims": (16, 32, 48, 64),
        "num_heads": (1, 2, 3, 4),
    },
    "slide_pvt_v2_b0": {
        "depths": (1, 1, 2, 1),
        "dims": (16, 32, 48, 64),
        "num_heads": (1, 2, 3, 4),
    },
    "slide_swin_tiny": {"depths": (1, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 2, 2, 4)},
    "resnet50_bam": {"layers": (1, 2, 1, 1), "channels": (8, 16, 24, 32)},
    "mobilenetv2_triplet": {"width_mult": 0.25},
    "acmix_pvt_tiny": {
        "depths": (1, 1, 2, 1),
        "dims": (16, 32, 48, 64),
        "num_heads": (1, 2, 3, 4),
    },
    "acmix_swin_tiny": {"depths": (1, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 2, 2, 4)},
    "nat_small": {"depths": (1, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 2, 2, 4)},
    "dinat_mini": {"depths": (2, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 2, 2, 4)},
    "slide_nat_mini": {"depths": (1, 1, 2, 1), "embed_dim": 16, "num_heads": (1, 2, 2, 4)},
    "acmix_resnet26": {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32), "kernel_size": 3},
    "sasa_resnet26": {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32), "num_heads": 2},
    "ran56": {"stem_dim": 8, "dims": (16, 24, 32, 48), "levels": (2, 1, 1), "trunk_blocks": 1},
    "rga_resnet50": {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32), "img_size": (64, 32)},
    "san10_patchwise": {"layers": (1, 1, 1, 1, 1), "kernels": (3,) * 5, "dims": (32,) * 4 + (64,)},
    "acmix_san10": {"layers": (1, 1, 1, 1, 1), "kernels": (3,) * 5, "dims": (32,) * 4 + (64,)},
    "batnet": {"width": 0.1, "parts": 1, "hidden": 16},
}

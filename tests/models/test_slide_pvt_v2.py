"""The network around slide attention is PVT v2's, as timm has it."""

from __future__ import annotations

import re

import timm
import torch

import foveate.models  # noqa: F401  registers the backbones

SIZES = {"depths": (1, 1, 2, 1), "num_heads": (1, 1, 2, 2)}
DIMS = (8, 16, 24, 32)


def _ours(name: str) -> str:
    """Timm's name of an entry as it is here; the norm that ends a stage is its last block here."""
    name = re.sub(
        r"^stages\.(\d)\.norm\.",
        lambda match: f"stages.{match[1]}.blocks.{SIZES['depths'][int(match[1])]}.",
        name.replace("patch_embed.", "stem.").replace(".attn.", ".attention."),
    )
    return re.sub(r"^head\.", "head.fc.", name)


@torch.no_grad()
def test_with_its_own_attention_it_is_timms_pvt_v2():
    torch.manual_seed(0)
    theirs = timm.create_model("pvt_v2_b0", embed_dims=DIMS, **SIZES).eval()
    ours = timm.create_model(
        "slide_pvt_v2_b0", attention=("spatial_reduction",) * 4, dims=DIMS, **SIZES
    ).eval()
    ours.load_state_dict({_ours(name): value for name, value in theirs.state_dict().items()})
    x = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    for one, other in zip(
        ours.forward_intermediates(x, intermediates_only=True),
        theirs.forward_intermediates(x, intermediates_only=True),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

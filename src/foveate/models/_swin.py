"""Swin's network around any attention: what the families that change Swin's attention share.

    patches /4 -> four stages at 1/4, 1/8, 1/16, 1/32, patches of 2x2 merged between them -> norm

NAT has the same stages, with convolutions that overlap in place of the patches and the merging.

Shapes: images (B, in_chans, H, W) of any size, features (B, C_i, ceil(H / r_i), ceil(W / r_i)) with
r = 4, 8, 16, 32 and C_i = embed_dim * 2^i, before the merging.

Paper: Liu et al., "Swin Transformer", ICCV 2021, arXiv:2103.14030.
Published code: microsoft/Swin-Transformer@f82860b (MIT). Its own attention is timm's to give; here
stand the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from timm.layers import LayerNorm2d, calculate_drop_path_rates
from torch import nn

from foveate.arguments import pair
from foveate.models._backbone import Backbone, Stage, State, convert_parts, rename
from foveate.models._layers import (
    Block,
    PatchEmbed,
    PatchMerging,
    check_stages,
    init_trunc_normal,
)


class Swin(Backbone):
    """Swin's stages, with an attention of the family's choice in every block.

    Args:
        attend: the attention of a block, from its stage, its number in the stage, the channels and
            the heads.
        in_chans: channels of the images.
        num_classes: classes; 0 gives pooled features.
        global_pool: as in timm; ``""`` keeps the map.
        patch_size: side of the first patches.
        embed_dim: channels of the first stage; each further stage doubles them.
        depths: blocks a stage.
        num_heads: heads a stage.
        stem: images to the first map; patches if None.
        halve: what comes before each further stage, from the channels before and after.
        mlp_ratio: hidden channels of the MLP over the stage's.
        drop_rate: dropout before the classifier.
        proj_drop_rate: dropout in the MLPs.
        drop_path_rate: stochastic depth, rising to this in the last block.
        layer_scale: first value of a learned factor per channel of each branch; None for none.
    """

    spared = ("position_bias", "rpb")
    dense_norms = True

    def __init__(
        self,
        attend: Callable[[int, int, int, int], nn.Module],
        *,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        patch_size: int = 4,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        stem: nn.Module | None = None,
        halve: Callable[[int, int], nn.Module] = PatchMerging,
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_scale: float | None = None,
    ) -> None:
        check_stages(depths=depths, num_heads=num_heads)
        dims = [embed_dim * 2**level for level in range(len(depths))]
        rates = calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True)
        stages = []
        for level, (dim, heads) in enumerate(zip(dims, num_heads, strict=True)):
            blocks = [
                Block(
                    dim,
                    attend(level, index, dim, heads),
                    mlp_ratio,
                    proj_drop_rate,
                    rate,
                    layer_scale,
                )
                for index, rate in enumerate(rates[level])
            ]
            stages.append(Stage(blocks, halve(dims[level - 1], dim) if level else None))
        if stem is None:
            stem = PatchEmbed(in_chans, embed_dim, patch_size, LayerNorm2d(embed_dim, eps=1e-5))
        super().__init__(
            stem,
            stages,
            dims=dims,
            reductions=[patch_size * 2**level for level in range(len(depths))],
            norm=LayerNorm2d(dims[-1], eps=1e-5),
            in_chans=in_chans,
            num_classes=num_classes,
            global_pool=global_pool,
            drop_rate=drop_rate,
        )
        init_trunc_normal(self, nn.Linear)

    def convert_published(self, state: State) -> State:
        """Swin's names under ours; the merging that ends a stage there starts the next one here."""
        merging = [
            (rf"^(layers|levels)\.{level}\.downsample\.", f"stages.{level + 1}.downsample.")
            for level in range(len(self.stages) - 1)
        ]
        rules = [
            *merging,
            (r"^patch_embed\.", "stem."),
            (r"^(layers|levels)\.", "stages."),
            (r"\.gamma([12])$", r".scale\1.gamma"),
            (r"\.attn\.", ".attention."),
            (r"^head\.(weight|bias)$", r"head.fc.\1"),
        ]
        # The masks of shifted windows follow from the size of the map.
        state = {key: value for key, value in state.items() if not key.endswith(".attn_mask")}
        return convert_parts(self, rename(state, rules))


def window_in_map(window_size: int, img_size: int | tuple[int, int], reduction: int) -> int:
    """Side of a stage's windows: no larger than the map that images of ``img_size`` give."""
    return min(window_size, -(-min(pair(img_size, "img_size")) // reduction))

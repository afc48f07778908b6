"""Reducers that look at an image more than once, or remove channels: DVT and VTP."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

import foveate
from foveate.published import rename
from foveate.reduction.dvt import DVT, Upstream, layer, reuse_features
from foveate.reduction.early_exit import exits_taken, find_thresholds, geometric, mean_cost
from tests.published.golden import Golden, Row


class ReusingBlock(nn.Module):
    """A block that reuses, with what makes its features."""

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float, feature_reuse: bool) -> None:
        super().__init__()
        assert feature_reuse
        self.block = Block(dim, num_heads, mlp_ratio, norm_layer=nn.LayerNorm)
        self.features = reuse_features(self.block)


def _block_weights(golden: Golden) -> dict[str, Tensor]:
    rules = [
        (r"^feature_resuse_mlp\.0", "features.norm"),
        (r"^feature_resuse_mlp\.1", "features.mlp"),
        (r"^(?!features)", "block."),
    ]
    return rename(golden.state, rules)


def _reusing(module: ReusingBlock, golden: Golden) -> dict[str, Tensor]:
    """A block of 10 x 10 patches after 7 x 7, whose relations are up-sampled in the case."""
    x, tokens, relation = (golden.inputs[name] for name in ("x", "features", "relations"))
    features = module.features(Upstream(tokens, None, (7, 7)), (10, 10))
    y, scores = layer(module.block, x, relation, features, True)
    assert scores is not None
    return {"y": y, "relation": scores}


def _cascade(
    embed_dim: int,
    depth: int,
    num_heads: int,
    num_classes: int,
    relation_reuse: bool,
    feature_reuse: bool,
    **_: Any,
) -> nn.Module:
    vit = VisionTransformer(
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        num_classes=num_classes,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),  # pyrefly: ignore
    )
    return foveate.reduce(vit, "dvt", relation_reuse=relation_reuse, feature_reuse=feature_reuse)


def _exits(module: DVT, golden: Golden) -> dict[str, Tensor]:
    logits = module.exits(golden.inputs["x"])
    return {f"y{number}": each for number, each in enumerate(logits)}


def _thresholds(module: nn.Module, golden: Golden) -> dict[str, Tensor]:
    """For each share, the thresholds, accuracy in percent and mean cost on the same images."""
    confidence, classes = golden.inputs["probs_train"].max(-1)
    costs, target = golden.kwargs["flops"], golden.inputs["targets"]
    rows = {}
    for name in golden.outputs:
        thresholds = find_thresholds(confidence, geometric(int(name[1:]) / 20, len(costs)))
        taken = exits_taken(confidence, thresholds)
        hits = classes.gather(0, taken[None])[0] == target
        accuracy = 100 * hits.double().mean().item()
        cost = mean_cost(confidence, thresholds, costs)
        rows[name] = torch.tensor([*thresholds, accuracy, cost])
    return rows


def _scored_vit(
    image_size: int,
    patch_size: int,
    num_classes: int,
    dim: int,
    depth: int,
    heads: int,
    mlp_dim: int,
) -> nn.Module:
    """An unofficial reading: its scores are ours of the heads' outputs and of the hidden units.

    Its classifier has two layers.
    """
    vit = VisionTransformer(
        img_size=image_size,
        patch_size=patch_size,
        num_classes=num_classes,
        embed_dim=dim,
        depth=depth,
        num_heads=heads,
        mlp_ratio=mlp_dim / dim,
        qkv_bias=False,
        norm_layer=nn.LayerNorm,
    )
    vit.head = nn.Sequential(nn.Linear(dim, mlp_dim), nn.GELU(), nn.Linear(mlp_dim, num_classes))
    return foveate.reduce(vit, "vtp")


def _scored_weights(golden: Golden) -> dict[str, Tensor]:
    """One score of a channel multiplies its query, key and value there: ours is the value's.

    Logits are scaled there by the root of all channels, not of a head's.
    """
    state = dict(golden.state)
    dim = state["cls_token"].shape[-1]
    own: dict[str, Tensor] = {}
    for index in range(golden.kwargs["depth"]):
        theirs, ours = f"transformer.layers.{index}", f"blocks.{index}"
        channels = state.pop(f"{theirs}.0.fn.fn.select1.indexes")
        q, k, v = (state.pop(f"{theirs}.0.fn.fn.to_{each}.weight") for each in "qkv")
        q = q * golden.kwargs["heads"] ** -0.5
        own[f"{ours}.attn.qkv.weight"] = torch.cat(
            [channels[:, None] * q, channels[:, None] * k, v]
        )
        own[f"{ours}.vtp.heads"] = channels
        own[f"{ours}.vtp.hidden"] = state.pop(f"{theirs}.1.fn.fn.select2.indexes")
        own |= {f"{ours}.vtp.{place}": torch.ones(dim) for place in ("attention", "mlp")}
    patches = state.pop("patch_to_embedding.weight")  # of pixels, channels last
    side = golden.kwargs["patch_size"]
    own["patch_embed.proj.weight"] = patches.unflatten(1, (side, side, 3)).permute(0, 3, 1, 2)
    rules = [
        (r"^patch_to_embedding", "patch_embed.proj"),
        (r"^pos_embedding", "pos_embed"),
        (r"^transformer\.layers\.(\d+)\.0\.fn\.norm", r"blocks.\1.norm1"),
        (r"^transformer\.layers\.(\d+)\.1\.fn\.norm", r"blocks.\1.norm2"),
        (r"^transformer\.layers\.(\d+)\.0\.fn\.fn\.to_out\.0", r"blocks.\1.attn.proj"),
        (r"^transformer\.layers\.(\d+)\.1\.fn\.fn\.net1\.0", r"blocks.\1.mlp.fc1"),
        (r"^transformer\.layers\.(\d+)\.1\.fn\.fn\.net2\.0", r"blocks.\1.mlp.fc2"),
        (r"^mlp_head\.0", "norm"),
        (r"^mlp_head\.1", "head.0"),
        (r"^mlp_head\.4", "head.2"),
    ]
    return own | rename(state, rules)


ROWS = [
    Row("dvt_block_reuse", ReusingBlock, _reusing, _block_weights, mechanism="dvt"),
    *(
        Row(f"dvt_deit_narrow_{form}", _cascade, _exits, mechanism="dvt")
        for form in ("f0r0", "f0r1", "f1r1")
    ),
    Row("dvt_thresholds", lambda **_: nn.Identity(), _thresholds, mechanism="dvt"),
    Row(
        "vtp_cifar_vit",
        _scored_vit,
        lambda module, golden: {"logits": module(golden.inputs["img"])},
        _scored_weights,
        mechanism="vtp",
    ),
]

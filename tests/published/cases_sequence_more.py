"""Attention over sequences: dot products, sparse patterns, routing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from foveate.attention._scaled_dot_product import scaled_dot_product
from foveate.attention.sequence._k_means import KMeansAttention, k_means_step
from foveate.attention.sequence.routing import RoutingAttention
from foveate.attention.sequence.sparse import SparseAttention
from tests.published.golden import Golden, Row


class _Options(nn.Module):
    """Stands for a published function: holds the options of the case."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.options = options


def _dot_product(module: _Options, golden: Golden) -> Tensor:
    options = module.options
    return scaled_dot_product(
        *golden.inputs.values(), causal=options.get("is_causal", False), scale=options.get("scale")
    )[0]


def _pattern(
    attn_mode: str, stride: int | None, heads: int = 1, n_ctx: int = 0, **blocks: int | None
) -> SparseAttention:
    names = {"blocksize": "block_size", "num_verts": "num_verts", "vertsize": "vert_size"}
    options = {names[key]: value for key, value in blocks.items() if value is not None}
    return SparseAttention(16, heads, attn_mode, stride or 1, **options)


def _attend(module: _Options, golden: Golden) -> dict[str, Tensor]:
    options = dict(module.options)
    sparse = _pattern(options.pop("attn_mode"), options.pop("local_attn_ctx"), **options)
    y = sparse.attend(*golden.inputs.values())
    if "mask" not in golden.outputs:
        return {"y": y}
    return {"y": y, "mask": sparse.mask(y.shape[1]).float()}


def _masks(module: _Options, golden: Golden) -> dict[str, Tensor]:
    return {
        f"{name}_n{tokens}_ctx{stride}": _pattern(name, stride).mask(tokens)[0].float()
        for name, tokens, stride in module.options["list"]
    }


def _fixed_masks(module: _Options, golden: Golden) -> dict[str, Tensor]:
    masks = {}
    for case in module.options["list"]:
        tokens, stride = case["n_ctx"], case["local_attn_ctx"]
        verts = f"{case['num_verts']}x{case['vertsize']}"
        options = {key: case[key] for key in ("blocksize", "num_verts", "vertsize")}
        mask = _pattern("fixed", stride, case["heads"], **options).mask(tokens)
        masks[f"n{tokens}_ctx{stride}_b{case['blocksize']}_verts{verts}"] = mask.float()
    return masks


def _clusters(
    num_heads: int,
    head_dim: int,
    num_clusters: int,
    window_size: int,
    receives_context: bool = False,
    context_window_size: int | None = None,
    **options,
) -> KMeansAttention:
    del receives_context  # it follows from the lengths
    return KMeansAttention(
        num_heads, head_dim, num_clusters, window_size, context_window_size,
        masked_compete=True, **options
    )  # fmt: skip


def _clustered(module: KMeansAttention, golden: Golden) -> dict[str, Tensor]:
    q, k, v, *masks = golden.inputs.values()
    loss = 1e-4 * module.commitment_loss(q, k)
    return {
        "y": module(q, k, v, *(2 * masks)),
        "aux_loss_x1e4": torch.stack([1e4 * loss, torch.zeros(())]),
    }


def _iteration(module: _Options, golden: Golden) -> dict[str, Tensor]:
    x, means = golden.inputs["x"], golden.inputs["means"]
    router = KMeansAttention(2, 8, 4, module.options["window_size"])
    similarity = x @ means.mT
    routes = router.choose(similarity, router.window_size)
    return {
        "dists": similarity,
        "buckets": similarity.argmax(-1).float(),
        "routes": routes.flatten(2).float(),
        "means": k_means_step(x, means),
    }


def _routing(dim: int, heads: int, max_seq_len: int, window_size: int, **options):
    return RoutingAttention(
        dim,
        heads,
        max_seq_len // window_size,
        window_size,
        local_heads=options["local_attn_heads"],
        local_window=window_size,
        causal=options.get("causal", False),
        shared_qk=options.get("shared_qk", False),
    )


ROWS = [
    Row("routing_kmeans_iter", _Options, _iteration, mechanism="routing"),
    *(
        Row(f"routing_kmeans_{name}", _clusters, _clustered, mechanism="routing")
        for name in ("context", "mask", "plain", "shared_qk", "short")
    ),
    Row("routing_selfattn_global", _routing),
    Row("routing_selfattn_mixed_causal_shared", _routing),
    Row("openai_blocksparse_fixed_masks", _Options, _fixed_masks, mechanism="sparse"),
    *(
        Row(f"openai_blocksparse_{name}", _Options, _attend, mechanism="sparse")
        for name in (
            "fixed_n64_ctx16_verts1x1",
            "fixed_n64_ctx32_verts2x2",
            "fixed_n64_ctx32_verts4x1",
            "local_n64_ctx16",
        )
    ),
    *(
        Row(f"openai_sparse_dense_{name}", _Options, _attend, mechanism="sparse")
        for name in ("all_h1", "all_h4", "local_h1", "local_h4", "strided_h1")
    ),
    Row("openai_sparse_masks", _Options, _masks, mechanism="sparse"),
    *(
        Row(f"sdpa_{name}", _Options, _dot_product, mechanism="scaled_dot_product")
        for name in ("bool_mask", "causal", "float_mask", "plain", "scale")
    ),
]

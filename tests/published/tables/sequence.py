"""Attention over sequences, and aligners, whose output layers are composed around ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from foveate.attention._scaled_dot_product import scaled_dot_product
from foveate.attention.sequence._alignment import ScoreAligner
from foveate.attention.sequence._k_means import KMeansAttention, k_means_step
from foveate.attention.sequence.additive import AdditiveAligner
from foveate.attention.sequence.dot_product import DotProductAligner
from foveate.attention.sequence.general import GeneralAligner
from foveate.attention.sequence.local_alignment import (
    LocalMonotonicAligner,
    LocalPredictiveAligner,
)
from foveate.attention.sequence.location import LocationAligner
from foveate.attention.sequence.routing import RoutingAttention
from foveate.attention.sequence.sliding_window import SlidingWindowAttention
from foveate.attention.sequence.sparse import SparseAttention
from tests.published.golden import Golden, Row


def _longformer(
    hidden_size: int, num_attention_heads: int, attention_window: list[int] | int, **options: Any
) -> SlidingWindowAttention:
    both_sides = isinstance(attention_window, int)
    window = attention_window // 2 if both_sides else attention_window[0]
    (dilation,) = options.get("attention_dilation", [1])
    return SlidingWindowAttention(hidden_size, num_attention_heads, window, dilation, num_global=3)


def _longformer_inputs(golden: Golden) -> tuple[Tensor, Tensor | None, Tensor | None]:
    x, mask = golden.inputs["hidden_states"], golden.inputs.get("attention_mask")
    if mask is None:
        return x, None, None
    mask = mask.view(x.shape[:2])
    return x, mask >= 0, mask > 0


def _longformer_output(module: nn.Module, golden: Golden) -> Tensor:
    return module(*_longformer_inputs(golden))


def _longformer_with_weights(module: nn.Module, golden: Golden) -> dict[str, Tensor]:
    """Weights in the published form: columns of the global tokens, then the window's slots."""
    x, key_mask, global_mask = _longformer_inputs(golden)
    dense = module.weights(x, key_mask, global_mask).transpose(1, 2)  # (B, N, h, N)
    batch, tokens = x.shape[:2]
    probs = torch.zeros_like(golden.outputs["probs"])
    width = 2 * module.window + 1
    for b in range(batch):
        marked = [] if global_mask is None else global_mask[b].nonzero()[:, 0].tolist()
        for i in range(tokens):
            if i in marked:  # published: the window's weights of a global query are zeroed
                continue
            probs[b, i, :, : len(marked)] = dense[b, i][:, marked]
            for slot in range(width):
                j = i + slot - module.window
                if 0 <= j < tokens and j not in marked:
                    probs[b, i, :, slot - width] = dense[b, i, :, j]
    return {"y": module(x, key_mask, global_mask), "probs": probs}


def _scores(module: ScoreAligner, golden: Golden) -> dict[str, Tensor]:
    """Scores of one query for each sample, from queries and keys already projected."""
    query, keys = golden.inputs["query"], golden.inputs["keys"]
    return {"score": module.score(query[:, None], keys).squeeze(1)}


def _bahdanau(golden: Golden) -> dict[str, Tensor]:
    """Identity projections, since the case gives what they would."""
    eye = torch.eye(16)
    return {"query.weight": eye, "memory.weight": eye, "v.weight": golden.inputs["v"][None]}


def _one_step(module: ScoreAligner, golden: Golden) -> dict[str, Tensor]:
    """One decoder step over a memory that lies time first."""
    memory = golden.inputs["encoder_outputs"].transpose(0, 1)
    context, weights = module(golden.inputs["hidden"][:, None], memory)
    return {"t0_weights": weights.squeeze(1), "t0_context": context.squeeze(1)}


def _without_output(golden: Golden) -> dict[str, Tensor]:
    return {key: value for key, value in golden.state.items() if "out" not in key}


def _opennmt(module: ScoreAligner, golden: Golden) -> dict[str, Tensor]:
    query, memory = golden.inputs["src"], golden.inputs["enc_out"]
    mask = torch.arange(memory.shape[1]) < golden.inputs["src_len"][:, None]
    context, weights = module(query, memory, mask)
    output = torch.cat([context, query], 2) @ golden.state["linear_out.weight"].T
    return {"attn_h": output.tanh(), "align": weights}


def _opennmt_sparse(module: ScoreAligner, golden: Golden) -> dict[str, Tensor]:
    """OpenNMT's sparsemax in place of our softmax; its additive form has no tanh at the end."""
    query, memory = golden.inputs["src"], golden.inputs["enc_out"]
    weights = _sparsemax(module.score(query, memory))
    output = torch.cat([weights @ memory, query], 2) @ golden.state["linear_out.weight"].T
    bias = golden.state.get("linear_out.bias")
    return {"attn_h": output.tanh() if bias is None else output + bias, "align": weights}


def _sparsemax(scores: Tensor) -> Tensor:
    """The point of the simplex nearest to the scores (Martins and Astudillo, 2016)."""
    ordered = scores.sort(-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    ranks = torch.arange(1, scores.shape[-1] + 1)
    support = (ranks * ordered > excess).sum(-1, keepdim=True)
    threshold = excess.gather(-1, support - 1) / support
    return (scores - threshold).relu()


def _fairseq(module: ScoreAligner, golden: Golden) -> dict[str, Tensor]:
    query, memory, padding = golden.inputs.values()
    context, weights = module(query[:, None], memory.transpose(0, 1), ~padding.T)
    output = torch.cat([context.squeeze(1), query], 1) @ golden.state["output_proj.weight"].T
    return {"x": output.tanh(), "attn": weights.squeeze(1).T}


def _transposed(golden: Golden) -> dict[str, Tensor]:
    return {"query.weight": golden.state["attn_score.W"].T}


def _location(golden: Golden) -> dict[str, Tensor]:
    return {"position.weight": golden.state["attn_score.W.weight"]}


def _every_step(module: LocalMonotonicAligner, golden: Golden) -> dict[str, Tensor]:
    """The same query at each of nine steps; the case keeps the windows, cut at the ends."""
    memory = golden.inputs["encoder_outputs"].transpose(0, 1)
    context, weights = module(golden.inputs["hidden"][:, None].expand(-1, 9, -1), memory)
    outputs = {}
    for step in (0, 1, 4, 7, 8):
        outputs[f"t{step}_weights"] = weights[:, step, max(0, step - 2) : step + 3]
        outputs[f"t{step}_context"] = context[:, step]
    return outputs


def _predictive(border: str):
    return lambda score, D, hidden_size: LocalPredictiveAligner(
        12,
        score=score,
        window=D,
        hidden=10 if score == "concat" else None,
        position_hidden=hidden_size,
        bias=True,
        border=border,
    )


def _predictive_weights(golden: Golden) -> dict[str, Tensor]:
    """The predictor's, and the score's in our layout: the case has the memory first."""
    state = {key: value for key, value in golden.state.items() if "score" not in key}
    if "attn_score.W" in golden.state:
        state["scorer.query.weight"] = golden.state["attn_score.W"].T
    if "attn_score.v.weight" in golden.state:
        memory, query = golden.state["attn_score.W.weight"].chunk(2, 1)
        state |= {"scorer.memory.weight": memory, "scorer.query.weight": query}
        state["scorer.v.weight"] = golden.state["attn_score.v.weight"]
    return state


def _window(module: LocalPredictiveAligner, golden: Golden) -> dict[str, Tensor]:
    """The weights by their place in the window, where the case has them.

    Slots beyond the memory weigh zero vectors; they are not in our weights, and taken from the
    case.
    """
    query = golden.inputs["hidden"][:, None]
    memory = golden.inputs["encoder_outputs"].transpose(0, 1)
    context, weights = module(query, memory)
    centre = module.positions(query, memory).round().long()  # (B, 1)
    slots = centre + torch.arange(-module.window, module.window + 1)  # (B, 2D + 1)
    inside = (slots >= 0) & (slots < memory.shape[1])
    window = weights.squeeze(1).gather(1, slots.clamp(0, memory.shape[1] - 1))
    window = torch.where(inside, window, golden.outputs["t0_weights"])
    return {"t0_weights": window, "t0_context": context.squeeze(1)}


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
    *(
        Row(case, _longformer, _longformer_output)
        for case in (
            "longformer_sliding_chunks",
            "longformer_sliding_chunks_g",
            "longformer_tvm",
            "longformer_tvm_dil2",
            "longformer_tvm_g",
            "longformer_tvm_gp",
        )
    ),
    *(
        Row(case, _longformer, _longformer_with_weights)
        for case in ("hf_longformer_self", "hf_longformer_self_g", "hf_longformer_self_gp")
    ),
    Row("tfa_luong_score", lambda: DotProductAligner(16), _scores),
    Row(
        "tfa_luong_score_scaled",
        lambda scale: DotProductAligner(16, learned_scale=True),
        _scores,
        weights=lambda golden: {"scale": golden.inputs["scale"].squeeze()},
    ),
    Row("luong_global_dot", lambda **kwargs: DotProductAligner(12), _one_step),
    Row(
        "onmt_global_dot",
        lambda dim, **kwargs: DotProductAligner(dim),
        _opennmt,
        weights=_without_output,
    ),
    Row(
        "onmt_global_dot_sparsemax",
        lambda dim, **kwargs: DotProductAligner(dim),
        _opennmt_sparse,
        weights=_without_output,
    ),
    Row(
        "luong_global_general",
        lambda **kwargs: GeneralAligner(12),
        _one_step,
        weights=_transposed,
    ),
    Row(
        "onmt_global_general",
        lambda dim, **kwargs: GeneralAligner(dim),
        _opennmt,
        weights=_without_output,
    ),
    Row(
        "fairseq_lstm_attention",
        lambda input_embed_dim, source_embed_dim, **kwargs: GeneralAligner(
            input_embed_dim, source_embed_dim
        ),
        _fairseq,
        weights=_without_output,
    ),
    Row("tfa_bahdanau_score", lambda normalize: AdditiveAligner(16), _scores, weights=_bahdanau),
    Row(
        "onmt_global_mlp_sparsemax",
        lambda dim, **kwargs: AdditiveAligner(dim, bias=True),
        _opennmt_sparse,
        weights=_without_output,
    ),
    Row(
        "luong_global_location",
        lambda max_seq_len, **kwargs: LocationAligner(12, max_positions=max_seq_len),
        _one_step,
        weights=_location,
    ),
    Row(
        "luong_local_m_dot",
        lambda score, D: LocalMonotonicAligner(12, score=score, window=D),
        _every_step,
    ),
    *(
        Row(f"luong_local_p_{case}", _predictive(border), _window, weights=_predictive_weights)
        for border, case in (
            ("mask", "masked_concat"),
            ("mask", "masked_dot"),
            ("zero", "zeropad_concat"),
            ("zero", "zeropad_dot"),
            ("zero", "zeropad_general"),
        )
    ),
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

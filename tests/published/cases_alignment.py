"""Aligners: queries over a memory. Published output layers are composed here, around ours."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.attention.sequence.additive import AdditiveAligner
from foveate.attention.sequence.alignment import ScoreAligner
from foveate.attention.sequence.dot_product import DotProductAligner
from foveate.attention.sequence.general import GeneralAligner
from tests.published.golden import Golden, Row


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


ROWS = [
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
]

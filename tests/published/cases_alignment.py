"""Aligners: queries over a memory. Published output layers are composed here, around ours."""

from __future__ import annotations

import torch
from torch import Tensor

from foveate.attention.sequence._alignment import ScoreAligner
from foveate.attention.sequence.additive import AdditiveAligner
from foveate.attention.sequence.dot_product import DotProductAligner
from foveate.attention.sequence.general import GeneralAligner
from foveate.attention.sequence.local_alignment import (
    LocalMonotonicAligner,
    LocalPredictiveAligner,
)
from foveate.attention.sequence.location import LocationAligner
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
]

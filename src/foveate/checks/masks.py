"""What a mask hides is hidden."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from foveate.checks.refusals import require_refusal
from foveate.checks.running import check, outputs, require, require_close
from foveate.checks.subject import Subject

_SIZE = (6, 5)


@check(roles=("token_mixer", "aligner"))
def check_mask_hides(subject: Subject) -> None:
    """Changing what is masked changes no output of the rest."""
    module = subject.build()
    inputs = subject.inputs(_SIZE)
    mask = _mask(inputs[-1])
    hidden = torch.where(mask[..., None], inputs[-1], 1e2 * inputs[-1].flip(1) + 5)
    with torch.no_grad():
        before = outputs_masked(module, inputs, mask)
        after = outputs_masked(module, (*inputs[:-1], hidden), mask)
    if subject.role == "token_mixer":
        before, after = ((y[0][mask],) for y in (before, after))
    require_close(after, before, "what is not masked")


@check(roles=("token_mixer", "aligner"))
def check_mask_of_true(subject: Subject) -> None:
    """A mask that hides nothing changes nothing."""
    module = subject.build()
    inputs = subject.inputs(_SIZE)
    everything = torch.ones(inputs[-1].shape[:2], dtype=torch.bool)
    with torch.no_grad():
        masked = outputs_masked(module, inputs, everything)
        require_close(masked, outputs(module, inputs), "a mask of True")


@check(roles=("token_mixer", "aligner"))
def check_mask_of_false(subject: Subject) -> None:
    """A sample of which everything is masked stays finite, with its weights and gradients."""
    module = subject.build()
    inputs = tuple(x.requires_grad_() for x in subject.inputs(_SIZE))
    mask = torch.ones(inputs[-1].shape[:2], dtype=torch.bool)
    mask[0] = False
    result = outputs_masked(module, inputs, mask)
    shown = {"outputs": result}
    if subject.role == "token_mixer" and "weights" in subject.tags:
        shown["weights"] = (module.weights(*inputs, mask),)
    for name, tensors in shown.items():
        _require_finite(tensors, name)
        gradients = torch.autograd.grad(
            sum(y.square().sum() for y in tensors),
            (*inputs, *module.parameters()),
            allow_unused=True,
        )
        _require_finite(gradients, f"gradients of its {name}")
    with torch.no_grad():
        rest = tuple(y[1:] for y in outputs(module, inputs))
    require_close(tuple(y[1:] for y in result), rest, "the sample that is not masked")


@check(roles=("token_mixer",), tags=("weights",))
def check_masked_weights(subject: Subject) -> None:
    """``weights(x, key_mask)`` gives masked keys nothing and reproduces the masked output."""
    module = subject.build()
    (x,) = subject.inputs(_SIZE)
    mask = _mask(x)
    with torch.no_grad():
        weights = module.weights(x, mask)
        seen = mask[:, None, :, None].expand_as(weights)  # rows of tokens that are there
        beyond = weights.masked_fill(mask[:, None, None, :], 0.0)[seen]
        require(not bool(beyond.any()), "masked keys are given weight")
        actual, expected = module.apply_weights(x, weights), module(x, mask)
    require_close(actual[mask], expected[mask], "apply_weights with masked weights")


@check(roles=("aligner",))
def check_alignment(subject: Subject) -> None:
    """Weights are a distribution over the memory, and the context is the memory so weighted."""
    module = subject.build()
    query, memory = subject.inputs(_SIZE)
    mask = _mask(memory)
    with torch.no_grad():
        for given in (None, mask):
            context, weights = module(query, memory, given)
            require(bool((weights >= 0).all()), "negative weights")
            sums = weights.sum(-1)
            require_close(sums, torch.ones_like(sums), "sums of the rows")
            require_close(context, weights @ memory, "the context")
        beyond = weights.masked_fill(mask[:, None, :], 0.0)
    require(not bool(beyond.any()), "masked positions are given weight")


@check(roles=("token_mixer", "aligner"))
def check_wrong_mask(subject: Subject) -> None:
    """A mask of numbers, or of another length, is refused."""
    module = subject.build()
    inputs = subject.inputs(_SIZE)
    mask = _mask(inputs[-1])
    require_refusal(lambda: module(*inputs, mask.float()), "a float mask", "float32")
    short = mask[:, 1:]
    require_refusal(lambda: module(*inputs, short), "a short mask", str(tuple(short.shape)))


def _require_finite(tensors: Iterable[Tensor | None], what: str) -> None:
    require(
        all(tensor is None or bool(torch.isfinite(tensor).all()) for tensor in tensors),
        f"a sample without anything to attend to gives {what} that are not finite",
    )


def outputs_masked(
    module: torch.nn.Module, inputs: tuple[Tensor, ...], mask: Tensor
) -> tuple[Tensor, ...]:
    """What ``module`` gives for ``inputs`` and ``mask``, as a tuple."""
    return outputs(module, (*inputs, mask))


def _mask(x: Tensor) -> Tensor:
    """A mask that leaves another third of the positions out in each sample."""
    position = torch.arange(x.shape[1]) + torch.arange(x.shape[0])[:, None]
    return position % 3 != 1

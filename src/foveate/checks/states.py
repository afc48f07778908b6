"""A module can be saved, copied, moved, and built without memory."""

from __future__ import annotations

import copy
import io
import pickle

import torch
from torch import nn

from foveate.checks.running import check, outputs, require, require_close
from foveate.checks.subject import Subject


@check()
def check_state_dict(subject: Subject) -> None:
    """The state of one module, saved and loaded into a fresh one, gives the same numbers."""
    module, fresh = subject.build(), subject.build(seed=7)
    expected = _run(module, subject)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    fresh.load_state_dict(torch.load(buffer, weights_only=True))
    require_close(_run(fresh, subject), expected, "the loaded module", tolerance=1e-6)


@check()
def check_state_is_stable(subject: Subject) -> None:
    """Running a module, at any size, adds or removes no entry of its state."""
    module = subject.build()
    before = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    with torch.no_grad():
        for size in ((6, 5), (9, 8)):
            outputs(module, subject.inputs(size))
    after = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    require(before == after, f"entries change: {sorted(set(before.items()) ^ set(after.items()))}")


@check()
def check_copies(subject: Subject) -> None:
    """A deep copy and a pickled module, made after a training step, give the same numbers."""
    module = subject.build()
    expected = _run(module, subject)
    inputs = tuple(x.requires_grad_() for x in subject.inputs((6, 5)))
    sum(y.sum() for y in outputs(module, inputs)).backward()
    require_close(_run(copy.deepcopy(module), subject), expected, "a deep copy", tolerance=1e-6)
    pickled = pickle.loads(pickle.dumps(module))
    require_close(_run(pickled, subject), expected, "a pickled module", tolerance=1e-6)


@check()
def check_meta_device(subject: Subject) -> None:
    """Module and pass work on the meta device, where tensors have shapes but no numbers."""
    with torch.device("meta"):
        module = subject.create().eval()
    inputs = subject.inputs((6, 5))
    with torch.no_grad():
        result = outputs(module, tuple(x.to("meta") for x in inputs))
        expected = outputs(subject.build(), inputs)
    require(all(y.is_meta for y in result), "some of the output is not on the meta device")
    shapes = [[tuple(y.shape) for y in ys] for ys in (result, expected)]
    require(shapes[0] == shapes[1], f"meta tensors give {shapes[0]}, others {shapes[1]}")


@check()
def check_fresh_memory(subject: Subject) -> None:
    """Built on the meta device and given memory and a state, it gives the same numbers.

    So do loaders of sharded and of big models; what the state does not hold must be computed.
    """
    module = subject.build()
    with torch.device("meta"):
        fresh = subject.create().eval()
    fresh.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*fresh.parameters(), *fresh.buffers()):
            tensor.fill_(3)  # what fresh memory may hold
    fresh.load_state_dict(module.state_dict())
    require_close(_run(fresh, subject), _run(module, subject), "loaded into fresh memory")


def _run(module: nn.Module, subject: Subject) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        return outputs(module, subject.inputs((6, 5)))

"""The deployed form of a model, and the graph that exporters read.

The form is a copy: fused, in evaluation mode, on the CPU. What it computes from no image (index
tables, masks, weights of weights) is computed once and kept in the graph as a constant.
"""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from foveate.deploy.fold import fold_constants
from foveate.deploy.request import Request, Size
from foveate.deploy.simplify import simplify
from foveate.deploy.split import split_projections
from foveate.models import Detector
from foveate.models.detector import RCNN
from foveate.surgery.fuse import fuse

_ANY_LENGTH = 2**16
"""An axis that may be as long is free."""


class ExportError(ValueError):
    """A model could not be exported; the message says what and where."""


class Deployment:
    """A model as it is to be deployed, and what it is asked for.

    Args:
        reference: what the file is checked against.
        module: what is written.
        request: sizes and precision.
        notes: what was left out or kept, a sentence each.
        calibration: images for quantization, one a tensor.
    """

    def __init__(
        self,
        reference: nn.Module,
        module: nn.Module,
        request: Request,
        notes: Sequence[str] = (),
        calibration: Sequence[Tensor] = (),
    ) -> None:
        self.reference, self.module = reference, module
        self.request, self.notes, self.calibration = request, list(notes), calibration

    @classmethod
    def of(
        cls, model: nn.Module, request: Request, calibration: Sequence[Tensor] = ()
    ) -> Deployment:
        """A copy of ``model``, fused; the copy that is not is what it is checked against."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            module = as_exported(fuse(copied(model)))
        notes = [str(each.message) for each in said if issubclass(each.category, UserWarning)]
        kinds = {each.dtype for each in model.parameters() if each.is_floating_point()}
        if others := sorted(str(each).removeprefix("torch.") for each in kinds - {torch.float32}):
            notes.append(
                f"weights in {' and '.join(others)} were brought to float32, and the file is "
                "checked against the model in that"
            )
        if isinstance(model, Detector):
            notes.append(_WITHOUT[isinstance(model, RCNN)])
        return cls(as_exported(copied(model)), module, request, notes, calibration)

    def images(self, size: Size, seed: int) -> Tensor:
        """Random images, or of those that it is calibrated with."""
        if not self.calibration:
            return images_of(size, self.request, seed)
        count = len(self.calibration)
        return torch.cat([self.calibration[(seed + i) % count] for i in range(size.batch)])

    @torch.no_grad()
    def outputs(self, images: Tensor) -> list[Tensor]:
        """What the user's model gives."""
        return list(self.reference(images))

    @cached_property
    def output_names(self) -> list[str]:
        """One a tensor of the output."""
        images = images_of(self.request.stated, self.request)
        with torch.no_grad():
            if isinstance(self.reference, Exported):
                return names_of(_call(self.reference.model, images))
            return names_of(self.reference(images))

    @cached_property
    def program(self) -> ExportedProgram:
        """The graph with joint projections taken apart, without what is constant or there twice.

        Every step knows its module.
        """
        request = self.request
        free = dict.fromkeys(request.free, Dim.DYNAMIC)
        places = {0: "batch", 2: "height", 3: "width"}
        shape = {place: free[axis] for place, axis in places.items() if axis in free}
        images = images_of(request.traced, request)
        try:
            with torch.no_grad(), quiet():
                program = torch.export.export(self.module, (images,), dynamic_shapes=(shape,))
                split_projections(program.graph_module)
                simplify(program)
                fold_constants(program)
        except Exception as error:
            raise ExportError(
                f"torch.export cannot record the model at {request}: {first_line(error)}"
            ) from error
        self.notes += _limits(program, shape)
        return program

    @property
    def bytes(self) -> int:
        """Of weights and tables, in the precision of the request."""
        tensors = [*self.program.state_dict.values(), *self.program.constants.values()]
        whole = sum(each.nbytes for each in tensors if isinstance(each, Tensor))
        return int(whole / {"float32": 1, "float16": 2, "int8": 4}[self.request.precision])

    def module_with(self, operator: str) -> str:
        """The first module that used an operator; empty if none did."""
        wanted = _plain(operator)
        # An operator may only appear once others are taken apart.
        for program in (self.program, self.program.run_decompositions()):
            for node in program.graph.nodes:
                if node.op == "call_function" and _plain(str(node.target)) == wanted:
                    stack = list(node.meta.get("nn_module_stack", {}).values())
                    paths = [path.removeprefix("model").lstrip(".") for path, _ in stack]
                    return next((path for path in reversed(paths) if path), "the model")
        return ""


def _plain(operator: str) -> str:
    """Of an operator its name alone: ``"pad"`` of ``"aten::pad"`` and of ``"aten.pad.default"``."""
    parts = operator.replace("::", ".").split(".")
    return parts[min(1, len(parts) - 1)]


def _limits(program: ExportedProgram, free: Mapping[int, Any]) -> list[str]:
    """Lengths beyond which the model would take other steps than those recorded, in sentences."""
    (name,) = program.graph_signature.user_inputs
    images = next(node for node in program.graph.nodes if node.name == name).meta["val"]
    said = []
    for place in free:
        found = program.range_constraints.get(getattr(images.shape[place].node, "expr", None))
        axis = {0: "batch", 2: "height", 3: "width"}[place]
        if found is not None and found.upper < _ANY_LENGTH:
            said.append(
                f"{axis} may be at most {found.upper}: beyond it the model takes other steps, "
                "which this file has not, and its numbers would be wrong"
            )
    return said


class Exported(nn.Module):
    """A model whose outputs are a tuple of tensors, whatever they were.

    Args:
        model: gives a tensor, or several in tuples, lists and mappings.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors_of(_call(self.model, images)))


_WITHOUT = {
    False: "without the postprocessing: the outputs are those of the head, level by level",
    True: "without proposals and what follows them: the outputs are the maps of the pyramid and "
    "those of the proposals' head",
}


def _call(model: nn.Module, images: Tensor) -> Any:
    """A model's outputs; a detector's before anything is sorted out, which runtimes lack."""
    if isinstance(model, RCNN):
        pyramid = model.pyramid(images)
        return {"pyramid": pyramid, "proposals": model.rpn_head(pyramid)}
    return model.dense(images) if isinstance(model, Detector) else model(images)


def as_exported(model: nn.Module) -> nn.Module:
    """``model`` with a flat output, in evaluation mode, learning nothing."""
    return Exported(model).eval().requires_grad_(False)


def copied(model: nn.Module) -> nn.Module:
    """A copy on the CPU, in float32, whose memory is laid out as exporters expect."""
    copy_ = copy.deepcopy(model).to("cpu", torch.float32)
    return copy_.to(memory_format=torch.contiguous_format)


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors of an output, in its order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for each in value.values() for tensor in tensors_of(each)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [tensor for each in value for tensor in tensors_of(each)]
    if value is None:
        return []
    raise ExportError(f"outputs must be tensors, and the model gives {type(value).__name__}")


def names_of(value: Any, name: str = "") -> list[str]:
    """Names for :func:`tensors_of`: keys and numbers of where each stood."""
    if isinstance(value, Tensor):
        return [name or "output"]
    parts: Any = {}
    named = isinstance(value, Mapping) or hasattr(value, "_fields")
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, Sequence):
        parts = zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    join = f"{name}_" if name else "" if named else "output_"
    return [found for key, each in parts for found in names_of(each, f"{join}{key}")]


def images_of(size: Size, request: Request, seed: int = 0) -> Tensor:
    """Random images, normalised."""
    generator = torch.Generator().manual_seed(seed)
    shape = (size.batch, request.channels, size.height, size.width)
    return torch.randn(shape, generator=generator)


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and progress of exporters, which nobody can act on."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

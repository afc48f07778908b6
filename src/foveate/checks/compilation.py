"""Compilers and exporters give the same numbers, also at sizes other than that of the example."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foveate.checks.running import CheckFailure, check, outputs, require, require_close
from foveate.checks.subject import Size, Subject

_FIRST: Size = (9, 10)
_SECOND: Size = (13, 15)
_MULTIPLES: tuple[Size, ...] = ((12, 16), (14, 14))  # of the usual windows
_OTHERS: tuple[Size, ...] = ((10, 9), (11, 20), (17, 12), (19, 21), (8, 23), (22, 18))
_MOST_COMPILATIONS = 2  # over these ten sizes


@check()
def check_compile(subject: Subject) -> None:
    """``torch.compile`` traces it as one graph of dynamic size (nothing is generated).

    A second graph is granted, for sizes that the first leaves out; not one for every size.
    """
    module, graphs = subject.build(), []

    def keep(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=keep)
    sizes = (_FIRST, _SECOND, *_MULTIPLES, *_OTHERS)
    with torch.no_grad():
        for size in sizes:
            inputs = subject.inputs(size)
            require_close(outputs(compiled, inputs), outputs(module, inputs), f"size {size}")
    require(
        len(graphs) <= _MOST_COMPILATIONS,
        f"{len(sizes)} sizes are compiled {len(graphs)} times, more than {_MOST_COMPILATIONS}; "
        "torch._logging.set_logs(recompiles=True) says which guards fail",
    )


@check(slow=True)
def check_compiled_code(subject: Subject) -> None:
    """Code that ``torch.compile`` generates gives the same numbers and gradients.

    In float64: rounding in float32 may move a value over the kink of a ReLU or a maximum. Without
    PyTorch's layout optimization, which in 2.14 fails on gradients of free size wherever a
    convolution stands behind a linear layer (``docs/models.md``).
    """
    module = subject.build(torch.float64)
    torch._dynamo.reset()
    compiled = torch.compile(
        module, fullgraph=True, dynamic=True, options={"layout_optimization": False}
    )
    for size in (_FIRST, _SECOND):
        inputs = subject.inputs(size, dtype=torch.float64)
        actual, expected = _with_gradients(compiled, inputs), _with_gradients(module, inputs)
        require_close(actual, expected, f"size {size}", tolerance=1e-8)


@check()
def check_export(subject: Subject) -> None:
    """``torch.export`` gives one program for all batches and sizes."""
    module = subject.build()
    with torch.no_grad():
        inputs = subject.inputs(_FIRST, batch=3)
        exported = torch.export.export(module, inputs, dynamic_shapes=_dynamic(subject))
        _compare(exported.module(), module, subject)


@check(slow=True)
def check_onnx(subject: Subject) -> None:
    """ONNX Runtime gives the same numbers from one file for all batches and sizes."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (the exporter needs it)
    except ImportError as error:
        raise CheckFailure(
            "needs onnxruntime and onnxscript: pip install foveate[export]"
        ) from error
    module = subject.build()
    inputs = subject.inputs(_FIRST, batch=3)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.onnx"
        torch.onnx.export(
            module, inputs, path, dynamo=True, dynamic_shapes=_dynamic(subject), verbose=False
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [given.name for given in session.get_inputs()]

        def run(*given: Tensor) -> tuple[Tensor, ...]:
            arrays = {name: x.numpy() for name, x in zip(names, given, strict=True)}
            return tuple(map(torch.from_numpy, session.run(None, arrays)))

        _compare(run, module, subject)


def _compare(program: Any, module: nn.Module, subject: Subject) -> None:
    for size, batch in ((_FIRST, 3), (_SECOND, 2), (_MULTIPLES[0], 2), (_MULTIPLES[1], 1)):
        inputs = subject.inputs(size, batch=batch)
        actual, expected = outputs(program, inputs), outputs(module, inputs)
        require_close(actual, expected, f"{batch} of size {size}", tolerance=1e-4)


def _dynamic(subject: Subject) -> tuple[dict[int, Any], ...]:
    """Batch and positions of every input are free; channels are not."""
    free = torch.export.Dim.DYNAMIC
    if subject.role in ("mixer", "gate"):
        return ({0: free, 2: free, 3: free},)
    return ({0: free, 1: free},) * (2 if subject.role == "aligner" else 1)


def _with_gradients(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    result = outputs(module, inputs)
    return *result, *torch.autograd.grad(sum(y.square().sum() for y in result), inputs)

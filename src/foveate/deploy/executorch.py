"""ExecuTorch's ``.pte`` with XNNPACK, run by ExecuTorch's runtime; sizes are fixed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from foveate._files import replacing
from foveate.deploy.format import Format, Runner, Written, lacking
from foveate.deploy.program import Deployment, ExportError, first_line, quiet

_DELEGATE = "executorch_call_delegate"
_EIGHT_BITS = (
    "convolutions and linear layers have 8-bit weights (by channel) and 8-bit inputs and outputs "
    "(by tensor, between the least and the largest value of the calibration); the rest computes in "
    "float32"
)


class ExecuTorch(Format):
    """``.pte``: what XNNPACK takes runs there, the rest by ExecuTorch's portable operators."""

    name = "executorch"
    title = "ExecuTorch"
    runtime = "ExecuTorch with XNNPACK"
    suffix = ".pte"
    extra = "executorch"
    packages = ("executorch.exir", "torchao")
    imported = ("executorch.runtime",)
    free = ()
    precisions = ("float32", "int8")

    def write(self, deployment: Deployment, path: Path) -> Written:
        with quiet():
            from executorch.backends.xnnpack._passes.remove_noop_expand_copy_pass import (
                RemoveNoopExpandCopyPass,
            )
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import (
                XnnpackPartitioner,
            )
            from executorch.exir import to_edge_transform_and_lower

        try:
            with quiet():
                eight = deployment.request.precision == "int8"
                recorded = _quantized(deployment) if eight else deployment.program
                lowered = to_edge_transform_and_lower(
                    recorded,
                    # Copies before every product, which would run outside of XNNPACK.
                    transform_passes=[RemoveNoopExpandCopyPass()],
                    partitioner=[XnnpackPartitioner()],
                )
                left = _outside(lowered.exported_program().graph)
                program = lowered.to_executorch()
        except Exception as error:
            raise _explained(error, deployment, self) from error
        with replacing(path) as file:
            program.write_to_file(file)
        notes = (_EIGHT_BITS,) if eight else ()
        if left:
            notes += (f"outside of XNNPACK run {', '.join(left)}",)
        return Written("with XNNPACK", notes)

    def open(self, path: Path, threads: int | None = None) -> Runner:
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        if threads is not None and hasattr(portable_lib, "_threadpool_reset"):
            portable_lib._threadpool_reset(threads)
        # Of the method's memory: it goes with the program.
        program = Runtime.get().load_program(path.read_bytes())
        method = program.load_method("forward")
        if method is None:
            raise ExportError(f"{path} has no method forward")

        def run(images: Tensor, program: Any = program) -> list[Tensor]:
            return [output.clone() for output in method.execute([images.contiguous()])]

        return run


def _quantized(deployment: Deployment) -> Any:
    """The graph with 8-bit weights by channel and 8-bit inputs, as XNNPACK computes them."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    class Quantizer(XNNPACKQuantizer):
        """Of convolutions and linear layers alone.

        A sum of logits and a mask would in eight bits be the mask; XNNPACK refuses the transposes
        that annotations are carried through; and to look for batch norms in training, which a
        fused model has not, takes minutes.
        """

        SUPPORTED_PATTERNS: ClassVar = [
            pattern
            for pattern in XNNPACKQuantizer.SUPPORTED_PATTERNS
            if pattern.name.startswith(("conv", "linear")) and not pattern.is_qat
        ]

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            return self._annotate_for_quantization_config(model)

    quantizer = Quantizer()
    quantizer.set_global(get_symmetric_quantization_config(is_per_channel=True))
    with torch.no_grad():
        prepared = prepare_pt2e(deployment.program.module(), quantizer)
        for images in deployment.calibration:
            prepared(images)
        return torch.export.export(convert_pt2e(prepared), (deployment.calibration[0],))


def _outside(graph: Any) -> list[str]:
    """Operators that XNNPACK did not take, with how often each stands."""
    counts: dict[str, int] = {}
    for node in graph.nodes:
        name = getattr(node.target, "__name__", str(node.target))
        if node.op == "call_function" and name not in ("getitem", _DELEGATE):
            name = name.removeprefix("aten.").split(".")[0]
            counts[name] = counts.get(name, 0) + 1
    common = sorted(counts.items(), key=lambda each: -each[1])
    return [f"{name} ({count})" for name, count in common]


def _explained(error: Exception, deployment: Deployment, format_: Format) -> ExportError:
    found = re.search(r"Missing out variants: \{'([\w.:]+)'", str(error)) or re.search(
        r"Operator (?:torch\.ops\.)?([\w.:]+) is not Aten Canonical", str(error)
    )
    if found:
        return lacking(deployment, format_, found[1])
    return ExportError(f"ExecuTorch cannot lower the model: {first_line(error)}")

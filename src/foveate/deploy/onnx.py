"""ONNX by PyTorch's exporter of graphs, run by ONNX Runtime."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate._files import replacing
from foveate.deploy.format import Format, Runner, Written, lacking
from foveate.deploy.onnx_constants import halve, share
from foveate.deploy.program import Deployment, ExportError, first_line, quiet

OPSET = 20
"""The first in which grids and windows that overhang are sampled as PyTorch does."""
_MOST_BYTES = 2**31 - 2**16  # of a message of protobuf, less what is said of the file


class Onnx(Format):
    """``.onnx``: one file, weights inside."""

    name = "onnx"
    title = "ONNX"
    runtime = "ONNX Runtime"
    suffix = ".onnx"
    extra = "export"
    packages = ("onnx", "onnxscript", "onnxruntime")
    imported = ("onnxruntime",)
    precisions = ("float32", "float16", "int8")

    def write(self, deployment: Deployment, path: Path) -> Written:
        model, notes = self.proto(deployment), ()
        if deployment.request.precision == "float16":
            from onnxruntime.transformers.float16 import convert_float_to_float16

            with quiet():
                model = convert_float_to_float16(model, keep_io_types=True)
            notes = (
                "images and outputs stay float32; where ONNX Runtime has no float16 kernel, as for "
                "most operators on CPUs, it computes in float32 between casts",
            )
        if deployment.request.precision == "int8":
            model, notes = _quantized(model, deployment, path.with_suffix(".int8")), (_EIGHT_BITS,)
        share(model.graph)
        if model.ByteSize() > _MOST_BYTES:
            raise ExportError(
                f"the model takes {model.ByteSize() / 2**30:.1f} GiB, and an ONNX file 2 at most; "
                "OpenVINO's (.xml) may be larger"
            )
        with replacing(path) as file:
            file.write(model.SerializeToString())
        return Written(f"opset {OPSET}", notes)

    def proto(self, deployment: Deployment) -> Any:
        """The model as ``onnx.ModelProto``, in float32."""
        import onnx_ir

        program = deployment.program
        names = deployment.output_names
        try:
            with quiet():
                made = torch.onnx.export(
                    program, output_names=names, opset_version=OPSET, verbose=False
                )
        except Exception as error:
            raise _explained(error, deployment, self) from error
        assert made is not None
        _name_axes(made.model, deployment)
        _forget_origins(made.model)
        model = onnx_ir.to_proto(made.model)
        model.producer_name = "foveate"
        return model

    def open(self, path: Path, threads: int | None = None) -> Runner:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 0
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def run(images: Tensor) -> list[Tensor]:
            return list(map(torch.from_numpy, session.run(None, {name: images.numpy()})))

        return run

    def annotate(self, path: Path, words: Mapping[str, str]) -> None:
        import onnx

        said = onnx.ModelProto()
        onnx.helper.set_model_props(said, dict(words))
        # Messages that follow each other are one, so what was checked stays as it is.
        with open(path, "ab") as file:
            file.write(said.SerializeToString())


def _forget_origins(model: Any) -> None:
    """Drop what the exporter notes at every step: paths of this machine, two megabytes of them."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()


_EIGHT_BITS = (
    "convolutions and matrix products have 8-bit weights (by channel) and 8-bit inputs (by tensor, "
    "between the least and the largest value of the calibration); the rest computes in float32, "
    "its weights and tables kept in float16"
)


def _quantized(model: Any, deployment: Deployment, path: Path) -> Any:
    """Static quantization with operators that say where values are rounded (QDQ)."""
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(deployment.calibration)

        def get_next(self) -> Any:
            images = next(self.left, None)
            return None if images is None else {"images": images.numpy()}

    try:
        with quiet():
            quantize_static(
                model,
                path,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        eight = onnx.load(path)
        halve(eight.graph)
        return eight
    except Exception as error:
        raise ExportError(f"ONNX Runtime cannot quantize the model: {first_line(error)}") from error
    finally:
        path.unlink(missing_ok=True)


def _name_axes(model: Any, deployment: Deployment) -> None:
    """Call free axes by their names where symbols stand."""
    import onnx_ir

    request, (images,) = deployment.request, model.graph.inputs
    names: dict[str, str] = {}
    for place, axis in ((0, "batch"), (2, "height"), (3, "width")):
        if axis in request.free:
            names[str(images.shape[place])] = axis
    for value in [images, *model.graph.outputs]:
        value.shape = onnx_ir.Shape(
            [size if isinstance(size, int) else names.get(str(size), str(size))
             for size in value.shape]
        )  # fmt: skip


def _explained(error: BaseException, deployment: Deployment, format_: Format) -> ExportError:
    cause: BaseException | None = error
    while cause is not None:
        found = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(cause))
        if found:
            return lacking(deployment, format_, found[1])
        error, cause = cause, cause.__cause__
    return ExportError(f"PyTorch's exporter cannot write the model as ONNX: {first_line(error)}")

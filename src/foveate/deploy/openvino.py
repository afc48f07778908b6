"""OpenVINO's intermediate representation, ``.xml`` with its ``.bin``, run by OpenVINO."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foveate.deploy.format import Format, Runner, Written, lacking
from foveate.deploy.onnx import Onnx
from foveate.deploy.program import Deployment, ExportError, first_line, quiet
from foveate.deploy.request import AXES


class OpenVino(Format):
    """``.xml`` and, beside it, ``.bin``."""

    name = "openvino"
    title = "OpenVINO"
    runtime = "OpenVINO"
    suffix = ".xml"
    extra = "openvino"
    packages = ("openvino",)
    imported = ("openvino",)

    def write(self, deployment: Deployment, path: Path) -> Written:
        import openvino

        model, notes = self._converted(deployment, path)
        _fix_sizes(model, deployment)
        _name(model, deployment)
        half = deployment.request.precision == "float16"
        openvino.save_model(model, path, compress_to_fp16=half)
        notes += (
            "checked in float32; OpenVINO's default on CPUs that have bfloat16 is to compute in it "
            "(set INFERENCE_PRECISION_HINT to f32 for these numbers)",
        )
        if half:
            notes += ("weights are float16 in the file and are computed with in float32",)
        return Written("IR 11", notes)

    def _converted(self, deployment: Deployment, path: Path) -> tuple[Any, tuple[str, ...]]:
        """From PyTorch's graph, or where OpenVINO does not read that, from ONNX."""
        import openvino

        try:
            with quiet():
                return openvino.convert_model(deployment.program), ()
        except Exception as error:
            found = re.search(r"No conversion rule found for operations: ([\w.:]+)", str(error))
            first = error
            if found:
                raise lacking(deployment, self, found[1]) from error
        between = path.with_suffix(".onnx")
        try:
            Onnx().write(deployment, between)
            with quiet():
                model = openvino.convert_model(between)
        except Exception as error:
            raise ExportError(
                f"OpenVINO cannot convert the model: {_reason(first)}; nor by ONNX: "
                f"{_reason(error)}"
            ) from error
        between.unlink()
        return model, ("converted from ONNX, since OpenVINO does not read PyTorch's graph of it",)

    def open(self, path: Path, threads: int | None = None) -> Runner:
        return _compiled(path, {"INFERENCE_PRECISION_HINT": "f32"}, threads)

    def open_default(self, path: Path) -> Runner:
        """In the precision that OpenVINO chooses on this machine."""
        return _compiled(path, {}, None)

    def annotate(self, path: Path, words: Mapping[str, str]) -> None:
        import openvino

        model = openvino.Core().read_model(path)
        for key, value in words.items():
            model.set_rt_info(value, key.split("."))
        said = path.with_name(f"{path.stem}.said{path.suffix}")
        openvino.serialize(model, said)
        del model  # it holds the file of weights
        said.with_suffix(".bin").replace(path.with_suffix(".bin"))
        said.replace(path)


def _compiled(path: Path, settings: dict[str, Any], threads: int | None) -> Runner:
    import openvino

    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(path, "CPU", settings)

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(value.copy()) for value in compiled(images.numpy()).values()]

    return run


def _fix_sizes(model: Any, deployment: Deployment) -> None:
    """State the sizes that are not free, which are lost when a graph of PyTorch's is converted.

    Without them the runtime takes images that the graph is wrong for, and fuses no attention.
    """
    request = deployment.request
    batch, height, width = (
        -1 if axis in request.free else length
        for axis, length in zip(AXES, request.stated, strict=True)
    )
    model.reshape([batch, request.channels, height, width])


def _name(model: Any, deployment: Deployment) -> None:
    """Call input and outputs by the names that they have in other formats, and free axes so."""
    model.inputs[0].set_names({"images"})
    for output, name in zip(model.outputs, deployment.output_names, strict=True):
        output.set_names({name})


def _reason(error: Exception) -> str:
    """Of OpenVINO's errors, whose first lines say where in its sources they were raised."""
    lines = [line.strip() for line in str(error).splitlines()]
    where = r"(Exception from|Check '|FrontEnd API failed|While converting|Summary:|--)"
    said = [line for line in lines if line and not re.match(where, line)]
    return said[0] if said else first_line(error)

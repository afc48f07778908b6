"""LiteRT's ``.tflite`` by litert-torch, run by LiteRT's interpreter; sizes are fixed."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from foveate._files import replacing
from foveate.deploy.format import Format, Runner, Written, lacking
from foveate.deploy.program import Deployment, ExportError, first_line, images_of, quiet


class LiteRt(Format):
    """``.tflite``: images as in PyTorch, channels first."""

    name = "litert"
    title = "LiteRT"
    runtime = "LiteRT"
    suffix = ".tflite"
    extra = "litert"
    packages = ("litert_torch", "ai_edge_litert")
    imported = ("ai_edge_litert.interpreter",)
    free = ()
    precisions = ("float32",)

    def write(self, deployment: Deployment, path: Path) -> Written:
        with quiet():
            import litert_torch

        request = deployment.request
        try:
            with quiet():
                model = litert_torch.convert(
                    deployment.program.module(), (images_of(request.traced, request),)
                )
        except Exception as error:
            found = re.search(r"[Ll]owering not found: ([\w.:]+)", str(error))
            if found:
                raise lacking(deployment, self, found[1]) from error
            raise ExportError(f"LiteRT cannot convert the model: {first_line(error)}") from error
        with quiet():
            content = model.model_content()  # export(path) ends the process on a full disk
        with replacing(path) as file:
            file.write(content)
        return Written(
            f"by litert-torch {version('litert-torch')}",
            ("images are (1, C, H, W), as in PyTorch",),
        )

    def open(self, path: Path, threads: int | None = None) -> Runner:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path), num_threads=threads)
        signature = interpreter.get_signature_runner()
        (name,) = signature.get_input_details()
        names = sorted(signature.get_output_details(), key=lambda key: (len(key), key))

        def run(images: Tensor) -> list[Tensor]:
            given = signature(**{name: images.numpy()})
            return [torch.from_numpy(given[key].copy()) for key in names]

        return run

"""Core ML's ``.mlpackage`` by coremltools: converted anywhere, run on Apple's devices alone."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foveate.deploy.format import Format, Runner, Written, lacking
from foveate.deploy.program import Deployment, ExportError, first_line, quiet
from foveate.deploy.simplify import simplify


class CoreMl(Format):
    """``.mlpackage``, a folder; converted and its operators listed, not run."""

    name = "coreml"
    title = "Core ML"
    runtime = "Core ML"
    suffix = ".mlpackage"
    extra = "coreml"
    packages = ("coremltools",)
    free = ()
    runs_here = False

    def write(self, deployment: Deployment, path: Path) -> Written:
        with quiet():
            import coremltools

        half = deployment.request.precision == "float16"
        precision = coremltools.precision
        try:
            with quiet():
                program = deployment.program.run_decompositions({})
                simplify(program)  # taking apart makes aliases, which Core ML lacks
                model: Any = coremltools.convert(
                    program,
                    outputs=[coremltools.TensorType(name) for name in deployment.output_names],
                    compute_precision=precision.FLOAT16 if half else precision.FLOAT32,
                    minimum_deployment_target=coremltools.target.iOS17,
                    skip_model_load=True,
                )
        except Exception as error:
            found = re.search(
                r"(?:function for op|op) '?([\w.:]+)'? (?:not|is not)|fx node \w+, kind ([\w.:]+)",
                str(error),
            )
            if found:
                raise lacking(deployment, self, found[1] or found[2]) from error
            raise ExportError(f"Core ML cannot take the model: {first_line(error)}") from error
        model.save(str(path))
        operators = Counter(
            operation.type
            for function in model.get_spec().mlProgram.functions.values()
            for block in function.block_specializations.values()
            for operation in block.operations
            if operation.type != "const"
        )
        listed = ", ".join(f"{name} ({count})" for name, count in operators.most_common())
        return Written(
            "program for iOS 17",
            ("converted, and not run: Core ML runs on Apple's devices alone",
             f"its operators are {listed}"),
        )  # fmt: skip

    def open(self, path: Path, threads: int | None = None) -> Runner:
        raise ExportError("Core ML runs on Apple's devices alone")

    def annotate(self, path: Path, words: Mapping[str, str]) -> None:
        import coremltools

        specification = coremltools.utils.load_spec(str(path))
        kept = specification.description.metadata.userDefined
        for key, value in words.items():
            kept[key] = value
        said = path.with_name(f"said{path.suffix}")
        weights = path / "Data" / "com.apple.CoreML" / "weights"
        coremltools.utils.save_spec(specification, str(said), weights_dir=str(weights))
        shutil.rmtree(path)
        said.rename(path)

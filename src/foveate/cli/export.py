"""``foveate export``."""

from __future__ import annotations

from typing import Any

from foveate._user_code import import_all
from foveate.cli._parser import Options, Parser, add_imports, key_values
from foveate.cli._printing import print_json

HELP = "Write a model for another runtime, checked there."


def add_arguments(parser: Parser) -> None:
    """State what the command takes."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a model that timm knows, or a mechanism")
    add("--to", metavar="FORMAT", help="onnx, openvino, executorch, litert or coreml (default: by "
        "the suffix of FILE)")  # fmt: skip
    add("-o", "--out", metavar="FILE", help=".onnx, .xml, .pte, .tflite or .mlpackage (default: "
        "the model's name)")  # fmt: skip
    add("--size", type=int, nargs="+", metavar="N", help="height and width of the images, or one "
        "number for both (default: the model's own)")  # fmt: skip
    add("--dynamic", metavar="AXES", help="axes that the file takes at any length: of batch,height,"
        "width, or none (default: batch where the format has free axes)")  # fmt: skip
    add("--weights", metavar="FILE", help="weights to load: of a training here or published")
    add("--option", nargs="+", default=[], metavar="KEY=VALUE", help="options of the model, such "
        "as num_classes=10")  # fmt: skip
    add("--half", action="store_true", help="weights in float16")
    add("--int8", metavar="DIR", help="8-bit weights and products, calibrated with the images of "
        "this folder")  # fmt: skip
    add("--evaluate", metavar="DIR", help="images with classes (one folder a class) to count the "
        "accuracy on before and after --int8")  # fmt: skip
    add_imports(parser)
    add("--json", action="store_true", help="print JSON")


def run(options: Options) -> int:
    """Export and print what the check found."""
    import_all(options.imports)
    from foveate.analysis.by_name import by_name
    from foveate.deploy.export import export

    settings = key_values(options.option, "--option")
    module, input_size = by_name(options.model, options.size or (), options=settings)
    if isinstance(input_size[0], tuple):
        raise ValueError(f"{options.model} takes two sequences, and files are written for images")
    if options.weights:
        _load(module, options.weights)
    result = export(
        module,
        options.out or _file_of(options.model, options.to),
        to=options.to,
        size=(input_size[1], input_size[2]),
        dynamic=_axes(options.dynamic),
        half=options.half,
        int8=options.int8,
        evaluate=options.evaluate,
        channels=input_size[0],
    )
    random = not options.weights and not settings.get("pretrained")
    note = "the weights are random: give --weights FILE or --option pretrained=true"
    if options.json:
        print_json({**result.to_dict(), "random_weights": random})
        return 0
    print(result)
    if random:
        print(f"note: {note}")
    return 0


def _axes(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return () if text in ("", "none") else tuple(name.strip() for name in text.split(","))


def _file_of(model: str, to: str | None) -> str:
    """The model's name, for the format to put its suffix behind."""
    if to is None:
        raise ValueError("say where to (-o FILE.onnx) or what kind of file (--to onnx)")
    return model.rpartition("/")[2].replace(".", "_")


def _load(module: Any, path: str) -> None:
    from pathlib import Path

    import foveate
    from foveate.surgery import load

    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path!r}: there is no such file")
    if Path(path).suffix == ".safetensors":
        load(module, path)
    else:
        foveate.load_published(module, path)

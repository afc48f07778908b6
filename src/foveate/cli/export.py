"""``foveate export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from foveate._user_code import import_all
from foveate.cli._parser import Options, Parser, add_imports, key_values
from foveate.cli._printing import print_json

HELP = "Write a model for another runtime, checked there."


def add_arguments(parser: Parser) -> None:
    """State what the command takes."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a model that timm knows, a mechanism, or a trained model's "
        "file or the folder that has it")  # fmt: skip
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
    own = "of a model trained in a host of your own: FILE.py:FUNCTION that builds it; it is run"
    add("--host", metavar="NAME", help=own)
    add_imports(parser)
    add("--json", action="store_true", help="print JSON")


def run(options: Options) -> int:
    """Export and print what the check found."""
    import_all(options.imports)
    from foveate.deploy.export import export

    model = _trained(options) if Path(options.model).exists() else _named(options)
    result = export(
        model.module,
        options.out or _file_of(options.model, options.to),
        to=options.to,
        size=model.size,
        dynamic=_axes(options.dynamic),
        half=options.half,
        int8=options.int8,
        evaluate=options.evaluate,
        channels=model.channels,
        info=model.info,
    )
    if options.json:
        print_json({**result.to_dict(), "random_weights": model.random})
        return 0
    print(result)
    if model.random:
        print("note: the weights are random: give --weights FILE or --option pretrained=true")
    return 0


class _Model(NamedTuple):
    """What is exported, and what is known of it."""

    module: Any
    size: tuple[int, int] | None
    channels: int | None = None
    info: Any = None
    random: bool = False


def _trained(options: Options) -> _Model:
    """The model of a training's file, which says all that its making needs."""
    from foveate.arguments import pair
    from foveate.saved.load import load

    if options.weights or options.option:
        raise ValueError(f"{options.model} is a trained model: it takes no --weights or --option")
    module, info = load(options.model, host=options.host, imports=options.imports)
    given = options.size or ()
    size = given and pair(given[0] if len(given) == 1 else tuple(given), "size")
    return _Model(module, size or None, info=info)


def _named(options: Options) -> _Model:
    """A model of timm's, or a mechanism."""
    from foveate.analysis.by_name import by_name

    settings = key_values(options.option, "--option")
    module, (channels, *size) = by_name(options.model, options.size or (), options=settings)
    if not isinstance(channels, int):
        raise ValueError(f"{options.model} takes two sequences, and files are written for images")
    if options.weights:
        _load(module, options.weights)
    random = not options.weights and not settings.get("pretrained")
    return _Model(module, (size[0], size[1]), channels, random=random)


def _axes(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    return () if text in ("", "none") else tuple(name.strip() for name in text.split(","))


def _file_of(model: str, to: str | None) -> str:
    """The model's name, for the format to put its suffix behind."""
    if to is None:
        raise ValueError("say where to (-o FILE.onnx) or what kind of file (--to onnx)")
    return model.rstrip("/").rpartition("/")[2].replace(".", "_")


def _load(module: Any, path: str) -> None:
    import foveate
    from foveate.surgery import load

    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path!r}: there is no such file")
    if Path(path).suffix == ".safetensors":
        load(module, path)
    else:
        foveate.load_published(module, path)

"""``foveate profile``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from foveate._user_code import import_all
from foveate.cli._parser import Options, Parser, add_imports, key_values
from foveate.cli._printing import print_json, print_table

HELP = "What mechanisms or models cost, measured."


def add_arguments(parser: Parser) -> None:
    """State what the command takes."""
    add = parser.add_argument
    add("names", nargs="+", metavar="NAME", help="mechanisms, or models that timm knows")
    size = (
        "height and width of map or image, or one number for both; queries and keys of an aligner"
    )
    add("--size", type=int, nargs="+", metavar="N", help=f"{size} (mechanisms: 56)")
    add("--dim", type=int, default=64, help="channels of a mechanism")
    add(
        "--num-heads",
        type=int,
        help="heads of a mechanism (default: an even number, about one per 32 channels)",
    )
    add("--option", nargs="+", default=[], metavar="KEY=VALUE", help="further constructor options")
    add("--batch", type=int, default=1, help="samples in a batch")
    add("--device", default="cpu", help="where to run, such as cuda")
    add("--repeats", type=int, default=30, help="timed calls")
    add(
        "--runtime",
        metavar="NAMES",
        help="measure one image in each of these runtimes, in turn: of torch,onnxruntime,openvino,"
        "executorch,litert",
    )
    add("--threads", type=int, default=1, help="that each runtime may use (with --runtime)")
    add_imports(parser)
    add("--json", action="store_true", help="print JSON instead of a table")


def run(options: Options) -> int:
    """Measure and print."""
    import_all(options.imports)
    from foveate.analysis.by_name import by_name
    from foveate.analysis.profile import profile

    extra = key_values(options.option, "--option")
    if options.runtime:
        return _in_runtimes(options, extra)
    costs = []
    for name in options.names:
        module, size = by_name(
            name, options.size or (), dim=options.dim, num_heads=options.num_heads, options=extra
        )
        try:
            cost = profile(module, size, options.batch, options.device, repeats=options.repeats)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"{name} does not run on input of {size}: {error}") from error
        costs.append((name, cost))
    if options.json:
        print_json([{"name": name, **cost.to_dict()} for name, cost in costs])
        return 0
    print_table(
        ("name", "input", "parameters", "multiply-adds", "latency (quartiles)", "peak memory"),
        [(name, _size(cost.input_size), *cost.texts()) for name, cost in costs],
        right=True,
    )
    first = costs[0][1]
    threads = "1 thread" if first.threads == 1 else f"{first.threads} threads"
    print(f"batch of {first.batch_size}, {threads}, {first.device}")
    return 0


def _in_runtimes(options: Options, extra: dict[str, Any]) -> int:
    """A row a runtime of each model."""
    from foveate.analysis.by_name import by_name
    from foveate.analysis.profile import device_name
    from foveate.deploy.measure import profile_runtimes

    if (options.batch, options.device, options.repeats) != (1, "cpu", 30):
        raise ValueError(
            "with --runtime one image is measured on the CPU, in rounds: leave out --batch, "
            "--device and --repeats"
        )
    runtimes = [name.strip() for name in options.runtime.split(",")]
    found = []
    for name in options.names:
        module, (channels, *size) = by_name(
            name, options.size or (), dim=options.dim, num_heads=options.num_heads, options=extra
        )
        if not isinstance(channels, int):
            raise ValueError(f"{name} takes two sequences, and runtimes are measured on images")
        rows = profile_runtimes(
            module, runtimes, (size[0], size[1]), channels=channels, threads=options.threads
        )
        found += [(name, _size((channels, *size)), row) for row in rows]
    if options.json:
        print_json([{"name": name, "input": size, **row.to_dict()} for name, size, row in found])
        return 0
    print_table(
        ("name", "input", "runtime", "latency (quartiles)", "peak memory", "file", "difference"),
        [(name, size, row.runtime, *row.texts()) for name, size, row in found],
        right=True,
    )
    for name, _, row in found:
        if row.note:
            print(f"{name} in {row.runtime}: {row.note}")
    threads = "1 thread" if options.threads == 1 else f"{options.threads} threads"
    print(f"one image, float32, {threads}, {device_name()}; memory of a process of its own")
    return 0


def _size(size: Sequence[Any]) -> str:
    """Of one sample without the batch, `64x56x56`; several where there are several inputs."""
    if isinstance(size[0], Sequence):
        return ", ".join(map(_size, size))
    return "x".join(map(str, size))

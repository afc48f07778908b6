"""The command ``foveate``: reads arguments, calls the library, prints.

Each sub-command is a pair: a function that states its arguments, and one that runs it. PyTorch is
imported by what runs, never by what reads, so that ``--help`` answers at once.
"""

from __future__ import annotations

import errno
import json
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

try:
    import jsonargparse
except ModuleNotFoundError:
    sys.exit("foveate: the command needs more than the library: pip install 'foveate[study]'")

if TYPE_CHECKING:
    from torch import nn

    from foveate.study.store import Run

Options = jsonargparse.Namespace


class Parser(jsonargparse.ArgumentParser):
    """Answers what it cannot read in one line, with the nearest option, and exit code 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        missing = re.match(r"the following arguments are required: (?:\w+\.)?(\w+)", message)
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if unknown:
            from foveate.arguments import nearest

            message = f"unknown option {unknown[1]}{nearest(unknown[1], self._all_options())}"
        elif missing:
            message = f"{missing[1].rstrip('s').upper()} is missing; see foveate --help"
        elif choice:
            from foveate.arguments import nearest

            known = re.findall(r"[\w-]+", choice[2])
            message = f"unknown command {choice[1]!r}{nearest(choice[1], known)}"
        elif 'expected "subcommand"' in message:
            message = f"a command is missing: one of {', '.join(COMMANDS)}"
        message = re.sub(r'^Parser key "([\w.]+)"', r"--\1", message)
        _refuse(re.sub(r"<class '(\w+)'>", r"\1", message))

    def _all_options(self) -> set[str]:
        parsers: list[Any] = [self]
        for action in self._actions:
            if isinstance(action.choices, dict):
                parsers += action.choices.values()
        return {option for parser in parsers for option in parser._option_string_actions}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit code is 2 where the user's input is at fault."""
    parser = Parser(prog="foveate", description="Visual attention: look up, measure, compare.")
    commands = parser.add_subcommands(required=True, title="commands", metavar="COMMAND")
    for name, (what, state, _) in COMMANDS.items():
        command = Parser(description=what)
        state(command)
        commands.add_subcommand(name, command, help=what)
    options = parser.parse_args(arguments)
    run = COMMANDS[options.subcommand][2]
    try:
        return run(options[options.subcommand]) or 0
    except BrokenPipeError:
        sys.stderr.close()
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ModuleNotFoundError) as error:
        _refuse(str(error))
    return 0


def _refuse(message: str) -> NoReturn:
    print(f"foveate: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


# foveate list


def _state_list(parser: Parser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="a glob, such as '*window*'")
    parser.add_argument("--family", help="gates, local, window, full, sequence or your own")
    parser.add_argument("--role", help="mixer, gate, token_mixer or aligner")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _list(options: Options) -> None:
    from foveate.arguments import nearest
    from foveate.registry import describe, list_attention

    names = list_attention(options.pattern, family=options.family, role=options.role)
    if not names:
        raise ValueError(
            f"no attention matches {options.pattern!r}{nearest(options.pattern, list_attention())}"
        )
    specs = [describe(name) for name in names]
    if options.json:
        _print_json(
            [{"name": s.name, "role": s.role, "family": s.family, "title": s.title} for s in specs]
        )
        return
    _print_table(
        ("name", "role", "family", "what it is"),
        [(spec.name, spec.role, spec.family, spec.title) for spec in specs],
    )


# foveate describe


def _state_describe(parser: Parser) -> None:
    parser.add_argument("name", metavar="NAME", help="a mechanism, as in foveate list")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def _describe(options: Options) -> None:
    from foveate.registry import describe

    known = describe(options.name).to_dict()
    if options.json:
        _print_json(known)
        return
    print(f"{known['name']}: {known['title']}\n")
    for field in ("role", "family", "paper", "source", "license", "parity"):
        print(f"{field:8} {known[field] or '-'}")
    print("\nTags")
    for tag, meaning in known["tags"].items():
        print(f"  {tag:16} {meaning}")
    print("\nOptions")
    for option in known["options"]:
        default = "" if option["required"] else f" = {option['default']!r}"
        print(f"  {option['name'] + default:24} {option['meaning']}")
    print(f"\n{known['documentation']}")


# foveate profile


def _state_profile(parser: Parser) -> None:
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
    add("--json", action="store_true", help="print JSON instead of a table")


def _profile(options: Options) -> None:
    from foveate.analysis.profile import profile

    rows = []
    for name in options.names:
        module, size = _subject(name, options)
        try:
            cost = profile(
                module, size, options.batch, options.device, repeats=options.repeats
            ).to_dict()
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"{name} does not run on input of {size}: {error}") from error
        rows.append({"name": name, **cost})
    if options.json:
        _print_json(rows)
        return
    _print_table(
        ("name", "parameters", "multiply-adds", "latency (quartiles)", "peak memory"),
        [_cost_row(row) for row in rows],
        right=True,
    )
    first = rows[0]
    print(f"batch of {first['batch_size']}, {first['threads']} threads, {first['device']}")


def _cost_row(row: dict[str, Any]) -> tuple[str, ...]:
    memory = row["peak_memory"]
    return (
        row["name"],
        f"{row['parameters']:,}",
        f"{row['multiply_adds'] / 1e6:,.2f} M",
        f"{row['latency_ms']:.2f} ms ({row['latency_p25_ms']:.2f} to {row['latency_p75_ms']:.2f})",
        "-" if memory is None else f"{memory / 2**20:,.1f} MiB",
    )


def _subject(name: str, options: Options) -> tuple[nn.Module, Any]:
    """The mechanism or model called ``name``, and the input size to measure it on."""
    from foveate.registry import list_attention

    size = options.size or []
    if len(size) > 2 or any(length < 1 for length in size):
        raise ValueError(f"--size takes one or two positive numbers, got {size}")
    if name in list_attention():
        height, width = (size * 2)[:2] or (56, 56)
        return _mechanism(name, height, width, options)
    return _model(name, (size * 2)[:2], options)


def _mechanism(name: str, height: int, width: int, options: Options) -> tuple[nn.Module, Any]:
    from foveate.attention.adapt import Place, adapt

    dim = options.dim
    heads = options.num_heads or _heads(dim)
    place = Place(dim, num_heads=heads, roles=("mixer", "gate", "aligner"))
    made = adapt(name, place, _key_values(options.option))
    aligner = made.role == "aligner"
    return made.module, ((height, dim), (width, dim)) if aligner else (dim, height, width)


def _heads(dim: int) -> int:
    """Heads of about 32 channels; an even number, since some mechanisms halve them."""
    return 2 * max(1, dim // 64)


def _model(name: str, size: list[int], options: Options) -> tuple[nn.Module, tuple[int, ...]]:
    import timm

    import foveate.models  # noqa: F401  (registers the library's own with timm)
    from foveate.arguments import nearest
    from foveate.registry import list_attention

    if not timm.is_model(name):
        known = nearest(name, [*list_attention(), *timm.list_models()])
        raise ValueError(f"neither a mechanism nor a model is called {name!r}{known}")
    extra = _key_values(options.option)
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if size and config is not None and config.fixed_input_size:
        extra["img_size"] = tuple(size)
    try:
        model: Any = timm.create_model(name, **extra)
    except (TypeError, AssertionError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be built with {extra}: {error}") from error
    channels, *own = model.default_cfg.get("input_size", (3, 224, 224))
    return model, (channels, *(size or own))


def _key_values(pairs: Iterable[str], flag: str = "--option") -> dict[str, Any]:
    import yaml

    values: dict[str, Any] = {}
    for text in pairs:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"{flag} takes KEY=VALUE, got {text!r}")
        values[key] = yaml.safe_load(value)
    return values


# foveate compare


def _state_compare(parser: Parser) -> None:
    add = parser.add_argument
    add("--data", help="digits (default), a folder of images, or torchvision/NAME")
    add(
        "--attention",
        nargs="+",
        metavar="NAME",
        help="mechanisms, with options as NAME:key=value,key=value",
    )
    add("--controls", nargs="*", metavar="NAME", help="what they are compared with")
    add("--seeds", type=int, nargs="+", metavar="N", help="how many, or which")
    add("--epochs", type=int, help="passes over the training images")
    add("--host", help="the model in whose blocks the attention stands")
    add("--image-size", type=int, nargs="+", metavar="N", help="height and width, or one for both")
    add("--batch-size", type=int, help="images a batch")
    add("--lr", type=float, help="highest learning rate")
    add("--limit", type=int, help="train on at most this many images")
    add("--data-root", help="where named data sets lie or are downloaded to")
    add("--device", help="cpu, cuda, mps or auto")
    add("--workers", type=int, help="trials at a time")
    add("--threads", type=int, help="CPU threads of a trial")
    add("--imports", nargs="+", metavar="FILE", help="modules or files with mechanisms of your own")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="any other key of the plan")
    add("--plan", metavar="FILE", help="a plan in YAML, such as the plan.yaml of another run")
    add("--out", metavar="DIR", help="the run directory (default: a dated one under runs/)")
    add("--resume", metavar="RUN", help="go on with the study in this run directory")


_PLAN_OPTIONS = (
    "data", "attention", "controls", "seeds", "epochs", "host", "image_size", "batch_size", "lr",
    "limit", "data_root", "device", "workers", "threads", "imports",
)  # fmt: skip


def _compare(options: Options) -> int:
    from foveate.study import process

    process.warm_up()  # while this process imports, its trials' server does
    from foveate.study.progress import progress
    from foveate.study.runner import run_study
    from foveate.study.store import no_room

    run = _run_directory(options)
    print(f"run directory: {run.root}", flush=True)
    try:
        with progress() as show:
            outcome = run_study(run, show)
    except KeyboardInterrupt:
        print(f"stopped; go on with: foveate compare --resume {run.root}", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise no_room(run.root, error.filename or "a file") from error
        raise
    _print_table(
        ("attention", "accuracy", "parameters", "multiply-adds", "latency", "peak memory"),
        [_comparison_row(label, outcome.rows) for label in _labels(outcome.rows)],
        right=True,
    )
    for line in outcome.failed:
        print(f"failed: {line}")
    print(f"report: {outcome.report}")
    return 1 if outcome.failed else 0


def _run_directory(options: Options) -> Run:
    from datetime import datetime
    from pathlib import Path

    import yaml

    from foveate.study.plan import PlanError, complete, load_plan, read_plan
    from foveate.study.store import Run

    given = {key: options[key] for key in _PLAN_OPTIONS if options[key] is not None}
    given.update(_key_values(options.set, "--set"))
    if options.resume is not None:
        others = [*given, *(key for key in ("plan", "out") if options[key] is not None)]
        if others:
            raise PlanError(f"--resume goes on with the plan of the run; leave out {others[0]!r}")
        return Run.open(Path(options.resume))
    if len(given.get("seeds", [])) == 1:
        given["seeds"] = given["seeds"][0]
    values: dict[str, Any] = {}
    where = "the command"
    if options.plan is not None:
        where = str(options.plan)
        values = yaml.safe_load(load_plan(Path(options.plan)).to_yaml())
    plan = complete(read_plan({**values, **given}, where))
    now = datetime.now().strftime("%Y-%m-%d-%H%M%S")
    return Run.begin(Path(options.out or f"runs/{now}"), plan)


def _labels(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["label"] for row in rows))


def _comparison_row(label: str, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    from statistics import mean, stdev

    done = [row for row in rows if row["label"] == label and row["status"] == "done"]
    if not done:
        return (label, "failed", "", "", "", "")
    accuracies = [100 * row["accuracy"] for row in done]
    spread = f" ± {stdev(accuracies):.1f}" if len(done) > 1 else ""
    row = done[0]
    latency, memory = row["latency_ms"], row["peak_memory_mb"]
    return (
        label,
        f"{mean(accuracies):.1f}{spread} %",
        f"{row['parameters']:,}",
        f"{row['multiply_adds'] / 1e6:,.2f} M",
        "-" if latency is None else f"{latency:.2f} ms / {row['latency_batch']}",
        "-" if memory is None else f"{memory:,.1f} MB",
    )


# Printing


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _print_table(head: Iterable[str], rows: Iterable[Iterable[str]], right: bool = False) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, title in enumerate(head):
        table.add_column(title, justify="right" if right and index else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    # What is piped into another program is not broken into lines.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table)


COMMANDS: dict[str, tuple[str, Callable[[Parser], None], Callable[[Options], int | None]]] = {
    "list": ("Mechanisms that the library knows.", _state_list, _list),
    "describe": ("All that is known of one mechanism.", _state_describe, _describe),
    "profile": ("What mechanisms or models cost, measured.", _state_profile, _profile),
    "compare": ("Train mechanisms side by side and report.", _state_compare, _compare),
}


if __name__ == "__main__":
    sys.exit(main())

"""The command ``foveate``: reads arguments, calls the library, prints.

Each sub-command is a pair: a function that states its arguments, and one that runs it. PyTorch is
imported by what runs, never by what reads, so that ``--help`` answers at once.
"""

from __future__ import annotations

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
        run(options[options.subcommand])
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
    from foveate.analysis.card import card

    known = card(options.name)
    if options.json:
        _print_json(known)
        return
    print(f"{known['name']}: {known['title']}\n")
    for field in ("role", "family", "paper", "source", "licence", "parity"):
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
    add("--num-heads", type=int, help="heads of a mechanism (default: one per 32 channels)")
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
    from foveate.registry import create_attention, describe, option_names

    spec, dim = describe(name), options.dim
    extra = _key_values(options.option)
    if "num_heads" in option_names(spec):
        extra.setdefault("num_heads", options.num_heads or max(1, dim // 32))
    if spec.role == "aligner":
        return create_attention(name, dim, **extra), ((height, dim), (width, dim))
    role = "mixer" if spec.role == "token_mixer" else spec.role
    return create_attention(name, dim, role=role, **extra), (dim, height, width)


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


def _key_values(pairs: Iterable[str]) -> dict[str, Any]:
    import yaml

    values: dict[str, Any] = {}
    for text in pairs:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"--option takes KEY=VALUE, got {text!r}")
        values[key] = yaml.safe_load(value)
    return values


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


COMMANDS: dict[str, tuple[str, Callable[[Parser], None], Callable[[Options], None]]] = {
    "list": ("Mechanisms that the library knows.", _state_list, _list),
    "describe": ("All that is known of one mechanism.", _state_describe, _describe),
    "profile": ("What mechanisms or models cost, measured.", _state_profile, _profile),
}


if __name__ == "__main__":
    sys.exit(main())

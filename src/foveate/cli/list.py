"""``foveate list``."""

from __future__ import annotations

from foveate._user_code import import_all
from foveate.cli._parser import Options, Parser, add_imports
from foveate.cli._printing import print_json, print_table

HELP = "Mechanisms that the library knows."


def add_arguments(parser: Parser) -> None:
    """State what the command takes."""
    parser.add_argument("pattern", nargs="?", default="*", help="a glob, such as '*window*'")
    parser.add_argument(
        "--family",
        help="gates, local, window, full, sequence or your own; of reducers tokens, channels, maps",
    )
    parser.add_argument("--role", help="mixer, gate, token_mixer, aligner or reducer")
    add_imports(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(options: Options) -> int:
    """Print the mechanisms that match."""
    import_all(options.imports)
    from foveate.arguments import nearest
    from foveate.registry import describe, list_attention

    names = list_attention(options.pattern, family=options.family, role=options.role)
    if not names:
        raise ValueError(
            f"no attention matches {options.pattern!r}{nearest(options.pattern, list_attention())}"
        )
    specs = [describe(name) for name in names]
    if options.json:
        print_json(
            [{"name": s.name, "role": s.role, "family": s.family, "title": s.title} for s in specs]
        )
        return 0
    print_table(
        ("name", "role", "family", "what it is"),
        [(spec.name, spec.role, spec.family, spec.title) for spec in specs],
    )
    return 0

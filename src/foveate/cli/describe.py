"""``foveate describe``."""

from __future__ import annotations

from foveate._user_code import import_all
from foveate.cli._parser import Options, Parser, add_imports
from foveate.cli._printing import print_json

HELP = "All that is known of one mechanism."


def add_arguments(parser: Parser) -> None:
    """State what the command takes."""
    parser.add_argument("name", metavar="NAME", help="a mechanism, as in foveate list")
    add_imports(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(options: Options) -> int:
    """Print the record of a mechanism."""
    import_all(options.imports)
    from foveate.registry import describe

    known = describe(options.name).to_dict()
    if options.json:
        print_json(known)
        return 0
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
    return 0

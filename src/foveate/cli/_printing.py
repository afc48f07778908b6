"""Printing JSON and tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=2))


def print_table(head: Iterable[str], rows: Iterable[Iterable[str]], right: bool = False) -> None:
    """Print a table; ``right`` aligns all columns but the first to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    for index, title in enumerate(head):
        # Where the terminal is narrow the first column is folded, and numbers stay whole.
        numbers = right and index > 0
        table.add_column(title, justify="right" if numbers else "left", no_wrap=numbers,
                         overflow="fold")  # fmt: skip
    for row in rows:
        table.add_row(*map(Text, row))
    # What is piped into another program is not broken into lines.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(table)

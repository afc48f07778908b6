"""Tables as CSV files, whole or absent."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from foveate._files import replacing


def write_table(path: Path, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Put a CSV file at ``path``, in UTF-8."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(head)
    table.writerows(rows)
    with replacing(path) as file:
        file.write(text.getvalue().encode())

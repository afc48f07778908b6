"""Importing the modules and files in which users register what is their own."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

_IMPORTED: set[str] = set()
"""Names of the modules that :func:`import_file` has made."""


def import_all(names: Iterable[str]) -> None:
    """Import the modules and files that register the user's own mechanisms.

    Raises:
        ValueError: if one cannot be imported, with what went wrong in it.
    """
    for name in names:
        if Path(name).suffix == ".py":
            import_file(Path(name), "imports")
            continue
        sys.path.insert(0, "")
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ValueError(
                f"imports names {name!r}, which cannot be imported: {type(error).__name__}: {error}"
            ) from error


def import_file(path: Path, key: str) -> ModuleType:
    """The module in a Python file, imported once; modules beside the file can be imported by it.

    Args:
        path: of the file.
        key: of the plan that names it, for the error.

    Raises:
        ValueError: if there is no such file, it cannot be imported, or its name is that of a
            module that is not the user's.
    """
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if known is not None and path.stem not in _IMPORTED:
        raise ValueError(
            f"{key} names {str(path)!r}, and another module called {path.stem!r} is imported "
            "already: rename the file"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"{key} names {str(path)!r}, which cannot be imported: no such file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    _IMPORTED.add(path.stem)
    if (beside := str(path.parent)) not in sys.path:
        sys.path.append(beside)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[path.stem]
        raise ValueError(
            f"{key} names {str(path)!r}, which cannot be imported: {type(error).__name__}: {error}"
        ) from error
    return module

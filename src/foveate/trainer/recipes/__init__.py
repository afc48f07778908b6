"""The published trainings, as configurations by name: ``foveate train --config cswin_tiny``.

Each says in its first lines where its settings are from, on how many devices it was published, and
what it leaves out. None has been run at its full size by this project.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def list_recipes() -> list[str]:
    """Their names."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def recipe_file(name: str) -> Path | None:
    """The file of a recipe; None if there is none of that name."""
    path = _FOLDER / f"{name}.yaml"
    return path if path.is_file() else None

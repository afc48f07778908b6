"""Sphinx configuration; ``python docs/generate.py`` writes the pages under ``generated/`` first."""

from __future__ import annotations

from foveate import __version__

project = "Foveate"
copyright = "The Foveate developers"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "models-notes.md"]  # the notes are part of models.md
autodoc_typehints = "description"
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = "Foveate"

"""The public names: adding one is a decision, losing one breaks somebody."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import foveate

SOURCE = Path(foveate.__file__).parent


def public_modules() -> list[ModuleType]:
    """The modules whose names are public, in the order in which imports run.

    A package that states ``__all__`` is one of them; of another, its modules are, unless their
    names begin with an underscore. Mechanisms are reached by their registered names instead.
    """
    return [
        module
        for name in foveate._MODULES
        if name != "attention"
        for module in _modules(f"foveate.{name}")
    ]


def _modules(name: str) -> Iterator[ModuleType]:
    module = import_module(name)
    if hasattr(module, "__all__") or not hasattr(module, "__path__"):
        yield module
        return
    for path in sorted(SOURCE.parent.joinpath(*name.split(".")).iterdir()):
        if not path.name.startswith("_") and (path.is_dir() or path.suffix == ".py"):
            yield from _modules(f"{name}.{path.stem}")


def public_names(module: ModuleType) -> list[str]:
    """``__all__``, or the classes and functions that the module defines, in their order there."""
    stated = getattr(module, "__all__", None)
    if stated is not None:
        return list(stated)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]


def typed_names() -> dict[str, str]:
    """What type checkers see in ``foveate``: each name, and the module it is imported from."""
    tree = ast.parse(Path(foveate.__file__).read_text())
    block = next(
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {
        alias.asname or alias.name: node.module or ""
        for node in imports
        for alias in node.names
        if alias.asname == alias.name
    }


def test_both_statements_of_the_public_names_agree():
    running = {name: f"foveate.{home}" for name, home in foveate._HOME.items()}
    running |= dict.fromkeys(foveate._MODULES, "foveate")
    assert typed_names() == running
    assert len(foveate.__all__) == len(set(foveate.__all__))
    assert set(foveate.__all__) <= set(dir(foveate))


def test_every_package_and_module_is_public_or_says_that_it_is_not():
    found = {path.stem for path in SOURCE.iterdir() if path.is_dir() or path.suffix == ".py"}
    found = {name for name in found if not name.startswith("_")}
    # The command, and the words of the errors about arguments: nobody's to call.
    assert found - {"cli", "arguments"} == set(foveate._MODULES)


@pytest.mark.parametrize("name", foveate.__all__)
def test_every_public_name_is_found_and_documented(name):
    assert inspect.getdoc(getattr(foveate, name))


@pytest.mark.parametrize("module", public_modules(), ids=lambda module: module.__name__)
def test_what_is_public_exists_and_is_documented(module):
    assert inspect.getdoc(module)
    assert public_names(module)
    for name in public_names(module):
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            documentation = inspect.getdoc(value) or ""
            assert documentation, f"{module.__name__}.{name} has no documentation"
            # Python gives a dataclass without a docstring its signature as one.
            assert not documentation.startswith(f"{name}("), f"{module.__name__}.{name} has none"


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'create_atention'"):
        foveate.create_atention  # noqa: B018  # pyrefly: ignore

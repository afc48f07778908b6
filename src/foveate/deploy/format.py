"""What a format is: a writer, and the runtime that its file is checked in."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from torch import Tensor

from foveate.deploy.program import Deployment, ExportError
from foveate.deploy.request import AXES, Axis, Precision

Runner = Callable[[Tensor], list[Tensor]]
"""Images to outputs, by a file in its runtime."""


class Written(NamedTuple):
    """What a writer says of its file.

    Attributes:
        version: of the format, such as ``"opset 20"``.
        notes: what was chosen or is not in the file, a sentence each.
    """

    version: str
    notes: tuple[str, ...] = ()


class Format(ABC):
    """A kind of file and its runtime.

    Attributes:
        name: as ``to`` takes it.
        title: as its makers write it.
        runtime: what runs the file.
        suffix: of the file.
        extra: of this package, that installs what is needed.
        packages: modules that are needed.
        imported: modules that the runtime is.
        free: axes that a file can take at any length.
        precisions: that a file can be written in.
        runs_here: whether the runtime is one of this machine's.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    runtime: ClassVar[str]
    suffix: ClassVar[str]
    extra: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    imported: ClassVar[tuple[str, ...]] = ()
    free: ClassVar[tuple[Axis, ...]] = AXES
    precisions: ClassVar[tuple[Precision, ...]] = ("float32", "float16")
    runs_here: ClassVar[bool] = True

    @abstractmethod
    def write(self, deployment: Deployment, path: Path) -> Written:
        """Put the model at ``path``.

        Raises:
            ExportError: if the format cannot hold it.
        """

    @abstractmethod
    def open(self, path: Path, threads: int | None = None) -> Runner:
        """A file in its runtime, on this machine's CPU, in the precision that it is written in.

        Args:
            path: of the file.
            threads: how many; None for the runtime's own choice.
        """

    def annotate(self, path: Path, words: Mapping[str, str]) -> None:
        """Keep ``words`` in the file, or beside it where the format has no place for them."""
        from foveate._files import write_json

        write_json(path.with_name(path.name + ".json"), dict(words))

    def check_installed(self) -> None:
        """Raise if a package is missing, naming the extra that brings it."""
        for package in self.packages:
            if not _is_installed(package):
                raise ModuleNotFoundError(
                    f"{self.title} needs the package {package.partition('.')[0]}, which is not "
                    f"installed: pip install 'foveate[{self.extra}]'",
                    name=package,
                )


def lacking(deployment: Deployment, format_: Format, operator: str) -> ExportError:
    """The error for an operator that a format or its runtime does not have."""
    module = deployment.module_with(operator)
    where = f", which {module} uses" if module else ""
    return ExportError(f"{format_.title} has no operator {operator}{where}")


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False

r"""Record what a published implementation gives, as a case for the tests of this library.

    python tools/record_case.py se_timm --module timm.layers:SEModule \
        --kwargs '{"channels": 256}' --input x=2,256,5,4 \
        --source huggingface/pytorch-image-models@1.0.31:timm/layers/squeeze_excite.py \
        --paper "arXiv 1709.01507 Squeeze-and-Excitation Networks"

builds the module, fills its weights and inputs by their names, runs it in eval mode, and writes
``NAME.json`` and ``NAME.npz`` into ``tests/published/cases``. Parameters and running statistics are
filled; other buffers, which a module computes from its options, stay as they are. Everything is
done twice, from the constructor on: a number that differs depends on something random, which no
test could reproduce, and nothing is written.

The published code is imported from where Python finds it (``PYTHONPATH``), or from a file:
``--module path/to/attention.py:SELayer``. Only numbers enter this repository.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the tests are no installed package

from tests.published.fill import fill_input, fill_weight

CASES = Path(__file__).resolve().parents[1] / "tests" / "published" / "cases"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Input:
    """One input of the module.

    Attributes:
        name: names the generator that draws it.
        shape: its shape.
        value: what it is where it is not drawn, such as a mask or lengths.
    """

    name: str
    shape: tuple[int, ...]
    value: Tensor | None = None

    def tensor(self) -> Tensor:
        """The input itself."""
        return fill_input(self.name, self.shape) if self.value is None else self.value

    def entry(self) -> dict[str, Any]:
        """What the case states of it."""
        tensor = self.tensor()
        dtype = str(tensor.dtype).removeprefix("torch.")
        entry = {"name": self.name, "shape": list(tensor.shape), "dtype": dtype}
        return entry if self.value is None else {**entry, "value": tensor.tolist()}


@dataclass(frozen=True)
class Recording:
    """What to run.

    Attributes:
        name: of the case.
        build: called with ``kwargs``, gives the published module.
        inputs: in the order in which ``call`` takes them.
        kwargs: constructor arguments; plain values, since they are written as JSON.
        call: gives the outputs from the module and the inputs; the module itself by default.
        train: run in training mode, so that batch statistics are those of the inputs.
        fill: globs of further buffers to fill.
        keep: globs of parameters not to fill, since the module sets them from its options.
    """

    name: str
    build: Callable[..., nn.Module]
    inputs: Sequence[Input]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    call: Callable[..., Any] = lambda module, *inputs: module(*inputs)
    train: bool = False
    fill: Sequence[str] = ()
    keep: Sequence[str] = ()


def record(
    what: Recording, source: Mapping[str, str], paper: str, notes: str = "", folder: Path = CASES
) -> Path:
    """Run the published module and write the case; returns the path of its JSON file.

    Args:
        what: the module, its inputs and how it runs.
        source: ``repo``, ``commit``, ``path``, ``class`` and, where one is stated, ``license``.
        paper: the publication.
        notes: what a reader should know of the published code.
        folder: where cases are kept.

    Raises:
        FileExistsError: if there is a case of that name.
        TypeError: if the module gives something else than tensors.
        ValueError: if an output is not finite, or differs when all is done again.
    """
    path = folder / f"{what.name}.json"
    if path.exists():
        raise FileExistsError(f"{path} is there already; remove it to record it anew")
    state, parameters, outputs = _run(what)
    again = _run(what)[2]
    for name, output in outputs.items():
        if not np.isfinite(output).all():
            raise ValueError(f"output {name!r} of {what.name} is not finite")
        if not np.array_equal(output, again[name]):
            raise ValueError(
                f"output {name!r} of {what.name} differs from run to run: something random is left "
                "in the module (dropout, or a buffer that is drawn; see --fill)"
            )
    meta = {
        "name": what.name,
        "paper": paper,
        "source": dict(source),
        "kwargs": dict(what.kwargs),
        "inputs": [given.entry() for given in what.inputs],
        "outputs": {name: list(output.shape) for name, output in outputs.items()},
        "params": parameters,
        "notes": notes,
        "state": state,
    }
    text = json.dumps(meta, indent=1) + "\n"  # before anything is written: kwargs may not be plain
    np.savez_compressed(path.with_suffix(".npz"), **outputs)
    path.write_text(text)
    return path


def _run(what: Recording) -> tuple[list[dict[str, Any]], int, dict[str, np.ndarray]]:
    """The state's entries, the number of parameters, and the outputs."""
    module = what.build(**what.kwargs)
    names = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    entries = [
        {"key": key, "shape": list(value.shape), "fill": _is_filled(key, names, what)}
        | ({"param": True} if key in names else {})
        for key, value in module.state_dict().items()
    ]
    filled = {e["key"]: fill_weight(e["key"], e["shape"]) for e in entries if e["fill"]}
    module.load_state_dict(filled, strict=False)
    module.train(what.train)
    with torch.no_grad():
        outputs = what.call(module, *(given.tensor() for given in what.inputs))
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return entries, parameters, _named(outputs)


def _is_filled(key: str, parameters: set[str], what: Recording) -> bool:
    if any(fnmatch.fnmatchcase(key, glob) for glob in what.keep):
        return False
    statistics = key.rpartition(".")[2] in STATISTICS
    asked = any(fnmatch.fnmatchcase(key, glob) for glob in what.fill)
    return key in parameters or statistics or asked


def _named(outputs: Any) -> dict[str, np.ndarray]:
    """A tensor as ``y``, several as ``y0``, ``y1``, ..., a mapping by its own names."""
    if isinstance(outputs, Tensor):
        outputs = {"y": outputs}
    elif isinstance(outputs, tuple | list):
        outputs = {f"y{i}": output for i, output in enumerate(outputs)}
    if not isinstance(outputs, Mapping) or not all(isinstance(o, Tensor) for o in outputs.values()):
        raise TypeError("expected a tensor, several, or tensors by name; choose them with --call")
    return {name: output.float().numpy() for name, output in outputs.items()}


def table_row(what: Recording, mechanism: str = "Ours") -> str:
    """The row to add to ``tests/published/tables``, from which to work on."""
    arguments = ", ".join(what.kwargs)
    train = ", train=True" if what.train else ""
    return f'Row("{what.name}", lambda {arguments}: {mechanism}({arguments}){train}),'.replace(
        "lambda :", "lambda:"
    )


def _find(text: str) -> Any:
    """What ``package.module:NAME`` or ``path/to/file.py:NAME`` stands for."""
    where, colon, name = text.rpartition(":")
    if not colon:
        raise ValueError(f"expected MODULE:NAME or FILE.py:NAME, got {text!r}")
    if not where.endswith(".py"):
        return getattr(importlib.import_module(where), name)
    spec = importlib.util.spec_from_file_location(Path(where).stem, where)
    if spec is None or spec.loader is None or not Path(where).is_file():
        raise ValueError(f"there is no Python file {where!r}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def _drawn(text: str) -> Input:
    name, equals, shape = text.partition("=")
    if not equals or not all(side.isdigit() for side in shape.split(",")):
        raise argparse.ArgumentTypeError(f"expected NAME=N,N,..., got {text!r}")
    return Input(name, tuple(int(side) for side in shape.split(",")))


def _given(text: str) -> Input:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=JSON, got {text!r}")
    tensor = torch.tensor(json.loads(value))
    return Input(name, tuple(tensor.shape), tensor)


def _source(text: str, cls: str, license: str) -> dict[str, str]:
    repository, at, rest = text.partition("@")
    commit, colon, path = rest.partition(":")
    if not at or not colon:
        raise ValueError(f"--source takes OWNER/REPOSITORY@COMMIT:PATH, got {text!r}")
    source = {"repo": repository, "commit": commit, "path": path, "class": cls}
    return {**source, "license": license} if license else source


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add("name", help="of the case")
    add("--module", required=True, help="MODULE:NAME or FILE.py:NAME of the class or a function")
    add("--kwargs", default="{}", metavar="JSON", help="its constructor arguments")
    add(
        "--input",
        dest="inputs",
        action="append",
        type=_drawn,
        metavar="NAME=N,N,...",
        help="an input to draw; inputs are passed in the order given",
    )
    add(
        "--value",
        dest="inputs",
        action="append",
        type=_given,
        metavar="NAME=JSON",
        help="an input of these values, such as a mask",
    )
    add("--call", help="MODULE:NAME or FILE.py:NAME of a function of the module and the inputs")
    add("--train", action="store_true", help="run in training mode")
    add("--fill", nargs="*", default=[], metavar="GLOB", help="further buffers to fill")
    add("--keep", nargs="*", default=[], metavar="GLOB", help="parameters not to fill")
    add("--source", required=True, help="OWNER/REPOSITORY@COMMIT:PATH of the published code")
    add("--license", default="", help="of the published code, where it states one")
    add("--paper", required=True, help="the publication")
    add("--notes", default="", help="what a reader should know of the published code")
    add("--out", type=Path, default=CASES, help="where cases are kept")
    options = parser.parse_args(arguments)
    if not options.inputs:
        parser.error("state at least one --input or --value")
    given = {} if options.call is None else {"call": _find(options.call)}
    what = Recording(
        options.name,
        _find(options.module),
        options.inputs,
        json.loads(options.kwargs),
        train=options.train,
        fill=options.fill,
        keep=options.keep,
        **given,
    )
    cls = options.module.rpartition(":")[2]
    source = _source(options.source, cls, options.license)
    path = record(what, source, options.paper, options.notes, options.out)
    print(f"wrote {path} and {path.with_suffix('.npz').name}")
    print("to the table of its family in tests/published/tables add, with our class and options:")
    print(f"    {table_row(what)}")


if __name__ == "__main__":
    main()

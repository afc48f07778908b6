"""The library of kernels and the Python description of its arguments are checked when they meet."""

from __future__ import annotations

import ctypes
import re
import shutil
import struct
import subprocess
from enum import IntEnum
from pathlib import Path

import pytest

from foveate.ops.native import interface, library
from foveate.ops.native.interface import Library, MismatchError, Run, View

NATIVE = Path(interface.__file__).parent

needs_native = pytest.mark.skipif(not library.available(), reason=library.why_not())
needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")


def path() -> Path:
    return library._library().path


def built(folder: Path, header: str, old: str, new: str) -> Path:
    """The library's table alone, from sources of which one line is another."""
    sources = folder / "native"
    shutil.copytree(NATIVE, sources, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    text = (sources / header).read_text()
    assert text.count(old) == 1, f"{header} has not one line {old!r}"
    (sources / header).write_text(text.replace(old, new))
    target = folder / "libchanged.so"
    command = ["cc", "-shared", "-fPIC", "-fvisibility=hidden", "-o", target]
    subprocess.run([*command, sources / "common" / "layouts.c"], check=True)
    return target


@needs_compiler
@pytest.mark.parametrize(
    ("header", "old", "new", "told"),
    [
        pytest.param(
            "local/arguments.h",
            "FIELD(S, int64_t, heads) ",
            "FIELD(S, int64_t, heads) FIELD(S, int64_t, groups) ",
            r"fv_local_arguments\.groups is 8 bytes of kind q at byte \d+ in C and absent",
            id="added",
        ),
        pytest.param(
            "slide/arguments.h",
            "FIELD(S, int64_t, kernel_w) ",
            "",
            r"fv_slide_arguments\.storage is .* at byte (\d+) in C and .* at byte (?!\1)\d",
            id="removed",
        ),
        pytest.param(
            "window/arguments.h",
            "FIELD(S, int64_t, spread) ",
            "FIELD(S, int64_t, dilated) ",
            r"fv_window_arguments\.dilated is .* in C and absent in Python",
            id="renamed",
        ),
        pytest.param(
            "common/arguments.h",
            "FIELD(S, double, scale) ",
            "FIELD(S, int64_t, scale) ",
            r"fv_run\.scale is .* kind q .* in C and .* kind d .* in Python",
            id="of another type",
        ),
        pytest.param(
            "local/arguments.h",
            "CONSTANT(BORDER, ZERO) ",
            "",
            r"BORDER MASK is .* in C and .* in Python",
            id="constant",
        ),
        pytest.param(
            "common/kernels.inc",
            "KERNEL(slide_backward, fv_slide_arguments)",
            "KERNEL(slide_backward, fv_window_arguments)",
            r"KERNEL slide_backward is .*fv_window_arguments.* in C and .*fv_slide_arguments",
            id="kernel",
        ),
    ],
)
def test_change_in_c_alone_is_refused(
    tmp_path: Path, header: str, old: str, new: str, told: str
) -> None:
    with pytest.raises(MismatchError, match=told) as caught:
        Library(built(tmp_path, header, old, new))
    assert "build_native.sh" in str(caught.value)


@needs_compiler
def test_unchanged_sources_are_taken(tmp_path: Path) -> None:
    line = "FIELD(S, int64_t, kernel_w) "
    Library(built(tmp_path, "slide/arguments.h", line, line))


@needs_native
def test_change_in_python_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = interface.WindowArguments.__annotations__
    fewer = {name: kind for name, kind in fields.items() if name != "spread"}
    monkeypatch.setattr(interface.WindowArguments, "__annotations__", fewer)
    with pytest.raises(MismatchError, match=r"fv_window_arguments\.spread is .* absent in Python"):
        Library(path())


@needs_native
def test_constant_of_another_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    members = {member.name: member.value for member in interface.Border}
    swapped = IntEnum("Border", members | {"SHIFT": 1, "ZERO": 0})
    monkeypatch.setattr(interface, "CONSTANTS", interface.CONSTANTS | {"BORDER": swapped})
    with pytest.raises(MismatchError, match="BORDER SHIFT"):
        Library(path())


@needs_compiler
def test_operators_say_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not fall back to the portable form, which would run unnoticed and slowly."""
    changed = built(tmp_path, "window/arguments.h", "FIELD(S, int64_t, spread) ", "")
    library._load.cache_clear()
    monkeypatch.setattr(library, "_places", lambda stack: [changed])
    try:
        with pytest.raises(MismatchError, match="fv_window_arguments"):
            library.available()
    finally:
        monkeypatch.undo()
        library._load.cache_clear()


@needs_compiler
def test_library_without_a_table_is_refused(tmp_path: Path) -> None:
    source, target = tmp_path / "old.c", tmp_path / "libold.so"
    source.write_text("int foveate_isa(void) { return 0; }")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", target, source], check=True)
    with pytest.raises(MismatchError, match="holds no table"):
        Library(target)


def test_nested_structs_are_packed_in_their_places() -> None:
    run, view = Run(1, 2, 3, 4, 0.5, 2.0), View(10, 11, 12, 13, 14, 15)
    sizes = range(20, 34)
    packed = interface.packer(interface.WindowArguments)(
        interface.WindowArguments(run, view, view, view, view, *sizes, bias=40, dq=41)
    )
    found = struct.unpack("@4q2d", packed[:48]), struct.unpack("@24q14q", packed[48:352])
    assert found == ((1, 2, 3, 4, 0.5, 2.0), (*[*view] * 4, *sizes))
    assert struct.unpack("@6P", packed[352:]) == (40, 0, 41, 0, 0, 0)


@needs_compiler
def test_library_without_openmp_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "libserial.so"
    sources = [NATIVE / "common" / name for name in ("layouts.c", "dispatch.c")]
    subprocess.run(["cc", "-shared", "-fPIC", "-o", target, *sources], check=True)
    monkeypatch.setattr(library, "_library", lambda: Library(target))
    assert "OpenMP" in library.threads()


@needs_native
def test_every_kernel_that_is_listed_is_there() -> None:
    functions = ctypes.CDLL(str(path()))
    text = (NATIVE / "common/kernels.inc").read_text()
    listed = re.findall(r"^KERNEL\((\w+),", text, re.MULTILINE)
    assert sorted(listed) == sorted(interface.KERNELS)
    assert library.instruction_set() in library.instruction_sets()
    for name in listed:
        for isa in library.instruction_sets():
            assert hasattr(functions, f"{name}_{isa}")

"""The compiled kernels under the address and undefined-behaviour sanitizers.

They are built anew with both and with asserts, and loaded by a Python with the sanitizer's
allocator that imports NumPy but not PyTorch, some of whose extensions do not bear the address
sanitizer. Fresh memory is full of NaN.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from foveate.ops.native import library

ROOT = Path(__file__).parents[2]
SANITIZERS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"


@pytest.fixture(scope="module")
def runtime() -> str:
    """The address sanitizer's runtime, to be loaded before everything else."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if sys.platform != "linux" or not compiler or not shutil.which("cmake"):
        pytest.skip("needs Linux, a C compiler and cmake")
    asked = [compiler, "-print-file-name=libasan.so"]
    path = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    if not os.path.isabs(path):
        pytest.skip("the C compiler comes without GCC's address sanitizer")
    return path


def build(folder: Path, without: tuple[str, ...] = ()) -> Path:
    configure = ["cmake", "-S", ROOT, "-B", folder, "-DCMAKE_BUILD_TYPE=Debug"]
    configure += [f"-Dcompiler_knows_{isa}=NO" for isa in without]
    for command in (
        [*configure, f"-DCMAKE_C_FLAGS={SANITIZERS}"],
        ["cmake", "--build", folder, "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "libfoveate_ops.so"


def sweep(kernels: Path, runtime: str, cases: int) -> None:
    pytest.importorskip("numpy")
    settings = "detect_leaks=0:max_malloc_fill_size=16777216:malloc_fill_byte=255:print_legend=0"
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "ops" / "sanitized.py", kernels, str(cases)],
        env=os.environ
        | {
            "LD_PRELOAD": runtime,
            "ASAN_OPTIONS": settings,
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "OPENBLAS_NUM_THREADS": "1",
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    last = max(done.stderr.rfind(f"{case}_case ") for case in ("local", "slide", "window"))
    assert done.returncode == 0, "\n".join(done.stderr[max(last, 0) :].splitlines()[:30])
    assert "instruction sets: " in done.stdout


@pytest.mark.slow  # before a change of the C sources lands: see CONTRIBUTING.md
@pytest.mark.timeout(900)  # most of it compiles
def test_kernels_keep_to_their_memory(runtime: str, tmp_path: Path) -> None:
    """In the build for this machine and in the generic one; compiling all takes longer."""
    best = library.instruction_set() if library.available() else "generic"
    others = tuple({"v3", "v4"} - {best})
    sweep(build(tmp_path, without=others), runtime, cases=100)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kernels_keep_to_their_memory_over_many_cases(runtime: str, tmp_path: Path) -> None:
    sweep(build(tmp_path), runtime, cases=1500)

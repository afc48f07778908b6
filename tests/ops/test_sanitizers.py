"""The compiled kernels under the address and undefined-behaviour sanitizers.

They are built anew with both, for every instruction set of this machine, and loaded by a Python
that runs with the sanitizer's allocator: the tensors that PyTorch allocates are guarded too. Fresh
memory is full of NaN.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.fixture(scope="module")
def sanitized_library(runtime: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("sanitized")
    configure = ["cmake", "-S", ROOT, "-B", build, "-DCMAKE_BUILD_TYPE=Debug"]
    for command in (
        [*configure, f"-DCMAKE_C_FLAGS={SANITIZERS}"],
        ["cmake", "--build", build, "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return build / "libfoveate_ops.so"


def sweep(library: Path, runtime: str, cases: int) -> None:
    settings = "detect_leaks=0:max_malloc_fill_size=16777216:malloc_fill_byte=255:print_legend=0"
    done = subprocess.run(
        [sys.executable, "-m", "tests.ops.sanitized", library, str(cases)],
        env=os.environ
        | {
            "LD_PRELOAD": runtime,
            "ASAN_OPTIONS": settings,
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
        },
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    last = max(0, *(done.stderr.rfind(f"\n{case}_case ") for case in ("local", "slide")))
    assert done.returncode == 0, "\n".join(done.stderr[last:].splitlines()[:30])
    assert "generic" in done.stdout


def test_kernels_keep_to_their_memory(sanitized_library: Path, runtime: str) -> None:
    sweep(sanitized_library, runtime, cases=40)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kernels_keep_to_their_memory_over_many_cases(
    sanitized_library: Path, runtime: str
) -> None:
    sweep(sanitized_library, runtime, cases=2000)

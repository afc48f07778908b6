from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

HEAVY = ("lightning", "torchvision", "plotly", "matplotlib", "sklearn", "scipy", "onnx", "gradio")


def test_imports_run_one_way():
    cli = pytest.importorskip("importlinter.cli")
    source = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import {cli.__name__} as c; "
    done = _python(source + "sys.exit(c.lint_imports(cache_dir=None))", cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_core_imports_little_and_quietly():
    done = _python(
        "import sys, foveate; foveate.list_attention(); import foveate.checks; "
        f"print([name for name in {HEAVY!r} if name in sys.modules])",
        flags=("-W", "error::UserWarning:foveate"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert done.stderr == ""


def test_the_public_names_load_without_torch():
    done = _python("import sys, foveate; print('torch' in sys.modules, foveate.__version__)")
    assert done.stdout.split()[0] == "False"


def _python(program: str, flags: tuple[str, ...] = (), cwd: Path | None = None):
    command = [sys.executable, *flags, "-c", program]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, cwd=cwd
    )

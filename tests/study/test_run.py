"""A run directory is one study's and one process's, and what is there already stays."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from foveate.study import run as module
from foveate.study.lock import lock
from foveate.study.plan import Plan, load_plan
from foveate.study.run import DiskFullError, Run, StudyError


def test_a_directory_is_begun_once_and_then_its_own(tmp_path):
    root = tmp_path / "a" / "run"
    assert Run.begin(root, Plan()).new
    again = Run.begin(root, Plan())
    assert not again.new
    with pytest.raises(StudyError, match=r"belongs to another plan .epochs is 10 there and 3 here"):
        Run.begin(root, Plan(epochs=3))
    assert load_plan(root / "plan.yaml") == Plan()


def test_what_is_there_and_no_run_stays(tmp_path):
    file = tmp_path / "thesis.tex"
    file.write_text("x")
    with pytest.raises(StudyError, match="is there already and is no run directory"):
        Run.begin(tmp_path, Plan())
    for place in (file, file / "run"):
        with pytest.raises(StudyError, match=r"cannot be written to .*; choose another --out"):
            Run.begin(place, Plan())
        with pytest.raises(StudyError, match="is no run directory"):
            Run.open(place)
    assert file.read_text() == "x"
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.EACCES, StudyError, "cannot be written to"),
        (errno.EROFS, StudyError, "cannot be written to"),
        (errno.ENOSPC, DiskFullError, "the disk is full"),
    ],
)
def test_a_directory_that_takes_no_files_is_told(tmp_path, monkeypatch, number, kind, message):
    run = Run.begin(tmp_path / "run", Plan())

    def refuse(path: Path, patience: float):
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(module, "lock", refuse)
    with pytest.raises(kind, match=message):
        Run.begin(tmp_path / "other", Plan())
    with pytest.raises(kind, match=message), run.locked():
        pass


def test_an_error_of_another_place_passes(tmp_path):
    run = Run.begin(tmp_path / "run", Plan())
    with pytest.raises(FileNotFoundError), run.locked():
        (tmp_path / "no such file").read_text()


def test_a_directory_at_work_is_not_begun_by_another(tmp_path):
    root = tmp_path / "run"
    with lock(root / ".lock", 0), pytest.raises(StudyError, match="another process is at work in"):
        Run.begin(root, Plan())
    assert Run.begin(root, Plan()).new


def test_of_two_plans_that_begin_at_once_one_is_refused(tmp_path):
    together = threading.Barrier(2)

    def begin(epochs: int) -> str:
        together.wait()
        try:
            return str(Run.begin(tmp_path / "run", Plan(epochs=epochs)).new)
        except StudyError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        said = dict(zip((3, 4), pool.map(begin, (3, 4)), strict=True))
    (winner,) = [epochs for epochs, what in said.items() if what == "True"]
    assert "belongs to another plan" in said[7 - winner]
    assert load_plan(tmp_path / "run" / "plan.yaml").epochs == winner

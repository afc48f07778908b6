"""Looking at the run directories in a folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from foveate.cli import main
from foveate.study.entry import Entry
from foveate.study.lock import lock
from foveate.study.plan import Plan
from foveate.study.runs import list_runs

PLAN = Plan(attention=(Entry("cbam"),), controls=(Entry("none", control=True),), seeds=(0, 1))
RUN_0_1 = Path(__file__).parent / "run_0_1"


def make(root: Path, *statuses: str, report: bool = False) -> Path:
    """A run directory with trials of these states, in the order of the plan."""
    root.mkdir(parents=True)
    (root / "plan.yaml").write_text(PLAN.to_yaml())
    for (entry, seed), status in zip(PLAN.trials, statuses, strict=False):
        folder = root / "trials" / f"{entry.key}-seed{seed}"
        folder.mkdir(parents=True)
        (folder / "trial.json").write_text(json.dumps({"status": status}))
    if report:
        (root / "report.html").write_text("")
        (root / "verdict.json").write_text(json.dumps({"answer": "Yes: it is."}))
    return root


def said(folder: Path) -> dict[str, str]:
    return {run.root.name: run.said for run in list_runs([folder])}


def test_states_are_told_from_what_lies_there(tmp_path):
    make(tmp_path / "begun")
    make(tmp_path / "half", "done", "failed")
    make(tmp_path / "unreported", *["done"] * 4)
    make(tmp_path / "whole", *["done"] * 4, report=True)
    make(tmp_path / "partly", *["done"] * 3, "failed", report=True)
    (tmp_path / "notes").mkdir()
    with lock(make(tmp_path / "working", "done") / ".lock", 0):
        assert said(tmp_path) == {
            "begun": "interrupted, 0 of 4 trials",
            "half": "interrupted, 2 of 4 trials, 1 failed",
            "unreported": "interrupted, 4 of 4 trials",
            "whole": "finished",
            "partly": "finished, 1 failed",
            "working": "running, 1 of 4 trials",
        }
    assert said(tmp_path / "working") == {"working": "interrupted, 1 of 4 trials"}


def test_damaged_ones_are_named_and_the_others_are_listed(tmp_path):
    make(tmp_path / "whole", *["done"] * 4, report=True)
    (make(tmp_path / "no-plan") / "plan.yaml").write_text("epochs: many")
    (make(tmp_path / "lost", "done") / "plan.yaml").unlink()
    torn = make(tmp_path / "torn", "done") / "trials" / "cbam-seed0" / "trial.json"
    torn.write_text("{")
    found = said(tmp_path)
    assert found.pop("whole") == "finished"
    assert all(state.startswith("damaged: ") for state in found.values())
    assert "epochs must be a whole number" in found["no-plan"]
    assert "does not exist" in found["lost"]
    assert str(torn) in found["torn"]


def test_a_run_of_an_earlier_version_has_its_verdict_computed(tmp_path):
    shutil.copytree(RUN_0_1, tmp_path / "run")
    (tmp_path / "run" / "report.html").write_text("")
    (run,) = list_runs([tmp_path])
    assert run.state == "finished"
    assert run.answer


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    make(tmp_path / "whole", *["done"] * 4, report=True)
    assert main(["runs", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "finished" in printed
    assert "Yes: it is." in printed
    assert main(["runs", str(tmp_path / "whole"), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert (run["state"], run["done"], run["total"]) == ("finished", 4, 4)
    assert (run["task"], run["host"], run["data"]) == ("classification", PLAN.host, "characters")


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        list_runs([tmp_path / "runs"])


def test_two_hundred_runs_are_listed_without_torch(tmp_path):
    for number in range(200):
        make(tmp_path / f"{number:03d}", *["done"] * 4, report=True)
    code = (
        "import sys\n"
        "from foveate.cli import main\n"
        f"main(['runs', {str(tmp_path)!r}])\n"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("finished") == 200
    assert time.monotonic() - began < 30  # 2 s where nothing else runs

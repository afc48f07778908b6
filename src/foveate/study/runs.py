"""Which studies lie in a folder, how far each is, and what it came to.

A directory is only looked at: PyTorch is not needed, and a study that runs is not disturbed.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from foveate import _fields as fields
from foveate._files import read_json
from foveate.study.lock import LOCK, lock
from foveate.study.plan import Plan, PlanError, load_plan

VERDICT = "verdict.json"
"""What the end of a study notes for the list: the verdict's first sentence."""

State = Literal["running", "finished", "interrupted", "damaged"]


class Found(NamedTuple):
    """A run directory.

    Attributes:
        root: its path.
        state: running while a process is at work in it; finished when its report is that of all
            trials; damaged where its plan, or the record of a trial, cannot be read.
        begun: when, in UTC, to the second.
        done: trials that ended well.
        failed: trials that did not.
        total: trials of the plan.
        task: of the plan; None where that is damaged, and likewise below.
        host: the model that mechanisms stand in.
        data: a name or path.
        answer: the verdict's first sentence, of a finished study.
        damage: which file cannot be read, and why.
        unit: what is counted.
    """

    root: Path
    state: State
    begun: str | None = None
    done: int = 0
    failed: int = 0
    total: int = 0
    task: str | None = None
    host: str | None = None
    data: str | None = None
    answer: str | None = None
    damage: str | None = None
    unit: str = "trials"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**self._asdict(), "root": str(self.root)}

    @property
    def said(self) -> str:
        """The state in words, such as ``interrupted, 5 of 12 trials, 1 failed``."""
        if self.state == "damaged":
            return f"damaged: {self.damage}"
        over = self.done + self.failed
        parts: list[str] = [self.state]
        if self.state != "finished":
            parts.append(f"{over} of {self.total} {self.unit}")
        if self.failed:
            parts.append(f"{self.failed} failed")
        return ", ".join(parts)


def list_runs(folders: Sequence[str | os.PathLike[str]] = ("runs",)) -> list[Found]:
    """The run directories in some folders, the latest first.

    Args:
        folders: each a run directory or a folder of run directories.

    Raises:
        FileNotFoundError: if one is no folder.
    """
    found = [_look(root) for folder in folders for root in _roots(Path(folder))]
    return sorted(found, key=lambda run: (run.begun or "", str(run.root)), reverse=True)


def _roots(folder: Path) -> Iterator[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}; studies lie where --out said, by default under runs/"
        )
    if (folder / "plan.yaml").exists():
        yield folder
        return
    for path in sorted(folder.iterdir()):
        if (path / "plan.yaml").exists() or (path / "trials").is_dir():
            yield path


def _look(root: Path) -> Found:
    try:
        plan = load_plan(root / "plan.yaml")
    except PlanError as error:
        return Found(root, "damaged", begun(root), damage=str(error))
    known = Found(
        root, "interrupted", begun(root), total=len(plan.trials), task=plan.task, host=plan.host,
        data=plan.data,
    )  # fmt: skip
    try:
        count = Counter(_statuses(root, plan))
    except ValueError as error:
        return known._replace(state="damaged", damage=str(error))
    known = known._replace(done=count["done"], failed=count["failed"])
    if is_locked(root):
        return known._replace(state="running")
    if count.total() < known.total or not _is_reported(root):
        return known
    return known._replace(state="finished", answer=_answer(root, plan))


def _statuses(root: Path, plan: Plan) -> Iterator[str]:
    """Of each trial that is over."""
    for entry, seed in plan.trials:
        path = root / "trials" / f"{entry.key}-seed{seed}" / "trial.json"
        try:
            yield fields.text(read_json(path), "status")
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} cannot be read ({error})") from error


def is_locked(root: Path) -> bool:
    """Whether a process is at work there; one that another user owns cannot be told."""
    if not (root / LOCK).exists():
        return False
    try:
        with lock(root / LOCK, 0.0) as ours:
            return not ours
    except OSError:
        return False


def _is_reported(root: Path) -> bool:
    """Whether the report is there and no trial has ended since."""
    try:
        reported = (root / "report.html").stat().st_mtime_ns
    except OSError:
        return False
    return all(path.stat().st_mtime_ns <= reported for path in root.glob("trials/*/trial.json"))


def _answer(root: Path, plan: Plan) -> str | None:
    """As the end of the study noted it; of an earlier version's, computed again."""
    try:
        return fields.text(read_json(root / VERDICT), "answer")
    except FileNotFoundError:
        return _answer_again(root, plan)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _answer_again(root: Path, plan: Plan) -> str | None:
    from foveate.study.answer import answer
    from foveate.study.results import read_results
    from foveate.study.statistics import judge

    try:
        results = read_results(root, plan)
    except ValueError:
        return None
    return answer(
        results, judge(results.scores, results.controls, results.metric, results.unhealthy)
    )


def begun(root: Path, file: str = "plan.yaml") -> str | None:
    """When a run began, in UTC, to the second; by ``file`` where nothing says it."""
    try:
        return str(json.loads((root / "environment.json").read_text())["started"])[:19]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        seconds = (root / file).stat().st_mtime
    except OSError:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")[:19]

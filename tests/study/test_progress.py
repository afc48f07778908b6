"""How long a study still takes, against studies whose times are known."""

from __future__ import annotations

import pytest

from foveate.study.plan import Plan
from foveate.study.progress import ProgressBars, ProgressLines, Remaining, show_duration
from foveate.study.records import BatchDone

COST = {"slide": 25.0, "window": 20.0, "multi_head": 18.0, "cbam": 16.0, "none": 14.0}
SEEDS = 3


def play(workers: int, steps: dict[str, float]) -> list[tuple[int, float, float]]:
    """Trials over, seconds foreseen and seconds that it took from there, after every trial.

    A trial runs at an even pace; its process takes another second to start.
    """
    names = {f"{row}, seed {seed}": row for seed in range(SEEDS) for row in COST}
    now = 0.0
    told = Remaining(names, workers, steps, clock=lambda: now)
    waiting = list(names)
    running: dict[str, float] = {}
    foreseen = []
    done = 0
    while waiting or running:
        while waiting and len(running) < workers:
            name = waiting.pop(0)
            running[name] = now
            told.begin(name)
        now += 0.5
        for name, begun in list(running.items()):
            length = COST[names[name]] + 1
            told.at(name, min(10.0, 10 * (now - begun) / length), 10)
            if now - begun >= length:
                del running[name]
                told.end(name)
                done += 1
                seconds = told.seconds()
                assert seconds is not None
                foreseen.append((done, seconds, now))
    return [(done, seconds, now - at) for done, seconds, at in foreseen]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_time_left_holds_from_the_first_trial_on(workers):
    """The dearest row comes first; what a step of each costs tells that the others are cheaper."""
    for _, foreseen, took in play(workers, COST)[: 2 * len(COST)]:
        assert foreseen == pytest.approx(took, rel=0.3)


def test_without_measured_steps_it_holds_once_every_row_has_run():
    for done, foreseen, took in play(1, {}):
        if len(COST) <= done < SEEDS * len(COST):
            assert foreseen == pytest.approx(took, rel=0.1)


def test_nothing_is_said_before_there_is_a_speed():
    now = 0.0
    told = Remaining({"a, seed 0": "a"}, 1, {}, clock=lambda: now)
    assert told.seconds() is None
    told.begin("a, seed 0")
    now = 1.0
    told.at("a, seed 0", 0.05, 10)
    assert told.seconds() is None


def test_what_lay_in_a_checkpoint_took_no_time():
    """Half of it was done before; the other half takes ten seconds."""
    now = 0.0
    told = Remaining({"a, seed 0": "a", "a, seed 1": "a"}, 1, {}, clock=lambda: now)
    told.begin("a, seed 0")
    for step in range(1, 11):
        now = float(step)
        told.at("a, seed 0", 5 + step / 2, 10)
    told.end("a, seed 0")
    assert told.seconds() == pytest.approx(20)


def test_durations():
    assert [show_duration(s) for s in (1, 42, 100, 3000, 9000)] == [
        "5 s", "40 s", "2 min", "50 min", "2.5 h"
    ]  # fmt: skip


@pytest.mark.parametrize("kind", [ProgressLines, ProgressBars])
def test_images_that_are_read_in_place_of_others_are_one_line(kind, capsys):
    with kind() as show:
        for done, total in ((1, 2), (2, 2), (3, 3)):  # one of the first two could not be read
            show.images(done, total)
        show.images_done()
    assert capsys.readouterr().out.count("read 3 images") == 1


def test_a_terminal_shows_some_bars_and_counts_the_rest():
    shown = ProgressBars()
    shown.study(0, 40)
    names = [f"slide, seed {number}" for number in range(40)]
    for name in names:
        shown.begin(name)
    tasks = {task.description: task for task in shown._bars.tasks}
    assert [tasks[name].visible for name in names] == [True] * 12 + [False] * 28
    shown.event(names[0], BatchDone(0, 1, 2), Plan())
    assert "28 more at work" in tasks["study"].fields["note"]
    shown.end(names[0], "done", trial=True)
    assert tasks[names[12]].visible

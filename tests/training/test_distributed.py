"""Several processes: the numbers of one, for every task; what they do when one of them is lost."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from foveate.training import Distribution, Recipe, train
from foveate.training.distributed import resolved
from tests.training.jobs import JOBS
from tests.training.pictures import Pictures, classifier, task

LAUNCH = (
    "import sys; from foveate.training.launch import launch; "
    "sys.exit(launch([sys.executable, '-m', 'tests.training.jobs', *sys.argv[1:]], 2))"
)
ROOT = Path(__file__).parents[2]


def started(arguments, log, **environment):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    with open(log, "w") as file:
        return subprocess.Popen(
            [sys.executable, *map(str, arguments)], stdout=file, stderr=file, cwd=ROOT,
            env=environment,
        )  # fmt: skip


def in_two(root: Path, *jobs: str) -> dict[str, list]:
    """What each of two processes found."""
    process = started(["-m", "tests.training.jobs", "--two", root, *jobs], root / "log")
    assert process.wait(300) == 0, (root / "log").read_text()
    return {
        job: [json.loads((root / f"{job}.{rank}.json").read_text()) for rank in (0, 1)]
        for job in jobs
    }


def flat(found, name=""):
    """Every number by its path."""
    if isinstance(found, dict | list):
        items = found.items() if isinstance(found, dict) else enumerate(found)
        return {k: v for key, part in items for k, v in flat(part, f"{name}.{key}").items()}
    return {name: found}


def check(job, several, tmp_path):
    directory = tmp_path / f"one_{job}"
    directory.mkdir()
    one = flat(json.loads(json.dumps(JOBS[job](directory))))
    for found in several:
        two = flat(found)
        assert two.keys() == one.keys()
        for name, value in one.items():
            same = two[name] == pytest.approx(value, rel=2e-4, abs=2e-6)
            assert same or math.isnan(value), (job, name, value, two[name])


FAST = ("classification", "segmentation", "retinanet")
SLOW = ("everything", "mask_rcnn", "vit", "pyramid")


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return in_two(tmp_path_factory.mktemp("fast"), *FAST)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    return in_two(tmp_path_factory.mktemp("slow"), *SLOW)


@pytest.mark.parametrize("job", FAST)
def test_two_processes_give_the_numbers_of_one(job, fast, tmp_path):
    check(job, fast[job], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("job", SLOW)
def test_two_processes_give_the_numbers_of_one_with_all_that_there_is(job, slow, tmp_path):
    check(job, slow[job], tmp_path)


@pytest.mark.slow
def test_lightning_starts_the_other_process_where_nothing_else_did(tmp_path):
    process = started(["-m", "tests.training.jobs", tmp_path, "by_lightning"], tmp_path / "log")
    assert process.wait(300) == 0, (tmp_path / "log").read_text()
    check("classification", [json.loads((tmp_path / "by_lightning.0.json").read_text())], tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("which", [0, 1])
def test_a_process_that_is_killed_ends_the_other_and_going_on_gives_the_same(tmp_path, which):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    undisturbed = in_two(whole, "long")["long"]
    agent = started(["-c", LAUNCH, cut, "long"], cut / "log")
    deadline = time.monotonic() + 300
    while not (cut / "long" / "last.ckpt").exists():
        assert time.monotonic() < deadline, (cut / "log").read_text()
        time.sleep(0.02)
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    os.kill(int(children[which]), signal.SIGKILL)
    assert agent.wait(130) == 1
    text = (cut / "log").read_text()
    assert "of 2 was ended by signal 9, and the others were ended with it" in text
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert not (cut / "long.0.json").exists()
    assert in_two(cut, "long")["long"] == undisturbed


@pytest.mark.slow
def test_processes_whose_starter_is_killed_end_themselves(tmp_path):
    agent = started(["-c", LAUNCH, tmp_path, "long"], tmp_path / "log")
    deadline = time.monotonic() + 300
    while not (tmp_path / "long" / "last.ckpt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    agent.kill()
    agent.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_a_port_in_use_is_said_in_a_line_and_no_process_is_left(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = started(
            ["-m", "tests.training.jobs", tmp_path, "by_lightning"], tmp_path / "log",
            MASTER_PORT=port,
        )  # fmt: skip
        assert process.wait(300) == 1
    expected = f"ValueError: the port of 127.0.0.1:{port}, by which the processes would meet, is in"
    assert expected in (tmp_path / "log").read_text()


def test_each_image_held_out_is_in_one_share_in_order():
    for images, batch, world_size in ((11, 4, 2), (7, 3, 3), (5, 16, 5), (9, 4, 4)):
        held_out = Pictures(images, batch, None)
        held_out.labels = torch.arange(images)
        shares = [held_out.share(rank, world_size) for rank in range(world_size)]
        parts = [[labels for _, labels in share] for share in shares]
        assert torch.cat([labels for part in parts for labels in part]).tolist() == list(
            range(images)
        )
        assert [len(share) for share in shares] == [len(part) for part in parts]


def test_shares_of_a_batch_are_the_batch_in_every_epoch():
    learning = Pictures(26, 8, seed=3)
    shares = [learning.share(rank, 4) for rank in range(4)]
    for epoch in range(2):
        for each in (learning, *shares):
            each.set_epoch(epoch)
        drawn = []
        together = []
        for share in shares:
            together.append([labels for _, labels in share])
            drawn.append(torch.rand(()).item())
        for batch, parts in zip(learning, zip(*together, strict=True), strict=True):
            assert torch.equal(batch[1], torch.cat(parts))
        assert len(set(drawn)) == 4  # dropout differs from process to process


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (Pictures(20, 5, seed=1), "a batch of 5 images cannot be shared equally among 2 processes"),
        (Pictures(1, 5, None), "1 images held out cannot be shared among 2 processes"),
    ],
)
def test_what_cannot_be_shared_is_refused(batches, message):
    with pytest.raises(ValueError, match=message):
        batches.share(0, 2)


@pytest.mark.parametrize(
    ("wrong", "device", "message"),
    [
        ({"devices": 0}, "cpu", "devices must be an integer of at least 1, got 0"),
        ({"strategy": "ddpp"}, "cpu", "unknown strategy 'ddpp'; did you mean 'ddp'"),
        ({"timeout": 0}, "cpu", "timeout must be above 0 seconds, got 0"),
        ({"strategy": "fsdp"}, "cpu", "shares a model among devices, and there is one"),
        ({"devices": 2}, "cuda:1", "device='cuda:1' is one device, and devices=2: say 'cuda'"),
        ({"devices": 99}, "cuda", "device='cuda' with devices=99: this machine has"),
        ({}, "cuda:98", "device='cuda:98': this machine has"),
    ],
)
def test_a_distribution_that_cannot_be_is_refused_before_anything_begins(
    wrong, device, message, tmp_path
):
    recipe = Recipe(epochs=1, device=device)
    with pytest.raises(ValueError, match=message):
        train(classifier(), task(), Pictures(9, 3, 1), Pictures(6, 3, None), recipe, tmp_path,
              distribution=Distribution(**wrong))  # fmt: skip


def test_what_torchrun_started_is_taken_and_not_contradicted(monkeypatch):
    for name, value in {
        "TORCHELASTIC_RUN_ID": "1",
        "LOCAL_WORLD_SIZE": "4",
        "WORLD_SIZE": "8",
    }.items():
        monkeypatch.setenv(name, value)
    assert resolved(Distribution(), "cpu") == Distribution(4, 2)
    with pytest.raises(ValueError, match="devices=2, but torchrun started 4: leave devices out"):
        resolved(Distribution(devices=2), "cpu")

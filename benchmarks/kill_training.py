"""Kill a training at random moments, go on with it, and hold its numbers to an undisturbed one's.

    python -m benchmarks.kill_training --kills 20

``foveate train`` on the digits, with the weights averaged and batches accumulated, is killed
(SIGKILL, with all it started) once in each of so many runs, at a moment drawn over the time that a
run takes, and goes on by ``--resume``. Metrics and every weight must equal those of the undisturbed
run. With ``--devices 2`` two processes train, and one of them is killed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from foveate.trainer.record import TrainingRecord

SETTINGS = [
    "--data", "digits", "--limit", "256", "--epochs", "6", "--batch-size", "16", "--samples", "0",
    "--attention", "slide", "--ema", "0.9", "--accumulate", "2", "--threads", "1",
]  # fmt: skip


def start(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "foveate", "train", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def finish(process: subprocess.Popen) -> None:
    said = process.communicate()[1].decode()
    if process.returncode:
        sys.exit(f"a training ended with {process.returncode}: {said[-2000:]}")


def numbers(run: Path) -> tuple[dict[str, float], dict[str, bytes]]:
    record = TrainingRecord.read(run)
    assert record is not None
    weights = load_file(run / "model.safetensors")
    return dict(record.metrics), {key: value.tobytes() for key, value in weights.items()}


def kill(process: subprocess.Popen, devices: int) -> None:
    """All of it; of several processes, one that the first has started."""
    if devices > 1:
        found = subprocess.run(
            ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False
        )
        children = found.stdout.split()
        if children:
            os.kill(int(children[-1]), signal.SIGKILL)
            process.wait(timeout=120)  # the other one ends by itself
            return
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--devices", type=int, default=1)
    options = parser.parse_args()
    settings = [*SETTINGS, "--devices", str(options.devices)]
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        began = time.monotonic()
        finish(start(*settings, "--out", root / "whole"))
        takes = time.monotonic() - began
        expected = numbers(root / "whole")
        print(f"undisturbed: {takes:.1f} s, {expected[0]}", flush=True)
        unlike = cut = 0
        for number in range(options.kills):
            run = root / f"run{number}"
            process = start(*settings, "--out", run)
            moment = float(rng.uniform(0.0, takes))
            time.sleep(moment)
            kill(process, options.devices)
            over = (run / "training.json").exists()
            cut += not over
            again = ["--resume", run] if (run / "config.yaml").exists() else [
                *settings, "--out", run
            ]  # fmt: skip
            finish(start(*again))
            equal = numbers(run) == expected
            unlike += not equal
            when = "after its end" if over else f"at {moment:.1f} s"
            print(f"{number}: killed {when}, {'equal' if equal else 'UNLIKE'}", flush=True)
        print(f"{options.kills} kills, {cut} of them before the end: {unlike} unlike")
        sys.exit(bool(unlike))


if __name__ == "__main__":
    main()

"""Kill a study at random moments, go on with it, and hold its numbers to an undisturbed run's.

    python benchmarks/kill_study.py --kills 50
    python benchmarks/kill_study.py --kills 50 --streaming

A study of eight trials on a folder of images is killed (SIGKILL) again and again, at moments drawn
over the time that is left, until it has been killed so many times; whenever it ends before, another
one is begun. Between a kill and going on, an image is added to the folder. In the end every number
and every prediction must equal those of the undisturbed run, and nothing may be left behind. With
``--streaming`` no pixels are kept decoded, so that every batch reads the files.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

SETTINGS = [
    "--attention", "multi_head", "cbam", "window", "--controls", "none", "--seeds", "2",
    "--epochs", "3", "--image-size", "16", "--batch-size", "16", "--select", "best",
]  # fmt: skip
START = """
import sys
from foveate.data.pixels import pixel_file
if {streaming}:
    pixel_file.MEMORY_CAP = 0
from foveate.cli import main
sys.exit(main(["compare", *sys.argv[1:]]))
"""


def make_folder(root: Path) -> Path:
    for number, name in enumerate(("left", "middle", "right")):
        (root / name).mkdir(parents=True)
        for index in range(40):
            add_image(root, name, number, f"{index:03d}")
    return root


def add_image(root: Path, name: str, number: int, index: str) -> None:
    rng = np.random.default_rng([number, sum(map(ord, index))])
    pixels = rng.integers(0, 90, (24, 24), dtype=np.uint8)
    pixels[:, 8 * number : 8 * number + 8] += 60
    Image.fromarray(pixels).save(root / name / f"{index}.png")


def start(streaming: bool, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", START.format(streaming=streaming), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def numbers(run: Path) -> dict[str, Any]:
    """All that a study came to but times."""
    found = {}
    for file in sorted(run.glob("trials/*/trial.json")):
        trial = json.loads(file.read_text())
        for key in [key for key in trial if key.startswith("train_")]:
            del trial[key]
        for epoch in trial["history"]:
            del epoch["seconds"]
        weights = load_file(file.with_name("model.safetensors"))
        trial["weights"] = {key: value.tobytes() for key, value in weights.items()}
        trial["predictions"] = file.with_name("predictions.npz").read_bytes()
        found[file.parent.name] = trial
    return found


def leftovers(run: Path) -> list[str]:
    """Files that a finished study should not hold."""
    known = (".ckpt", ".tmp", ".npy", ".raw")
    names = [file for file in run.rglob("*") if file.is_file()]
    return [str(f) for f in names if f.suffix in known or f.name == "best.safetensors"]


def check(run: Path, expected: dict[str, Any]) -> None:
    if numbers(run) != expected:
        raise SystemExit(f"{run}: the numbers differ from those of the undisturbed run")
    if leftovers(run):
        raise SystemExit(f"{run}: left behind: {', '.join(leftovers(run))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--streaming", action="store_true", help="keep no decoded pixels")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        data = make_folder(root / "data")
        began = time.monotonic()
        process = start(options.streaming, "--data", data, *SETTINGS, "--out", root / "whole")
        error = process.communicate()[1]
        if process.returncode:
            raise SystemExit(error.decode())
        seconds = time.monotonic() - began
        expected = numbers(root / "whole")
        print(f"undisturbed: {len(expected)} trials in {seconds:.0f} s", flush=True)
        kills = study = 0
        while kills < options.kills:
            shutil.rmtree(data)
            make_folder(data)
            run = root / f"study{study}"
            arguments: list[object] = ["--data", data, *SETTINGS, "--out", run]
            while True:
                process = start(options.streaming, *arguments)
                try:
                    error = process.communicate(timeout=rng.uniform(0.5, 1.1) * seconds / 2)[1]
                except subprocess.TimeoutExpired:
                    if kills < options.kills:
                        process.send_signal(signal.SIGKILL)
                        kills += 1
                        if (run / "data" / "index.json").exists():  # the images are chosen
                            add_image(data, "middle", 1, f"new{kills}")
                            arguments = ["--resume", run]
                    error = process.communicate()[1]
                if process.returncode == 0:
                    break
                if process.returncode != -signal.SIGKILL:
                    raise SystemExit(error.decode())
            check(run, expected)
            print(f"study {study}: killed {kills} times so far, the numbers are equal", flush=True)
            shutil.rmtree(run)
            study += 1


if __name__ == "__main__":
    main()

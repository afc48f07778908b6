"""What the end of a large study costs the driver: intervals and verdict over random predictions.

python benchmarks/large_study.py --rows 40 --seeds 5 --images 50000
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np

from foveate.metrics import ACCURACY
from foveate.study.statistics import estimate, judge


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=50_000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    before = _peak_mb()
    hard = rng.normal(size=options.images)
    scores = {
        f"row{row}": {
            seed: (hard + rng.normal(size=options.images) > -0.5 - 0.005 * row).astype(float)
            for seed in range(options.seeds)
        }
        for row in range(options.rows)
    }
    made = _peak_mb()
    began = time.perf_counter()
    for each in scores.values():
        estimate(each, ACCURACY)
    estimated = time.perf_counter()
    judge(scores, ["row0", "row1"], ACCURACY)
    judged = time.perf_counter()
    print(
        f"{options.rows} rows, {options.seeds} seeds, {options.images:,} images: intervals "
        f"{estimated - began:.1f} s, verdict {judged - estimated:.1f} s; memory "
        f"{made - before:.0f} MB of scores, {_peak_mb() - made:.0f} MB more at most"
    )


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()

"""Draws what ``results/`` holds into ``docs/performance.md``, between its marks.

python -m benchmarks.draw
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.figures import Result, table
from benchmarks.measure import RESULTS

DOCS = RESULTS.parent.parent / "docs"
PAGE = DOCS / "performance.md"
BEGIN, END = "<!-- drawn from benchmarks/results -->", "<!-- end of what is drawn -->"
AXES = {"side": "side of the map, pixels", "kernel": "side of the kernel", "batch": "batch"}


def page() -> str:
    """A section for every machine that results were kept of."""
    sections = []
    for folder in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        results = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
        sections += section(folder.name, results)
    return "\n".join(sections)


def section(name: str, results: dict[str, Result]) -> list[str]:
    """What one machine's results say."""
    head = ["", f"## {machine(next(iter(results.values())))}", ""]
    lines = [*head]
    for benchmark, result in results.items():
        if benchmark.startswith("local_attention"):
            lines += [table(result), ""]
    if "operators" in results:
        lines += [*goals(results["operators"]), ""]
    if "scaling" in results:
        figure = f"scaling_{name}.png"
        draw_scaling(results["scaling"], DOCS / "images" / figure)
        lines += [f"![Time a pixel as map, kernel and batch grow](images/{figure})", ""]
        lines += [*growth(results["scaling"]), ""]
    for benchmark, result in results.items():
        if benchmark.startswith("models"):
            lines += [*models(result), ""]
    return lines if len(lines) > len(head) else []


def machine(result: Result) -> str:
    count = result.get("threads")
    threads = f", {count} thread{'s' * (count != 1)}" if count else ""
    return f"{result['device']}{threads}, {version(result)}"


def version(result: Result) -> str:
    return f"PyTorch {result['torch'].partition('+')[0]}"


def series(result: Result, axis: str) -> dict[str, list[tuple[int, Result]]]:
    """The rows of one series by contestant, in the order of what grows."""
    found: dict[str, list[tuple[int, Result]]] = {}
    for row in result["rows"]:
        if row["series"] == axis:
            found.setdefault(row["name"], []).append((row[axis], row))
    return found


def draw_scaling(result: Result, path: Path) -> None:
    """Time a pixel against map, kernel and batch, on logarithmic scales."""
    figure, panels = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", sharey=True)
    for panel, (axis, label) in zip(panels, AXES.items(), strict=True):
        for name, points in series(result, axis).items():
            if axis == "kernel" and name == "slide 3x3":
                continue
            x = [value for value, _ in points]
            panel.plot(x, [row["nanoseconds_a_pixel"] for _, row in points], "o-", label=name)
        panel.set(xscale="log", yscale="log", xlabel=label, xticks=x, xticklabels=x)
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("nanoseconds a pixel, forward")
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def growth(result: Result) -> list[str]:
    """How much more a pixel costs on the largest map than at 56x56."""
    lines = ["| 448x448 against 56x56, one image | time a pixel | extra memory a pixel |"]
    lines.append("|---|--:|--:|")
    for name, points in series(result, "side").items():
        by_side = dict(points)
        if 448 in by_side:
            ratios = [
                by_side[448][key] / by_side[56][key]
                for key in ("nanoseconds_a_pixel", "bytes_a_pixel")
            ]
            lines.append(f"| {name} | {ratios[0]:.2f} | {ratios[1]:.2f} |")
    return lines


def goals(result: Result) -> list[str]:
    """The goals of the operators, and what was measured."""
    kind = "Least times" if result["least"] else "Medians"
    lines = [
        f"Goals of the operators ([what is measured](#goals-of-the-operators)), {version(result)}. "
        f"{kind} over turns.",
        "",
        "| goal | measured | bound | |",
        "|---|--:|--:|---|",
    ]
    for row in result["rows"]:
        bound = f"{'≥' if row['at_least'] else '≤'} {row['bound']:.2f}"
        reached = "reached" if row["reached"] else "missed"
        lines.append(f"| {row['name']} | {row['value']:.2f} | {bound} | {reached} |")
    return lines


def models(result: Result) -> list[str]:
    """Whole networks beside their peers: a row a network, a group of columns a batch and way."""
    rows, kinds = result["rows"], {}
    for row in rows:
        kinds.setdefault((row["way"], row["batch"]), {})[row["model"]] = row
    heads = [f"{way}, batch {batch}" for way, batch in kinds]
    lines = [
        f"Milliseconds an image, {version(result)}; in brackets the time over the peer's, and "
        "the multiply-adds a second over those of timm's swin_tiny.",
        "",
        "| network | peer | multiply-adds, G | " + " | ".join(heads) + " |",
        "|---|---|--:|" + "--:|" * len(heads),
    ]
    for name, row in next(iter(kinds.values())).items():
        cells = [of[name] for of in kinds.values()]
        shown = [f"{cell['ms']:.1f} ({cell['of_peer']:.2f}; {cell['rate']:.2f})" for cell in cells]
        peer = "" if row["peer"] == name else row["peer"]
        adds = f"{row['multiply_adds'] / 1e9:.2f}"
        lines.append(f"| {name} | {peer} | {adds} | " + " | ".join(shown) + " |")
    return lines


if __name__ == "__main__":
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + BEGIN + "\n" + page() + "\n" + END + after)

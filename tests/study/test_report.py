"""The report's content against the files that it is made from."""

from __future__ import annotations

import base64
import gzip
import json
from html.parser import HTMLParser
from math import exp

import pytest
import yaml

from foveate.study.report import write_report
from foveate.study.report.markup import element, embed_json
from foveate.study.report.pictures import heat_map
from foveate.study.results import read_results
from foveate.study.statistics import estimate

ACCURACY = {
    "slide": (0.985, 0.988, 0.982),
    "cbam": (0.979, 0.975, 0.981),
    "none": (0.951, 0.955, 0.949),
    "depthwise_conv": (0.976, 0.977, 0.972),
}
CONTROLS = ("none", "depthwise_conv")
SPOKEN = {"none": "no attention", "depthwise_conv": "depthwise convolution"}
LATENCY = {"slide": 31.25, "cbam": 15.5, "none": 8.125, "depthwise_conv": 11.75}
EVIL = "</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """What a browser would see: elements with their text, cells by row, scripts by id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.sorts: list[list[str | None]] = []
        self.scripts: dict[str, str] = {}
        self.text = ""
        self._cell = self._script = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        if tag == "tr":
            self.rows.append([])
            self.sorts.append([])
        if tag in ("td", "th"):
            self._cell = ""
            self.sorts[-1].append(attributes.get("data-sort"))
        if tag == "script":
            self._script = attributes.get("id", "")

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.rows[-1].append(self._cell.strip())
            self._cell = None
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data
            return
        self.text += data + " "
        if self._cell is not None:
            self._cell += data + " "

    def row(self, label: str) -> list[str]:
        return next(r for r in self.rows if r and r[0].replace(" ", "").startswith(label))


def trial(attention, seed, accuracy=None, **more):
    control = attention in CONTROLS
    done = accuracy is not None
    history = [
        {"epoch": e, "train_loss": 1.0, "loss": 1.0, "accuracy": accuracy * (1 - exp(-e))}
        for e in range(1, 5)
    ] if done else []  # fmt: skip
    return {
        "attention": attention, "label": attention, "role": "control" if control else "mixer",
        "family": "control" if control else "local", "control": control, "seed": seed,
        "host": "pyramid_pico", "status": "done" if done else "failed", "error": None,
        "accuracy": accuracy, "loss": 0.1, "epochs": 4, "history": history,
        "parameters": 123456, "multiply_adds": 14_100_000,
        "train_images_per_second": 1000.0 + seed, "train_seconds": 3.0, **more,
    }  # fmt: skip


def put(run, name, value):
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(value) if path.suffix == ".yaml" else json.dumps(value)
    path.write_text(text)


@pytest.fixture
def run(tmp_path):
    put(tmp_path, "plan.yaml", {"data": "digits", "host": "pyramid_pico", "epochs": 4})
    index = {"classes": ["0", "1"], "skipped": ["bad.png"]}
    splits = {"train": {"labels": [0] * 1438}, "test": {"labels": [1] * 400}}
    put(tmp_path, "data/index.json", {**index, **splits})
    put(
        tmp_path,
        "environment.json",
        {
            "command": ["/bin/foveate", "compare", "--data", "a b"],
            "torch": "2.15",
            "threads": {"intra": 2},
        },
    )
    for name, values in ACCURACY.items():
        for seed, accuracy in enumerate(values):
            put(tmp_path, f"trials/{name}-seed{seed}/trial.json", trial(name, seed, accuracy))
        latency = {"median": LATENCY[name], "p25": 7.5, "p75": 42.5, "batch": 16, "repeats": 50}
        put(tmp_path, f"measured/{name}.json", {"latency_ms": latency, "peak_memory_mb": 10.25})
    layer = {"layer": "a", "query": [1, 2], "measure": "weights", "map": [[0.1] * 4] * 3}
    put(tmp_path, "views/slide.json", {"image": [[0, 255]] * 2, "images": 16, "layers": [layer]})
    put(tmp_path, "views/none.json", {"image": [[[0, 255, 0]] * 2] * 2, "layers": []})
    return tmp_path


def read(run) -> Page:
    return Page(write_report(run).read_text())


@pytest.mark.parametrize("name", ACCURACY)
def test_the_table_says_what_the_files_say(run, name):
    row = read(run).row(SPOKEN.get(name, name).replace(" ", ""))
    found = estimate(ACCURACY[name])
    assert f"{100 * found.mean:.1f}" in row[1]
    assert f"{100 * found.low:.1f} to {100 * found.high:.1f}" in row[1]
    assert row[2] == "123,456"
    assert row[3] == "14.1"
    assert row[4].split()[0] == f"{LATENCY[name]:.1f}"
    assert "7.5 to 42.5" in row[4]
    assert row[5] == "10.2"
    assert row[6] == "1,001"


def test_rows_start_in_order_of_accuracy_and_carry_what_they_sort_by(run):
    page = read(run)
    sorts = [s for s in page.sorts if s and s[0]]
    means = [float(s[1]) for s in sorts]
    assert means == sorted(means, reverse=True)
    assert [s[0] for s in sorts] == ["slide", "cbam", *reversed(SPOKEN.values())]
    assert float(sorts[0][4]) == LATENCY["slide"]


def test_chart_data_and_the_pareto_front(run):
    data = json.loads(read(run).scripts["data"])
    front = {point["label"] for point in data["latency"] if point["front"]}
    assert front == {"slide", "cbam", *SPOKEN.values()}
    slide = next(point for point in data["latency"] if point["label"] == "slide")
    assert slide["x"] == LATENCY["slide"]
    assert slide["y"] == pytest.approx(98.5)
    # All have the same multiply-adds: only the most accurate is on the front.
    assert [p["label"] for p in data["madds"] if p["front"]] == ["slide"]
    curve = data["curves"][0]
    assert curve["epoch"] == [1, 2, 3, 4]
    assert curve["low"][-1] < curve["mean"][-1] < curve["high"][-1]


def test_verdict_and_summary(run):
    page = read(run)
    assert (
        "than the best control, depthwise convolution, by more than the seeds explain" in page.text
    )
    assert "2 attention mechanisms on digits" in page.text
    assert "12 finished" in page.text
    assert page.row("slideagainst")[1] == "+1.0"
    assert "1,438 images to train on, 400 held out, 2 classes, 1 unreadable" in page.text
    # 1.96 * sqrt(0.985 * 0.015 / 400) = 1.2 points
    assert "one image is 0.25 points" in page.text
    assert "98.5 % by about ±1.2 points" in page.text
    assert "foveate compare --data 'a b'" in page.text


def test_nothing_is_loaded_from_elsewhere_and_plotly_is_whole(run):
    page = read(run)
    for tag, attributes in page.tags:
        assert tag != "link"
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:")
    packed = page.scripts["plotly"]
    assert "Plotly" in gzip.decompress(base64.b64decode(packed)).decode()
    assert (run / "report.html").stat().st_size < 3_000_000


def test_pictures_have_words_and_a_marked_query(run):
    page = read(run)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(attributes.get("alt") for attributes in images)
    assert any("row 1, column 2 sees in slide" in a["alt"] for a in images)
    assert "nothing stands in its slot" in page.text
    plots = [a for _, a in page.tags if "plot" in (a.get("class") or "")]
    assert all(attributes.get("aria-label") for attributes in plots)


def test_failed_trials_are_named_with_their_reason(run):
    put(run, "trials/cbam-seed1/trial.json", trial("cbam", 1, status="failed", error="out of RAM"))
    put(run, "trials/pale-seed0/trial.json", trial("pale", 0, status="failed", error="no luck"))
    page = read(run)
    assert "Seed 1 failed: out of RAM" in page.row("cbam")[0]
    assert "98.0" in page.row("cbam")[1]
    assert page.row("pale")[1:] == ["–"] * 6
    assert "Seed 0 failed: no luck" in page.row("pale")[0]
    assert "11 finished, 2 failed" in page.text


def test_all_text_is_escaped(run):
    failed = trial("evil", 0, label=EVIL, family=EVIL, status="failed", error=EVIL)
    put(run, "trials/evil-seed0/trial.json", failed)
    put(run, "trials/odd-seed0/trial.json", trial("odd", 0, 0.5, label=EVIL + "2"))
    put(run, "plan.yaml", {"data": EVIL, "host": EVIL})
    put(run, "environment.json", {"command": EVIL, EVIL: EVIL})
    text = write_report(run).read_text()
    page = Page(text)
    assert "onerror" not in [name for _, attributes in page.tags for name in attributes]
    assert EVIL not in text
    assert EVIL in page.text
    assert any(EVIL in c["label"] for c in json.loads(page.scripts["data"])["curves"])


def test_one_seed_and_nothing_measured(tmp_path):
    put(tmp_path, "trials/slide-seed0/trial.json", trial("slide", 0, 0.9))
    page = read(tmp_path)
    assert "one seed" in page.row("slide")[1]
    assert page.row("slide")[4:6] == ["–", "–"]
    assert not [a for _, a in page.tags if a.get("id") in ("cost-latency", "sight")]


def test_only_failures(tmp_path):
    put(tmp_path, "trials/slide-seed0/trial.json", trial("slide", 0, status="failed"))
    assert "No run has finished" in read(tmp_path).text


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="holds no trial"):
        write_report(tmp_path)
    put(tmp_path, "trials/slide-seed0/trial.json", trial("slide", 0, 0.9))
    (tmp_path / "plan.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"plan\.yaml is damaged"):
        read_results(tmp_path)


def test_markup_escapes_what_is_not_markup():
    assert element("p", "<b>", element("i", "&"), None, title='"') == (
        '<p title="&quot;">&lt;b&gt;<i>&amp;</i></p>'
    )
    assert "<" not in embed_json({"a": EVIL})


def test_heat_map_goes_from_violet_to_yellow():
    from io import BytesIO

    image_module = pytest.importorskip("PIL.Image")
    data = base64.b64decode(heat_map([[0.0, 1.0, 0.25]]).split(",")[1])
    image = image_module.open(BytesIO(data))
    assert image.size == (3, 1)
    assert image.getpixel((0, 0)) == (68, 1, 84)
    assert image.getpixel((1, 0)) == (253, 231, 37)
    assert image.getpixel((2, 0)) == (33, 145, 140)

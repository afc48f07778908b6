"""The report's content against the files that it is made from."""

from __future__ import annotations

import base64
import hashlib
import json
import random
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from math import exp, inf

import numpy as np
import pytest

from foveate.data.findings import Duplicates, Findings
from foveate.data.moments import Moments
from foveate.data.record import SetRecord, SplitRecord
from foveate.metrics import ACCURACY, Metric
from foveate.registry import describe, list_attention
from foveate.study.disputed import disputed
from foveate.study.entry import Entry
from foveate.study.numbers import show_ms
from foveate.study.plan import Plan
from foveate.study.records import (
    AttentionMaps,
    Environment,
    EpochRecord,
    Health,
    ImageMap,
    Latency,
    LayerMap,
    Measurement,
    Predictions,
    Subject,
    TrialRecord,
)
from foveate.study.report import charts
from foveate.study.report.axes import axis
from foveate.study.report.charts import (
    Point,
    axes_of,
    frames,
    labels_of,
    latency_points,
    multiply_add_points,
)
from foveate.study.report.cite import bibtex, key_of, publications
from foveate.study.report.curves import learning_curves
from foveate.study.report.labels import Box
from foveate.study.report.markup import element
from foveate.study.report.page import write_report
from foveate.study.report.pictures import heat_map
from foveate.study.results import read_results
from foveate.study.run import Run, StudyError
from foveate.study.statistics import estimate, judge

ACCURACY_OF = {
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


def subject(attention, label=None, family=None):
    control = attention in CONTROLS
    role = "control" if control else "mixer"
    family = family or ("control" if control else "local")
    return Subject(attention, attention, label or attention, control, role, family)


def trial(attention, seed, score=None, error=None, metric=ACCURACY, **names):
    history = [] if score is None else [
        EpochRecord(epoch, 1.0, 1.0, score * (1 - exp(-epoch)), 0.5) for epoch in range(1, 5)
    ]  # fmt: skip
    return TrialRecord(
        subject=subject(attention, **names),
        seed=seed,
        host="pyramid_pico",
        epochs=4,
        metric=metric,
        error=error,
        score=score,
        loss=None if score is None else 0.1,
        history=tuple(history),
        parameters=123456,
        multiply_adds=14_100_000,
        train_images_per_second=1000.0 + seed,
        train_seconds=3.0,
    )


ENVIRONMENT = Environment(
    started="2026-01-01T00:00:00+00:00", foveate="0.1.0", commit=None, python="3.12.0",
    versions={"torch": "2.15"}, platform="Linux", cpu="a processor", cores=2, device="cpu",
    device_name="a processor", workers=2, threads=1, seeds=[0, 1, 2],
    command=["/bin/foveate", "compare", "--data", "a b"],
)  # fmt: skip


def begin(root, *attention, **settings) -> Run:
    """A run directory whose plan compares ``attention`` with both controls."""
    names = [Entry(name) if isinstance(name, str) else name for name in attention]
    return Run.begin(root, Plan(attention=tuple(names), epochs=4, **settings))


def put(run, name, value):
    path = run.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture
def run(tmp_path):
    run = begin(tmp_path, "slide", "cbam", "pale", "evil", "odd")
    index = {"classes": ["0", "1"], "skipped": ["bad.png"], "channels": 1, "photographs": False,
             "in_memory": True}  # fmt: skip
    train = {"part": "all", "rows": list(range(1438)), "labels": [0] * 1438}
    test = {"part": "all", "rows": list(range(400)), "labels": [1] * 400}
    put(run, "data/index.json", {**index, "train": train, "test": test})
    records = run.records
    records.write_environment(ENVIRONMENT)
    for name, values in ACCURACY_OF.items():
        for seed, accuracy in enumerate(values):
            records.write_trial(trial(name, seed, accuracy))
        latency = Latency(LATENCY[name], 7.5, 42.5, 16, 50)
        records.write_measurement(Measurement(name, latency, 10.25, 1, 1, 1, "a processor"))
    layer = LayerMap("a", (1, 2), "weights", [[0.1] * 4] * 3)
    records.write_attention_maps(AttentionMaps(subject("slide"), [[0, 255]] * 2, 16, (layer,)))
    records.write_attention_maps(AttentionMaps(subject("none"), [[[0, 255, 0]] * 2] * 2, 16, ()))
    return run


def write(run):
    results = read_results(run.root, run.plan)
    return write_report(results, judge(results.scores, results.controls, results.metric))


def read(run) -> Page:
    return Page(write(run).read_text())


@pytest.mark.parametrize("name", ACCURACY_OF)
def test_the_table_says_what_the_files_say(run, name):
    row = read(run).row(SPOKEN.get(name, name).replace(" ", ""))
    found = estimate(dict(enumerate(ACCURACY_OF[name])))
    assert f"{100 * found.mean:.1f}" in row[1]
    assert f"{100 * found.low:.1f} to {100 * found.high:.1f}" in row[1]
    assert row[2] == "123,456"
    assert row[3] == "14.1"
    assert row[4] == f"{show_ms(LATENCY[name])} 7.50 to 42.5"
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
    results = read_results(run.root, run.plan)
    latency = latency_points(results)
    assert {p.label for p in latency if p.front} == {"slide", "cbam", *SPOKEN.values()}
    slide = next(point for point in latency if point.label == "slide")
    assert slide.x == LATENCY["slide"]
    assert slide.y == pytest.approx(98.5)
    # All have the same multiply-adds: only the most accurate is on the front.
    assert [p.label for p in multiply_add_points(results) if p.front] == ["slide"]
    curve = learning_curves(results)[0]
    assert curve.epoch == [1, 2, 3, 4]
    assert curve.low[-1] < curve.mean[-1] < curve.high[-1]
    assert "On the front: slide." in read(run).text


def test_settings_of_a_reducer_lie_on_one_line_and_in_one_table(tmp_path):
    entries = [Entry.read(text) for text in ("tome:r=8", "tome:r=4", "evovit:keep=0.5")]
    run = begin(tmp_path, *entries)
    costs = {"tome(r=4)": 11_000_000, "tome(r=8)": 9_000_000, "evovit(keep=0.5)": 10_000_000}
    for key, cost in costs.items():
        entry = next(each for each in entries if each.label == key)
        named = subject(entry.key, key, "tokens")
        reduced = named._replace(mechanism=entry.name, role="reducer")
        for seed in range(2):
            run.records.write_trial(
                replace(trial(entry.key, seed, 0.9), subject=reduced, multiply_adds=cost)
            )
        run.records.write_measurement(
            Measurement(entry.key, Latency(cost / 1e6, 7.5, 42.5, 16, 50), 1, 1, 1, 1, "cpu")
        )
    for seed in range(2):
        run.records.write_trial(replace(trial("none", seed, 0.92), multiply_adds=20_000_000))
    points = latency_points(read_results(run.root, run.plan))
    assert {p.label: p.curve for p in points} == dict(
        zip(costs, ("tome", "tome", "evovit"), strict=True)
    )
    page = read(run)
    lines = [a for tag, a in page.tags if tag == "polyline" and a.get("class") == "settings"]
    assert len(lines) == 4  # tome alone, in two charts, each drawn for a wide and a narrow page
    assert "A line joins the settings of one reducer" in page.text
    rows = [row for row in page.rows if row[1:2] in (["r=4"], ["keep=0.5"]) or row[:1] == ["r=8"]]
    assert rows == [
        ["evovit", "keep=0.5", "90.0", "−2.0", "0.50", "–", "10.0"],
        ["tome", "r=4", "90.0", "−2.0", "0.55", "–", "11.0"],
        ["r=8", "90.0", "−2.0", "0.45", "–", "9.00"],
    ]


def test_verdict_and_summary(run):
    page = read(run)
    assert (
        "than the best control, depthwise convolution, by more than the seeds explain" in page.text
    )
    assert "2 attention mechanisms on characters" in page.text
    assert "12 finished" in page.text
    assert page.row("slideagainst")[1] == "+1.0"
    assert "The seeds alone count as chance" in page.text
    assert "1,438 images to train on, 400 held out, 2 classes, 1 unreadable" in page.text
    # 1.96 * sqrt(0.985 * 0.015 / 400) = 1.2 points
    assert "one image is 0.25 points" in page.text
    assert "98.5 % by about ±1.2 points" in page.text
    assert "foveate compare --data 'a b'" in page.text


def test_nothing_is_loaded_from_elsewhere_and_the_page_forbids_it(run):
    text = write(run).read_text()
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag != "link"
        assert "style" not in attributes  # the policy has no room for it
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#"))
    policy = next(a["content"] for _, a in page.tags if "content-security" in str(a).lower())
    assert policy.startswith("default-src 'none'; ")
    style = text.split("<style>")[1].split("</style>")[0]
    for directive, content in (("script-src", page.scripts[""]), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
    assert (run.root / "report.html").stat().st_size < 100_000


def test_pictures_have_words_and_a_marked_query(run):
    page = read(run)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert all(attributes.get("alt") for attributes in images)
    assert any("map of slide for the query at row 1, column 2" in a["alt"] for a in images)
    assert "nothing stands in its place" in page.text
    charts = [a for _, a in page.tags if "chart " in (a.get("class") or "") + " "]
    assert charts
    assert all(attributes.get("aria-label") for attributes in charts)


def test_failed_trials_are_named_with_their_reason(run):
    run.records.write_trial(trial("cbam", 1, error="out of RAM"))
    run.records.write_trial(trial("pale", 0, error="no luck"))
    page = read(run)
    assert "Seed 1 failed: out of RAM" in page.row("cbam")[0]
    assert "98.0" in page.row("cbam")[1]
    assert page.row("pale")[1:] == ["–"] * 6
    assert "Seed 0 failed: no luck" in page.row("pale")[0]
    assert "11 finished, 2 failed" in page.text
    assert "2 of 13 trials failed: cbam (seed 1), pale (seed 0); the others are" in page.text


def test_all_text_is_escaped(tmp_path):
    run = begin(tmp_path, Entry("evil", label=EVIL), "odd", data=EVIL, host=EVIL, seeds=(0,))
    key = run.plan.attention[0].key
    failed = trial(key, 0, error=EVIL, label=EVIL, family=EVIL)
    run.records.write_trial(failed)
    odd = replace(trial("odd", 0, 0.5, label=EVIL + "2"), host=EVIL)
    run.records.write_trial(odd)
    evil = {"command": ["foveate", EVIL], "platform": EVIL, "versions": {EVIL: EVIL}}
    run.records.write_environment(replace(ENVIRONMENT, **evil))
    text = write(run).read_text()
    page = Page(text)
    assert "onerror" not in [name for _, attributes in page.tags for name in attributes]
    assert EVIL not in text
    assert EVIL in page.text
    assert any(EVIL in str(a.get("aria-label")) for _, a in page.tags)


def test_one_seed_and_nothing_measured(tmp_path):
    run = begin(tmp_path, "slide")
    run.records.write_trial(trial("slide", 0, 0.9))
    page = read(run)
    assert "one seed" in page.row("slide")[1]
    assert page.row("slide")[4:6] == ["–", "–"]
    assert "Accuracy against latency" not in page.text
    assert not [a for _, a in page.tags if a.get("id") == "attention-maps"]


def test_only_failures(tmp_path):
    run = begin(tmp_path, "slide")
    run.records.write_trial(trial("slide", 0, error="no luck"))
    assert "No trial has finished" in read(run).text


def test_a_metric_of_which_less_is_better_and_that_has_no_upper_bound(tmp_path):
    error = Metric("endpoint error", "px", False, (0.0, inf))
    run = begin(tmp_path, "slide", "cbam", controls=(), metric=error)
    for seed, (low, high) in enumerate([(1.5, 12.25), (0.1, 14.0), (0.3, 13.125)]):
        run.records.write_trial(trial("slide", seed, low, metric=error))
        run.records.write_trial(trial("cbam", seed, high, metric=error))
    page = read(run)
    assert "slide has the lowest mean endpoint error, 0.633 px" in page.text
    assert page.row("slide")[1] == "0.633 0.00 to 2.51"  # kept above the lower bound
    assert page.row("cbam")[1].startswith("13.1 11.0 to 15.3")
    assert page.row("slideagainst")[1] == "−12.5"
    assert "accuracy" not in page.text.lower()
    points = multiply_add_points(read_results(run.root, run.plan))
    assert [point.front for point in points] == [True, False]
    assert "held-out endpoint error (px)" in page.text


def test_refusals(tmp_path):
    run = begin(tmp_path / "run", "slide")
    with pytest.raises(ValueError, match="holds no trial"):
        read_results(run.root, run.plan)
    (run.root / "plan.yaml").write_text("a: [")
    with pytest.raises(StudyError, match=r"holds a damaged plan.*; mend .*plan\.yaml, or choose"):
        Run.open(run.root)


def test_markup_escapes_what_is_not_markup():
    assert element("p", "<b>", element("i", "&"), None, title='"') == (
        '<p title="&quot;">&lt;b&gt;<i>&amp;</i></p>'
    )


def test_heat_map_goes_from_violet_to_yellow():
    from io import BytesIO

    image_module = pytest.importorskip("PIL.Image")
    data = base64.b64decode(heat_map([[0.0, 1.0, 0.25]]).split(",")[1])
    image = image_module.open(BytesIO(data))
    assert image.size == (3, 1)
    assert image.getpixel((0, 0)) == (68, 1, 84)
    assert image.getpixel((1, 0)) == (253, 231, 37)
    assert image.getpixel((2, 0)) == (33, 145, 140)


def points_of(count: int, seed: int) -> list[Point]:
    """Points as studies have them: many of nearly the same cost, controls among them."""
    chance = random.Random(seed)
    names = [name for name in list_attention() if name != "local_monotonic"]
    points = []
    for index in range(count):
        y, half = 60 + 8 * chance.gauss(0, 1), 3 + chance.random()
        x = exp(2.5 + 0.5 * chance.gauss(0, 1))
        points.append(Point(names[index], index < 2, x, x, x, y, y - half, y + half, index == 0))
    return points


@pytest.mark.parametrize("count", [1, 2, 7, 41])
@pytest.mark.parametrize("seed", range(3))
def test_labels_can_be_read(count, seed):
    """No label covers another or a point; what finds no place is numbered, and seldom is."""
    points = points_of(count, seed)
    for frame in frames(count):
        labels = labels_of(points, frame, ACCURACY)
        x, y = axes_of(points, frame, ACCURACY)
        boxes = [label.box for label in labels if label is not None]
        for box, other in combinations(boxes, 2):
            assert box.overlap(other) == 0
        for box in boxes:
            assert 0 <= box.left < box.right <= frame.width
            assert 0 <= box.top < box.bottom <= frame.height
            for point in points:
                across, up = x.pixel(point.x), y.pixel(point.y)
                assert box.overlap(Box(across - 5, up - 5, across + 5, up + 5)) == 0
        least = {"wide": 0.95, "narrow": 0.6 if count > 12 else 1.0}[frame.page]
        assert len(boxes) >= least * count


def test_a_label_without_a_place_is_named_below(run, monkeypatch):
    monkeypatch.setattr(charts, "labels_of", lambda points, frame, metric: [None] * len(points))
    text = read(run).text
    assert "1 slide, 2 cbam, 3 depthwise convolution, 4 no attention" in text


def test_axes_mark_round_numbers_and_keep_within_bounds():
    drawn = axis([0.0, 97.0], 100, 0, bounds=(0, 100))
    assert drawn.ticks(6) == [0, 20, 40, 60, 80, 100]
    assert (drawn.pixel(0), drawn.pixel(100)) == (100, 0)
    log = axis([1.0, 100.0], 0, 300, may_be_log=True)
    assert log.log
    assert log.pixel(10) == 150
    assert [t for t in log.ticks(5) if 1 <= t <= 100] == [1, 2, 5, 10, 20, 50, 100]
    assert replace(axis([1, 3], 0, 1), whole=True).ticks(5) == [1, 2, 3]


def test_every_recorded_paper_becomes_an_entry():
    for name in list_attention():
        for publication in publications(describe(name).paper):
            entry = bibtex(publication, key_of(publication))
            assert publication.title
            assert publication.author
            assert publication.year
            assert publication.arxiv or publication.doi
            assert entry.count("{") == entry.count("}")
    (slide,) = publications(describe("slide").paper)
    assert bibtex(slide, key_of(slide)) == (
        "@inproceedings{pan2023slide,\n"
        "  title = {{Slide-Transformer: Hierarchical Vision Transformer with Local "
        "Self-Attention}},\n"
        "  author = {Pan and others},\n  booktitle = {CVPR},\n  year = {2023},\n"
        "  eprint = {2304.04237},\n  archiveprefix = {arXiv},\n}"
    )
    first, second = publications(describe("neighborhood").paper)
    assert (first.year, second.year, second.author) == ("2023", "2022", "Hassani")
    assert not second.venue


@pytest.fixture
def kept(tmp_path) -> Run:
    """A run with predictions: `left` finds the first half of the images, `right` the second."""
    run = begin(tmp_path, Entry("slide", label="left"), Entry("window", label="right"), controls=(),
                seeds=(0, 1))  # fmt: skip
    labels = [index % 2 for index in range(8)]
    SetRecord(
        name="x", root=None, classes=["<b>", "dog"], channels=1, side=(2, 2), cache=None,
        ranges={}, in_memory=True, whole=True, listed=10, unused=[],
        splits={"train": SplitRecord([0, 1], ["a", "b"], ["", ""]),
                "test": SplitRecord(labels, [f"<i>{i}" for i in range(8)], [""] * 8)},
        moments=Moments((0.5,), (0.25,), 2),
        findings=Findings.of([], {}, ["a note"], ["look at <u>"], Duplicates()),
    ).write(tmp_path_of(run) / "data")  # fmt: skip
    for entry, finds in zip(run.plan.entries, (range(4), range(4, 8)), strict=True):
        for seed in (0, 1):
            record = trial(entry.name, seed, 0.5, label=entry.label)
            health = Health(rising=entry.label == "left", chance=0.4)
            subject_ = record.subject._replace(attention=entry.key)
            run.records.write_trial(replace(record, subject=subject_, health=health))
            predicted = [y if i in finds else 1 - y for i, y in enumerate(labels)]
            run.records.write_predictions(entry.key, seed, Predictions(
                np.array(predicted, np.uint16), np.array(labels, np.uint16),
                np.arange(8, dtype=np.uint32)))  # fmt: skip
    return run


def tmp_path_of(run: Run):
    (run.root / "data").mkdir(exist_ok=True)
    return run.root


def test_classes_images_and_health_are_on_the_page(kept):
    text = write(kept).read_text()
    page = Page(text)
    assert "<b>" not in text.replace("<body", "")
    assert "<i>" not in text
    assert "<u>" not in text
    recalls = next(row for row in page.rows if row[0] == "right" and row[1:] == ["50", "50"])
    assert recalls
    assert next(r for r in page.rows if r[:2] == ["<b>", "dog"])[2:] == [
        "50 %", "left, 50 %", "right, 50 %"
    ]  # fmt: skip
    assert "left: 2 of 2 trials still rising at the end" in page.text
    assert page.text.count("look at <u>") == 1
    assert "mean 0.500 and deviation 0.250 of 2 training images" in page.text


def test_the_images_that_differ_most(kept):
    results = read_results(kept.root, kept.plan)
    found = disputed(results, most=3)
    assert [(one.image, one.label, one.name) for one in found] == [
        (0, "<b>", "<i>0"), (1, "dog", "<i>1"), (2, "<b>", "<i>2")
    ]  # fmt: skip
    assert found[0].found == {"left": 1.0, "right": 0.0}
    assert found[0].instead == {"right": "dog"}
    maps = AttentionMaps(
        subject("slide")._replace(attention="left"),
        [[0]],
        1,
        (),
        (ImageMap(0, (0, 1), [[0.5] * 2]),),
    )
    kept.records.write_attention_maps(maps)
    kept.records.write_pictures({0: [[0, 255], [255, 0]]})
    assert kept.records.attention_maps("left") == maps
    images = [a["alt"] for tag, a in read(kept).tags if tag == "img"]
    assert "Image <i>0" in images
    assert "What left attends to in <i>0 for the query at row 0, column 1" in images


def test_predictions_of_other_images_are_not_shown_as_held_out_ones(kept):
    for seed in (0, 1):
        old = kept.records.predictions("left", seed)
        kept.records.write_predictions("left", seed, old._replace(labels=1 - old.labels))
    with pytest.raises(ValueError, match="labels are not those of the held-out images"):
        read_results(kept.root, kept.plan)

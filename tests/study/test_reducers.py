"""Studies of reducers: the rows are one vision transformer, whole and made cheaper."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import timm
import torch

import foveate
from foveate.study.early_exits import Exits
from foveate.study.own_host import learnt
from foveate.study.plan import complete, load_plan, read_plan
from foveate.study.probe import look_at_host, probe
from foveate.study.results import read_results
from foveate.study.trial import build, costs
from foveate.tasks import ReducedClassification
from tests.study.test_compare import compare
from tests.study.test_own_host import GREY

HOST = "timm/vit_tiny_patch16_224"
NARROW = {"patch_size": 4, "img_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 2}
SMALL = {"host": HOST, "host_kwargs": NARROW, "image_size": [16, 16], "device": "cpu", "seeds": 1}
HALF = "tome:r=4"


def plan_of(**settings):
    return complete(read_plan({**SMALL, "attention": [HALF], **settings}))


def test_a_study_of_reducers_leaves_its_whole_result(tmp_path):
    run = tmp_path / "run"
    options = [f"{key}={value}" for key, value in NARROW.items()]
    code = compare(
        "--host", HOST, "--host-kwargs", *options, "--attention", HALF, "--data", "digits",
        "--limit", 60, "--image-size", 16, "--epochs", 1, "--seeds", 1, "--out", run,
    )  # fmt: skip
    assert code == 0
    (trial,) = (run / "trials").glob("tome*")
    (row,) = foveate.changes(foveate.load(trial).model).table()
    assert (row["now"], row["options"]) == ("tome", "r=4")
    page = (run / "report.html").read_text()
    assert "the whole model made cheaper" in page
    rows = read_results(run, load_plan(run / "plan.yaml")).rows
    cheap, whole = sorted(rows, key=lambda row: row.subject.control)
    assert cheap.measured.multiply_adds < whole.measured.multiply_adds
    assert cheap.measured.parameters == whole.measured.parameters


def test_the_control_is_the_whole_model_alone():
    plan = plan_of()
    assert [entry.name for entry in plan.controls] == ["none"]
    assert len(plan_of(attention=[HALF, "cbam"]).controls) == 2
    assert len(plan_of(controls=["none", "depthwise_conv"], attention=["cbam"]).controls) == 2


def test_rows_of_a_seed_begin_with_equal_weights():
    plan = plan_of(attention=[HALF, "tome:r=1"])
    states = []
    for entry in plan.entries:
        torch.manual_seed(3)
        states.append(build(plan, entry, 10, 1).state_dict())
    for state in states[1:]:
        assert all(torch.equal(state[key], value) for key, value in states[0].items())
    half, little, whole = (
        costs(plan, build(plan, entry, 10, 1), 1).multiply_adds for entry in plan.entries
    )
    assert half < little < whole


def test_the_host_teaches_where_it_knows_the_classes(tmp_path):
    images = SimpleNamespace(classes=list(range(10)), channels=1)
    path = str(tmp_path / "host.pth")
    options = {**NARROW, "in_chans": 3}
    torch.save(timm.create_model(HOST[5:], num_classes=10, **options).state_dict(), path)
    plan = plan_of(weights=path)
    (entry, none) = plan.entries
    assert learnt(plan, entry, images).teacher is not None
    assert not isinstance(learnt(plan, none, images), ReducedClassification)
    images.classes.pop()
    assert learnt(plan, entry, images).teacher is None
    assert learnt(plan_of(), entry, images).teacher is None


def test_a_host_with_a_place_by_name_is_refused():
    plan = plan_of(host="pyramid_pico", host_kwargs={})
    with pytest.raises(ValueError, match="tome reduces a vision transformer, and host is pyramid"):
        probe(plan, lambda label: None)


def test_a_host_without_tokens_is_refused():
    plan = plan_of(host="timm/test_resnet", host_kwargs={})
    with pytest.raises(ValueError, match="without tokens"):
        look_at_host(plan, 10, 1, GREY, lambda label: None)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("dvt:grids=[2]", "it is not cheaper yet when it has been trained: let images leave, by"),
        ("dvt:grids=[2],budget=9", "budget is a share of the given model's multiply-adds, between"),
        ("vtp", "the model is trained, pruned and trained on, which takes two epochs; epochs=1"),
    ],
)
def test_what_training_would_not_make_cheaper_is_refused(entry, said):
    with pytest.raises(ValueError, match=said):
        look_at_host(plan_of(attention=[entry], epochs=1), 10, 1, GREY, lambda label: None)


def test_a_study_of_what_is_cheaper_only_after_steps_of_its_own(tmp_path):
    run = tmp_path / "run"
    options = [f"{key}={value}" for key, value in NARROW.items()]
    dvt, vtp = "dvt:grids=[2],budget=0.8", "vtp:keep=0.5"
    code = compare(
        "--host", HOST, "--host-kwargs", *options, "--attention", dvt, vtp, "--data", "digits",
        "--limit", 200, "--image-size", 16, "--epochs", 3, "--seeds", 1, "--out", run,
    )  # fmt: skip
    assert code == 0
    rows = read_results(run, load_plan(run / "plan.yaml")).rows
    cascade, pruned, whole = (
        next(row for row in rows if row.subject.mechanism == name)
        for name in ("dvt", "vtp", "none")
    )
    # Pruned for good, and counted and measured so.
    (trial,) = (run / "trials").glob("vtp*")
    model = foveate.load(trial).model
    assert model.blocks.pruned
    assert pruned.parameters < whole.parameters
    assert pruned.measured.multiply_adds == pruned.multiply_adds < 0.8 * whole.multiply_adds
    (record,) = pruned.done.values()
    assert [epoch.epoch for epoch in record.history] == [1, 2, 3]
    assert record.reported_epoch == 3
    # Images leave, and cost that in the mean.
    (trial,) = (run / "trials").glob("dvt*")
    model = foveate.load(trial).model
    assert model.leaves_early
    costs_of = model.exit_multiply_adds((16, 16))
    assert costs_of[0] <= cascade.multiply_adds <= costs_of[-1]
    assert cascade.measured.multiply_adds == cascade.multiply_adds
    assert cascade.latency is not None
    page = (run / "report.html").read_text()
    assert "on a fifth of the training images, which it does not learn from" in page
    assert "its multiply-adds are the mean over the held-out images" in page
    assert "it learns with scores for 0.5 of the epochs, is pruned to 0.5" in page
    assert not list(run.glob("trials/*/before"))


def test_a_batch_leaves_as_all_images_do():
    exits = Exits(torch.tensor([0, 2, 0, 1] * 10), 5)
    taken = exits.taken[exits.like_all(16)]
    assert torch.bincount(taken).tolist() == [8, 4, 4]
    assert len(set(exits.like_all(16))) == 16
    assert len(Exits(torch.tensor([0, 1]), 5).like_all(16)) == 16

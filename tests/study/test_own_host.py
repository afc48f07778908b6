"""Studies on a model of the user's own: timm's by name, or what a file's function gives."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

import foveate
from foveate.data.moments import Moments
from foveate.study.costing import match_hosts
from foveate.study.entry import Entry
from foveate.study.matching import matched_plan
from foveate.study.own_host import create_host, normalization
from foveate.study.plan import Plan, complete, read_plan
from foveate.study.probe import look_at_host
from foveate.study.results import read_results
from foveate.study.trial import build, costs, input_size
from foveate.surgery.recipe import freeze_norms, load
from foveate.training.optimizer import create_optimizer, create_schedule
from foveate.training.recipe import Recipe
from tests.study.test_compare import compare, numbers, refused

FILE = Path(__file__).with_name("own_model.py")
OWN = f"{FILE}:build"
SMALL = {"image_size": [16, 16], "device": "cpu", "seeds": 1}
GREY = Moments((0.3,), (0.4,), 9)


def plan_of(host: str = OWN, **settings: object) -> Plan:
    return complete(read_plan({**SMALL, "attention": ["cbam"], "host": host, **settings}))


def probed(plan: Plan, classes: int = 10):
    return look_at_host(plan, classes, 1, GREY, lambda label: None)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Of seven classes, wrapped as training scripts leave them."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "published.pth"
    state = timm.create_model("test_resnet", num_classes=7).state_dict()
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory, weights) -> Path:
    """A finished study: a gate at the branches of a trained timm model."""
    run = tmp_path_factory.mktemp("own") / "run"
    code = compare(
        "--host", "timm/test_resnet", "--weights", weights, "--attention", "cbam", "--data",
        "digits", "--limit", 64, "--epochs", 1, "--image-size", 16, "--seeds", 1, "--workers", 2,
        "--added-lr-scale", 10, "--where", "layer[12].*", "layer3.*", "--out", run,
    )  # fmt: skip
    assert code == 0
    return run


def test_a_study_on_a_trained_model_leaves_its_whole_result(study, weights):
    results = read_results(study, foveate.study.plan.load_plan(study / "plan.yaml"))
    assert {row.label for row in results.rows} == {"cbam", "plain convolution", "unchanged model"}
    assert not results.failures
    assert all(row.measured for row in results.rows)
    host = results.host
    assert host is not None
    assert host.places == 3
    assert list(host.digests) == [str(weights)]
    assert "the classifier (fc.weight, fc.bias) of 7 classes is left out" in " ".join(host.said)
    assert host.normalize.mean == (0.5, 0.5, 0.5)
    plan = results.plan
    assert (plan.lr, plan.freeze, plan.match) == (2e-4, "norms", "multiply_adds")
    assert foveate.study.plan.complete(plan_of(weights=str(weights))).added_lr_scale == 10
    notes = " ".join(results.notes)
    assert "its batch norms keep their statistics, weights and biases" in notes
    assert "at 10 times the learning rate of the rest" in notes
    page = (study / "report.html").read_text()
    for said in ("timm/test_resnet, weights published.pth; 3 places changed", "layer1.0.bn2",
                 "which the host states", "10 times the learning rate"):  # fmt: skip
        assert said in page


def test_trained_models_load_into_the_users_own(study):
    """The recipe of what was put in lies beside the weights."""
    model = timm.create_model("test_resnet", num_classes=10)
    norm = model.bn1.weight.clone()
    load(model, study / "trials" / "cbam-seed0" / "model.safetensors",
         example=torch.zeros(2, 3, 16, 16))  # fmt: skip
    assert [change.now for change in foveate.changes(model)] == ["cbam"] * 3
    scales = [p for p in foveate.added(model) if p.dim() == 1 and p.abs().sum() > 0]
    assert scales  # learned
    unchanged = timm.create_model("test_resnet", num_classes=10)
    load(unchanged, study / "trials" / "none-seed0" / "model.safetensors")
    assert norm.shape == unchanged.bn1.weight.shape


@pytest.mark.parametrize("row", ["cbam", "depthwise_conv", "none"])
def test_trained_models_load_by_their_files_alone(study, row):
    plan = foveate.study.plan.load_plan(study / "plan.yaml")
    folder = study / "trials" / f"{row}-seed0"
    model, info = foveate.load(folder)
    same = timm.create_model("test_resnet", num_classes=10)
    load(same, folder / "model.safetensors", example=torch.zeros(2, 3, 16, 16))
    x = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(model(x), same.eval()(x))
    assert info.input.channels == 1
    assert info.input.mean == timm.get_pretrained_cfg("test_resnet").mean
    assert info.input.size == plan.image_size


@pytest.mark.slow
def test_a_study_goes_on_with_the_same_files_alone(study, weights, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(study, run)
    before = numbers(run)
    shutil.rmtree(run / "trials" / "none-seed0")
    kept = weights.read_bytes()
    torch.save(timm.create_model("test_resnet", num_classes=7).state_dict(), weights)
    try:
        assert "is not what it was when this study began" in refused(capsys, "--resume", run)
    finally:
        weights.write_bytes(kept)
    assert compare("--resume", run) == 0
    assert numbers(run) == before


def test_a_model_of_a_file_is_compared_in_its_stages():
    plan = plan_of(at="stage", attention=["neighborhood:kernel_size=3"], host_kwargs={"width": 12})
    found = probed(plan)
    assert found.host is not None
    assert found.host.changes["neighborhood_kernel_size=3"][0]["now"] == "neighborhood"
    assert found.host.said == ["grey images are given to the host as three equal channels"]
    assert found.subjects["none"].label == "unchanged model"
    x = torch.randn(2, *input_size(plan, 1))
    made = []
    for entry in plan.entries:
        torch.manual_seed(0)
        made.append(build(plan, entry, 10, 1).eval()(x))
    assert all(torch.equal(one, made[0]) for one in made)  # every row begins as the same function


@pytest.mark.slow
def test_a_study_on_a_model_of_a_file(tmp_path):
    result = foveate.compare(
        host=OWN, attention=["cbam"], data="digits", limit=64, epochs=1, seeds=2, image_size=16,
        at="stage", out=tmp_path / "run",
    )  # fmt: skip
    assert not result.failures
    assert len(result.results.rows) == 3
    for row in ("cbam", "depthwise_conv"):
        folder = tmp_path / "run" / "trials" / f"{row}-seed0"
        with pytest.raises(ValueError, match="was trained in a model of your own"):
            foveate.load(folder)
        model, info = foveate.load(folder, host=OWN)
        assert len(foveate.changes(model)) > 0
        assert info.architecture.digest is not None


@pytest.mark.parametrize("by", ["multiply_adds", "parameters"])
def test_the_control_costs_as_much_as_the_costliest_mechanism(by):
    rows = ["cbam", "multi_head"]
    plan = plan_of(match=by, attention=rows, host_kwargs={"width": 32})
    plan = matched_plan(plan, match_hosts(plan, 10, 1, lambda label: None))
    found = {}
    for entry in plan.entries:
        known = costs(plan, build(plan, entry, 10, 1), 1)
        found[entry.name] = known.parameters if by == "parameters" else known.multiply_adds
    costliest = max(found[name] for name in rows)
    assert found["depthwise_conv"] == pytest.approx(costliest, rel=0.01)
    assert found["none"] < found["cbam"]


def test_replaced_attention_is_handed_over():
    plan = plan_of("timm/test_vit", at="attention", attention=["neighborhood:kernel_size=3"],
                   image_size=[32, 48])  # fmt: skip
    x = torch.randn(1, *input_size(plan, 3))
    made = []
    for entry in plan.entries:
        torch.manual_seed(0)
        made.append(build(plan, entry, 5, 3).eval()(x))
    assert all(torch.allclose(one, made[0], atol=1e-6) for one in made)
    swapped = replace(plan, start="plain")
    torch.manual_seed(0)
    assert not torch.allclose(build(swapped, plan.attention[0], 5, 3).eval()(x), made[0])


def test_weights_are_resampled_as_timm_does(tmp_path):
    """Position embeddings of a ViT are of one size of image."""
    path = tmp_path / "vit.safetensors"
    save_file(timm.create_model("test_vit", num_classes=10).state_dict(), path)
    assert plan_of("timm/test_vit", weights=str(path), image_size=None).image_size == (160, 160)
    built = create_host(plan_of("timm/test_vit", weights=str(path), image_size=32), 10, 3)
    assert built.said == ["weights: resampled for the size of the images: pos_embed"]
    assert built.model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_images_are_normalized_as_the_weights_want():
    plan = plan_of("timm/test_resnet")
    model = create_host(plan, 10, 1).model
    assert normalization(plan, model, GREY, 1) == GREY
    trained = replace(plan, weights="w.pth")
    assert normalization(trained, model, GREY, 1).mean == (0.5, 0.5, 0.5)
    own = normalization(plan_of(), nn.Identity(), GREY, 1)
    assert own == Moments((0.3,) * 3, (0.4,) * 3, 9)


def test_what_is_put_in_learns_at_its_own_rate():
    plan = plan_of(added_lr_scale=10)
    model = build(plan, plan.attention[0], 10, 1)
    recipe = Recipe(epochs=2, lr=1e-3, added_lr_scale=10.0)
    optimizer = create_optimizer(model, recipe)
    create_schedule(optimizer, recipe, 5).step_update(5)
    new = {id(p) for p in foveate.added(model)}
    seen = set()
    for group in optimizer.param_groups:
        ours = {id(p) in new for p in group["params"]}
        assert len(ours) == 1
        assert group["lr"] == pytest.approx(1e-2 if ours == {True} else 1e-3)
        seen |= {id(p) for p in group["params"]}
    assert seen == {id(p) for p in model.parameters()}


def test_frozen_norms_keep_statistics_and_weights():
    plan = plan_of()
    model = freeze_norms(build(plan, plan.attention[0], 10, 1)).train()
    before = {k: v.clone() for k, v in model.state_dict().items() if "norm.running" in k}
    model(torch.randn(4, 3, 16, 16)).sum().backward()
    now = model.state_dict()
    assert len(before) == 4
    assert all(torch.equal(now[key], value) for key, value in before.items())
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {"1.conv.weight", "5.weight"} <= learning
    assert not any(name.endswith("1.norm.weight") for name in learning)
    freeze_norms(model, False).train()(torch.randn(4, 3, 16, 16))
    assert not torch.equal(model.state_dict()["1.norm.running_mean"], before["1.norm.running_mean"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"host": "timm/test_resne"}, "timm has no model 'test_resne'; did you mean 'test_resnet'"),
        ({"where": ["1.normm"]}, "no place matches '1.normm'; did you mean '1.norm'"),
        ({"where": ["1.*", "layr.*"]}, "no place matches 'layr.*'; known: 1.norm"),
        ({"at": "attntion"}, r"no place matches 'attntion'.*; at may be a glob.*attention"),
        ({"host": f"{FILE}:bild"}, "has no function 'bild'; did you mean 'build'"),
        ({"host": "absent.py:build"}, "host names 'absent.py'.*no such file"),
        ({"host": f"{FILE}:build_map"}, r"gives \(10, 16, 16\), and should one logit for each of"),
        ({"host": f"{FILE}:build_nothing"}, "gives int, and should a torch.nn.Module"),
        ({"host": f"{FILE}:build_badly"}, r"build_badly\(10\) of .* raised KeyError: 'width'"),
        ({"weights": "absent.pth"}, "weights: there is no file 'absent.pth'"),
        ({"attention": ["cbam:ratio=2"]}, "cbam has no option 'ratio'"),
        ({"controls": ["none:x=1"]}, "none has no option 'x'"),
        ({"host_kwargs": {"depth": 2}}, "raised TypeError: .*'depth'"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_trains(settings, message):
    with pytest.raises(ValueError, match=message):
        probed(plan_of(**settings))


def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match=r"published.pth.*cannot load these weights, 0 of whose"):
        probed(plan_of(weights=str(weights)))


def test_the_command_refuses_in_one_line(capsys, tmp_path, weights):
    run = tmp_path / "run"
    asked = ("--data", "digits", "--limit", 16, "--image-size", 16, "--out", run)
    said = refused(capsys, "--host", OWN, "--weights", weights, *asked)
    assert "cannot load these weights" in said
    assert not run.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "w.pth"}, "weights is for a host of your own .timm/NAME or FILE.py:FUNCTION"),
        ({"host": "own_model.py"}, "names no function of the file: own_model.py:build"),
        ({"host": OWN, "match": "latency"}, "match cannot be latency in a host of your own"),
        ({"host": OWN, "freeze": "norm"}, "freeze must be norms or nothing"),
        ({"host": OWN, "where": []}, "where must be a glob"),
        ({"host": OWN, "added_lr_scale": 0}, "added_lr_scale must be a finite number above 0"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        read_plan(settings)


def test_the_record_of_a_host_reads_back(study):
    values = json.loads((study / "host.json").read_text())
    assert values["changes"]["none"] == []
    assert Entry("cbam").key in values["changes"]

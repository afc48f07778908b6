"""A training from its call to its files: on what there is, cut off, again, from weights."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file

import foveate
from foveate.saved.rebuild import rebuild
from foveate.study.compare import compare
from foveate.study.entry import PlanError
from foveate.study.warm_start import warm_start
from foveate.trainer import run
from foveate.trainer.config import read_config
from foveate.trainer.recipes import list_recipes, recipe_file
from foveate.trainer.record import TrainingRecord
from foveate.trainer.run import train
from foveate.trainer.runs import list_trainings
from foveate.training import CHECKPOINT
from tests.data.annotated import make_coco
from tests.data.folders import make_folder
from tests.data.masks import make_scenes

TINY = {
    "data": "digits", "limit": 64, "epochs": 2, "batch_size": 16, "threads": 1, "samples": 4,
    "model_kwargs": {"depths": [1, 1, 1, 1]},
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(out=tmp_path_factory.mktemp("runs") / "a", attention="slide", **TINY)


def test_a_training_is_a_trial_of_a_study(trained, tmp_path):
    """The same recipe, seed and data give the same numbers."""
    study = {key: value for key, value in TINY.items() if key not in ("samples", "model_kwargs")}
    result = compare(
        out=tmp_path / "study", attention=["slide"], controls=[], seeds=1,
        host_kwargs=TINY["model_kwargs"], **study,
    )  # fmt: skip
    row = result.results.rows[0]
    assert row.scores == {0: trained.record.metrics["accuracy"]}


def test_what_is_left_is_the_model_and_nothing_to_go_on_from(trained, capsys):
    names = {path.name for path in trained.root.iterdir()}
    assert {"config.yaml", "model.safetensors", "best.safetensors", "training.json"} <= names
    assert CHECKPOINT not in names
    model, info = foveate.load(trained.path)
    assert info.metrics["accuracy"] == trained.record.metrics["accuracy"]
    assert len(info.classes) == 10
    assert model(torch.zeros(1, 1, 32, 32)).shape == (1, 10)
    assert (trained.root / "samples" / "index.html").is_file()
    best = foveate.load(trained.root / "best.safetensors").info.metrics["accuracy"]
    assert best == max(epoch["accuracy"] for epoch in trained.record.history)
    again = train(resume=trained.root)
    assert again.record == trained.record
    assert "this training is over" in capsys.readouterr().out


def test_another_configuration_is_refused(trained):
    with pytest.raises(PlanError, match=r"belongs to another training \(epochs is 2 there"):
        train(out=trained.root, attention="slide", **{**TINY, "epochs": 3})
    with pytest.raises(PlanError, match="leave out 'epochs'"):
        train(resume=trained.root, epochs=3)


def test_what_is_refused_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="timm has no model 'resnet17'"):
        train(out=tmp_path / "run", **{**TINY, "model": "resnet17", "model_kwargs": {}})
    assert not (tmp_path / "run").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("...")
    with pytest.raises(PlanError, match="is no training's directory; choose another --out"):
        train(out=tmp_path / "other", **TINY)


def test_a_full_disk_is_said_and_how_to_go_on(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "last.ckpt")

    with monkeypatch.context() as patch:
        patch.setattr("foveate.trainer.run.train_in_stages", full)
        with pytest.raises(ValueError, match=r"disk is full: last.ckpt .* --resume .*run"):
            train(out=tmp_path / "run", **TINY)
    assert len(train(resume=tmp_path / "run").record.history) == 2


@pytest.mark.slow
def test_two_processes_give_the_numbers_of_one(trained, tmp_path):
    words = [f"--{key.replace('_', '-')}={value}" for key, value in TINY.items()
             if key not in ("model_kwargs", "samples")]  # fmt: skip
    command = [
        sys.executable, "-m", "foveate", "train", "--attention", "slide", *words, "--samples=0",
        "--model-kwargs", "depths=[1,1,1,1]", "--devices", "2", "--out", str(tmp_path / "two"),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=280)
    found = TrainingRecord.read(tmp_path / "two")
    assert found.metrics == pytest.approx(trained.record.metrics, rel=1e-5)
    again = [*command[:4], "--resume", str(tmp_path / "two")]
    done = subprocess.run(again, check=True, capture_output=True, timeout=120, text=True)
    assert "this training is over" in done.stdout


def test_one_that_was_killed_ends_in_the_same_numbers(trained, tmp_path):
    root = tmp_path / "killed"
    code = (
        "import sys, json; from foveate.trainer.run import train; "
        "train(out=sys.argv[1], attention='slide', **json.loads(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(root), json.dumps({**TINY, "samples": 0})]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (root / CHECKPOINT).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (root / "training.json").exists()
    found = list_trainings([tmp_path])[0]
    assert (found.state, found.total, found.host) == ("interrupted", 2, "pyramid_pico")
    assert found.done in (1, 2)
    ended = train(resume=root)
    assert list_trainings([root])[0].said == "finished"
    assert ended.record.metrics == trained.record.metrics
    mine, theirs = load_file(ended.path), load_file(trained.path)
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_weights_are_taken_as_far_as_they_fit_and_this_is_said(trained, tmp_path, capsys):
    state = {key: value.clone() for key, value in load_file(trained.path).items()}
    for key in [key for key in state if key.startswith("head")]:
        state[key] = state[key].new_zeros((3, *state[key].shape[1:]))
    state["extra.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "w.safetensors")
    model = foveate.load(trained.path).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    said = "\n".join(warm_start(model, str(tmp_path / "w.safetensors"), "pyramid_pico").said)
    assert "start fresh" in said
    assert "extra.weight" in said
    assert torch.equal(model.state_dict()["head.fc.weight"], before["head.fc.weight"])
    other = timm.create_model("resnet10t")
    with pytest.raises(ValueError, match=r"only \d+ ?% of the numbers of ResNet are in it"):
        warm_start(other, str(tmp_path / "w.safetensors"), "resnet10t")
    with pytest.raises(ValueError, match="there is no such file"):
        warm_start(model, str(tmp_path / "none.pth"), "pyramid_pico")


def test_a_training_starts_from_anothers_weights(tmp_path, capsys):
    """With the size and normalization of that one: a step too small to matter changes nothing."""
    data = make_folder(tmp_path / "data", {"a": 12, "b": 12}, (40, 40))
    given = {
        **TINY, "data": str(data), "limit": None, "attention": "slide", "batch_size": 6,
        "image_size": 32, "samples": 0, "select": "last",
    }  # fmt: skip
    first = train(out=tmp_path / "first", **given)
    again = train(
        out=tmp_path / "again", weights=str(first.root),
        **{**given, "epochs": 1, "lr": 1e-9, "image_size": None},
    )  # fmt: skip
    said = capsys.readouterr().out
    assert "100.0% of the numbers of Pyramid are taken from it" in said
    assert "images are normalized as in its training" in said
    assert again.config.plan.image_size == (32, 32)
    assert again.record.metrics["loss"] == pytest.approx(first.record.metrics["loss"], rel=1e-4)


def test_segmentation(tmp_path):
    data = make_scenes(tmp_path / "scenes", {"train": 6, "val": 3}, size=(40, 48))
    ended = train(
        task="segmentation", model="semantic_fpn:resnet10t", data=str(data), image_size=32,
        epochs=1, batch_size=3, threads=1, samples=2, out=tmp_path / "run",
        head_kwargs={"neck_dim": 8, "dim": 8},
    )  # fmt: skip
    model, info = foveate.load(ended.path)
    assert info.task == "segmentation"
    assert model(torch.zeros(1, 3, 40, 48)).shape == (1, 3, 40, 48)
    assert (tmp_path / "run" / "samples" / "masks").is_dir()


def test_a_head_has_its_published_size(tmp_path):
    """That of a study, on a small host, is small; nothing here says that it should be."""
    config = read_config(
        {"task": "segmentation", "model": "upernet:resnet10t", "data": "x", "image_size": 32}
    )
    built = run._published_head(config, 3)
    assert (built.head_options, built.plain) == ({}, False)
    assert rebuild(built, 3).head.conv_seg.in_channels == 512


def test_detection(tmp_path):
    data = make_coco(tmp_path / "boxes")
    ended = train(
        task="detection", model="retinanet:resnet10t", data=str(data), image_size=64,
        epochs=1, batch_size=2, threads=1, samples=2, out=tmp_path / "run",
        head_kwargs={"dim": 8, "num_convs": 1},
    )  # fmt: skip
    _, info = foveate.load(ended.path)
    assert [category.id for category in info.categories] == [3, 7]
    assert set(ended.record.metrics) >= {"ap", "ap50", "ap75"}


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "training.json").write_text('{"format": 1, "metrics": {}}')
    with pytest.raises(ValueError, match=r"training.json is damaged: 'reported_epoch' is missing"):
        TrainingRecord.read(tmp_path)


VIT = {
    **TINY, "model": "vit_tiny_patch16_224", "epochs": 1, "samples": 0,
    "model_kwargs": {"patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3},
}  # fmt: skip


def test_a_model_is_reduced_and_learns_from_what_it_was(tmp_path, capsys):
    plain = train(out=tmp_path / "plain", **VIT)
    options = {**VIT, "weights": str(plain.root), "added_lr_scale": 10.0}
    reduced = train(out=tmp_path / "reduced", reduce="dynamicvit:keep=0.5,stages=[1,2]", **options)
    assert "the model that it was teaches it, with weight 0.5" in capsys.readouterr().out
    names = {name.removeprefix("train_") for name in reduced.record.history[0]}
    assert {"ratio", "distillation", "tokens"} <= names
    model, _ = foveate.load(reduced.path)
    assert foveate.changes(model).recipe["reduction"] == {
        "reducer": "dynamicvit",
        "options": {"keep": 0.5, "stages": [1, 2]},
    }
    with pytest.raises(PlanError, match="reduce is for classification"):
        read_config({"task": "segmentation", "reduce": "tome"})
    with pytest.raises(ValueError, match="is a model without tokens"):
        train(out=tmp_path / "none", reduce="tome", **TINY)


@pytest.mark.parametrize(
    ("reducer", "said", "epochs"),
    [
        ("vtp:keep=0.5", "is pruned to 0.5 of its channels, and trained on", 2),
        ("dvt:grids=[2],budget=0.8", "thresholds are solved for 0.8 of the whole model's", 1),
    ],
)
def test_a_reducer_with_a_step_of_its_own_ends_cheaper(reducer, said, epochs, tmp_path, capsys):
    found = train(out=tmp_path, reduce=reducer, **{**VIT, "epochs": epochs})
    assert said in capsys.readouterr().out
    assert any(said in sentence for sentence in found.record.said)
    assert len(found.record.history) == epochs
    assert found.record.best_epoch == epochs
    assert {path.name for path in tmp_path.glob("*before*")} == set()
    model = foveate.load(found.path).model
    made = foveate.reduction.reducer_of(model)
    assert made.leaves_early if reducer.startswith("dvt") else made.pruned


@pytest.mark.slow
@pytest.mark.parametrize("name", list_recipes())
def test_two_steps_of_a_published_recipe(name, tmp_path):
    """At small size, on one image a batch or two, with everything else as it is published."""
    task = foveate_task(name)
    if task == "classification":
        data, size = make_folder(tmp_path / "data", {"a": 5, "b": 5}, (72, 80)), 64
    elif task == "segmentation":
        data, size = make_scenes(tmp_path / "data", {"train": 4, "val": 2}, size=(72, 80)), 64
    else:
        data, size = make_coco(tmp_path / "data"), 64
    epochs = 2 if name.startswith("vtp") else 1  # one before it is pruned, and one after
    ended = train(
        recipe_file(name), data=str(data), image_size=size, batch_size=2, epochs=epochs, limit=4,
        samples=0, threads=1, precision="32-true", out=tmp_path / "run", warmup_epochs=0,
        weights=None,
    )  # fmt: skip
    assert len(ended.record.history) == epochs


def foveate_task(name):
    return yaml.safe_load(recipe_file(name).read_text())["task"]

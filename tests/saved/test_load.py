"""``foveate.load``: a trained model from its file, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

import foveate
from foveate.saved.info import Architecture
from foveate.saved.rebuild import rebuild
from foveate.surgery import save
from foveate.surgery._weights_file import read_tensors, write_tensors
from foveate.training.checkpoint import save_weights
from tests.saved.test_info import CLASSIFIER, DETECTOR, SEGMENTER

OWN = Path(__file__).parents[1] / "study" / "own_model.py"
BUILT = [
    replace(CLASSIFIER, architecture=Architecture("classifier", "resnet10t", {"in_chans": 1})),
    replace(
        SEGMENTER,
        architecture=Architecture(
            "segmenter", "resnet10t", {}, "fcn", {"dim": 8}, {"auxiliary": True}, plain=True
        ),
    ),
    replace(
        DETECTOR,
        architecture=Architecture("detector", "resnet10t", {}, "retinanet", {"dim": 8}),
    ),
]


def saved(info, folder: Path) -> tuple[torch.nn.Module, Path]:
    model = rebuild(info.architecture, len(info.classes), code=info.architecture.backbone).eval()
    save_weights(model, folder / "model.safetensors", info)
    return model, folder / "model.safetensors"


def changed():
    return pytest.warns(UserWarning, match="has changed since")


@pytest.mark.parametrize("info", BUILT, ids=lambda info: info.task)
def test_the_model_comes_back_for_every_task(info, tmp_path):
    model, path = saved(info, tmp_path)
    found = foveate.load(tmp_path)
    assert found.info.classes == info.classes
    assert found.info == foveate.load(path).info
    assert not found.model.training
    x = torch.rand(1, info.input.channels, 64, 64)
    with torch.inference_mode():
        one, other = model(x), found.model(x)
    if info.task == "detection":
        one, other = one[0]["boxes"], other[0]["boxes"]
    torch.testing.assert_close(one, other)


def test_what_was_put_into_it_comes_back(tmp_path):
    info = replace(CLASSIFIER, architecture=Architecture("classifier", "resnet10t", {}))
    info = replace(info, input=replace(info.input, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3))
    model = timm.create_model("resnet10t", num_classes=2).eval()
    foveate.insert(model, "cbam", example=torch.zeros(1, 3, 32, 40))
    save_weights(model, tmp_path / "m.safetensors", info)
    again = foveate.load(tmp_path / "m.safetensors").model
    assert foveate.changes(again).recipe == foveate.changes(model).recipe
    x = torch.rand(2, 3, 32, 40)
    with torch.inference_mode():
        torch.testing.assert_close(again(x), model(x))


def test_a_reduced_model_comes_back_reduced(tmp_path):
    narrow = {"patch_size": 8, "img_size": 32, "embed_dim": 24, "depth": 2, "num_heads": 2}
    info = replace(
        CLASSIFIER, architecture=Architecture("classifier", "deit_tiny_patch16_224", narrow)
    )
    info = replace(info, input=replace(info.input, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3))
    model = timm.create_model("deit_tiny_patch16_224", num_classes=2, **narrow).eval()
    model = foveate.reduce(model, "tome", r=3)
    save_weights(model, tmp_path / "m.safetensors", info)
    again = foveate.load(tmp_path / "m.safetensors").model
    assert foveate.changes(again).recipe == foveate.changes(model).recipe
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(again(x), model(x))


def test_a_model_of_the_users_own_needs_their_word(tmp_path):
    built = Architecture("own", f"{OWN}:build", {"width": 4}, digest="0" * 64)
    info = replace(CLASSIFIER, architecture=built)
    model, path = saved(info, tmp_path)
    with pytest.raises(ValueError, match=r"built by .*own_model.py:build: name that code"):
        foveate.load(path)
    with changed():
        again = foveate.load(path, host=f"{OWN}:build").model
    x = torch.rand(2, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(again(x), model(x))
    with pytest.raises(ValueError, match="has no function 'built'"), changed():
        foveate.load(path, host=f"{OWN}:built")
    with pytest.raises(ValueError, match=r"FILE\.py:FUNCTION"):
        foveate.load(path, host="own_model")


def test_own_mechanisms_are_named_where_they_are_missing(tmp_path):
    options = {"attention": "own_thing", "dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}
    info = replace(CLASSIFIER, architecture=Architecture(
        "classifier", "pyramid_pico", {**options, "attention": "none"}))  # fmt: skip
    model, path = saved(info, tmp_path)
    save_weights(model, path, replace(info, architecture=Architecture(
        "classifier", "pyramid_pico", options, imports=("/x/own_things.py",))))  # fmt: skip
    with pytest.raises(ValueError, match=r"unknown.*own_thing.*--imports\): /x/own_things.py"):
        foveate.load(path)


def test_it_needs_no_training_stack(tmp_path):
    _, path = saved(BUILT[0], tmp_path)
    code = (
        f"import sys, foveate; foveate.load({str(path)!r}); assert 'lightning' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_damage_and_later_formats_are_refused(tmp_path):
    _, path = saved(BUILT[0], tmp_path)
    tensors, words = read_tensors(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        foveate.load(path)
    path.write_bytes(whole[:-9] + bytes(9))
    with pytest.raises(ValueError, match="damaged: its content is not what was written"):
        foveate.load(path)
    words["foveate.model"] = words["foveate.model"].replace('"format": 1', '"format": 7')
    write_tensors(path, tensors, words)
    with pytest.raises(ValueError, match="written by a later Foveate"):
        foveate.load(path)


def test_weights_of_another_model_are_refused(tmp_path):
    model, path = saved(BUILT[0], tmp_path)
    save_weights(model, path, replace(BUILT[0], classes=("a", "b", "c")))
    with pytest.raises(ValueError, match="does not fit what it says of itself"):
        foveate.load(path)


def test_files_without_a_description_say_what_to_do(tmp_path):
    save(timm.create_model("resnet10t"), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"what model it holds.*foveate\.surgery\.load"):
        foveate.load(tmp_path)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        foveate.load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match=r"holds no model\.safetensors: name"):
        foveate.load(tmp_path)
    (tmp_path / "last.ckpt").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="its training is not finished"):
        foveate.load(tmp_path)
    with pytest.raises(ValueError, match="checkpoint to go on training from"):
        foveate.load(tmp_path / "last.ckpt")
    (tmp_path / "note.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"note.txt is damaged, or no safetensors"):
        foveate.load(tmp_path / "note.txt")


def test_of_a_study_the_trials_are_named(tmp_path):
    _, path = saved(BUILT[0], tmp_path)
    for name in ("cbam-seed0", "slide-seed0"):
        (tmp_path / "run" / "trials" / name).mkdir(parents=True)
        shutil.copy(path, tmp_path / "run" / "trials" / name)
    with pytest.raises(FileNotFoundError, match=r"several trained.*cbam-seed0, .*slide-seed0"):
        foveate.load(tmp_path / "run")

"""Checkpoints: read in every age, and refused in the user's terms where they do not fit."""

from __future__ import annotations

import pickle
import shutil
import warnings

import pytest
import torch
from torch import nn

from foveate.training import CheckpointError, Recipe, load_weights
from foveate.training.checkpoint import read_checkpoint, save_weights
from tests.training.test_loop import CutOffError, TinySegmentation, cut_off_in, net, numbers, run

RECIPE = Recipe(epochs=3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A training of three epochs that was cut off when two were saved."""
    directory = tmp_path_factory.mktemp("trained")
    with pytest.raises(CutOffError):
        run(directory, RECIPE, cut_off_in(3))
    return directory


@pytest.fixture
def cut(trained, tmp_path):
    """A copy of it to spoil."""
    shutil.copy(trained / "last.ckpt", tmp_path)
    return tmp_path


def refused(directory, message, recipe=RECIPE, **options):
    """The error names the file and says what to do, and the file stays as it was."""
    path = directory / "last.ckpt"
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=message) as caught:
        run(directory, recipe, **options)
    text = str(caught.value)
    assert str(path) in text
    assert "weights_only" not in text
    assert "\n" not in text
    assert path.read_bytes() == before
    return text


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    "spoil",
    [truncated, lambda data: b"", lambda data: b"no checkpoint", lambda data: pickle.dumps(RECIPE)],
    ids=["truncated", "empty", "text", "pickle of an object"],
)
def test_a_damaged_checkpoint_is_named_with_what_to_do(cut, spoil):
    path = cut / "last.ckpt"
    path.write_bytes(spoil(path.read_bytes()))
    refused(cut, "is damaged or no checkpoint of a training; remove it to train from the first")


@pytest.mark.parametrize("place", [0, 0.2, 0.5, 0.8, 0.95])
def test_a_flipped_bit_is_noticed(cut, place):
    path = cut / "last.ckpt"
    spoilt = bytearray(path.read_bytes())
    spoilt[round(place * len(spoilt))] ^= 16
    path.write_bytes(spoilt)
    refused(cut, r"its bytes are not those that were written \(SHA-256\); remove it to train from")


def test_a_checkpoint_without_a_checksum_is_read(cut):
    path = cut / "last.ckpt"
    checkpoint = read_checkpoint(path)
    assert torch.load(path, weights_only=True).keys() == checkpoint.keys()
    torch.save(checkpoint, path)
    assert read_checkpoint(path).keys() == checkpoint.keys()


def test_reading_a_checkpoint_runs_no_code_from_it(cut):
    class Attack:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"state_dict": {}, "callbacks": {"History": Attack()}}, cut / "last.ckpt")
    refused(cut, "is damaged or no checkpoint")


@pytest.mark.parametrize("saved", [{"state_dict": {}}, [1, 2]], ids=["weights alone", "a list"])
def test_a_file_of_something_else_is_refused(cut, saved):
    torch.save(saved, cut / "last.ckpt")
    refused(cut, "is damaged or no checkpoint")


def test_another_model_is_refused_before_anything_is_loaded(cut):
    wider = nn.Sequential(nn.Conv2d(1, 9, 3, padding=1), nn.Conv2d(9, 2, 1))
    before = {key: value.clone() for key, value in wider.state_dict().items()}
    text = refused(cut, "is of another model", model=wider)
    assert "0.bias is (8,) in it and (9,) in the model to train" in text
    for key, value in wider.state_dict().items():
        assert torch.equal(value, before[key])


def test_another_task_is_refused(cut):
    class Other(TinySegmentation):
        name = "other"

    refused(cut, "is of the task tiny_segmentation, not other", task=Other())


def test_another_optimizer_is_refused(cut):
    refused(cut, "was trained by adamw, not sgd", Recipe(epochs=3, optimizer="sgd"))


def test_fewer_epochs_than_are_done_are_refused(cut):
    refused(cut, "has 2 epochs behind it, more than epochs=1", Recipe(epochs=1))


def test_a_recipe_that_changed_is_said(cut):
    with pytest.warns(UserWarning, match=r"lr=0.002, now 0.001; the numbers will be those of nei"):
        _, result, _ = run(cut, Recipe(epochs=3, lr=1e-3))
    assert len(result.history) == 3


def test_the_same_recipe_goes_on_without_a_word(cut):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="foveate")
        run(cut, RECIPE)


def test_a_checkpoint_of_a_later_foveate_is_refused(cut):
    checkpoint = torch.load(cut / "last.ckpt", weights_only=True)
    checkpoint["foveate"]["format"] = 99
    torch.save(checkpoint, cut / "last.ckpt")
    refused(cut, "was written by a later Foveate .format 99; .*update foveate")


def test_a_checkpoint_of_foveate_0_1_is_read(cut, tmp_path):
    _, whole, _ = run(tmp_path / "whole", RECIPE)
    checkpoint = torch.load(cut / "last.ckpt", weights_only=True)
    del checkpoint["foveate"]
    checkpoint["callbacks"] = {"_Diary": checkpoint["callbacks"]["History"]}
    torch.save(checkpoint, cut / "last.ckpt")
    _, result, batches = run(cut, RECIPE)
    assert batches.asked == [2]
    assert numbers(result) == numbers(whole)
    assert "History" in read_checkpoint(cut / "last.ckpt")["callbacks"]


def test_weights_come_back(tmp_path):
    saved, other = net(), net()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    save_weights(saved, tmp_path / "model.safetensors")
    load_weights(other, tmp_path / "model.safetensors")
    for key, value in saved.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])


def test_weights_that_are_damaged_or_of_another_model_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    save_weights(nn.Linear(2, 3), path)
    with pytest.raises(CheckpointError, match=r"model.safetensors holds the weights of another mo"):
        load_weights(net(), path)
    path.write_bytes(truncated(path.read_bytes()))
    with pytest.raises(
        CheckpointError, match=r"model.safetensors is damaged, .*; remove the directo"
    ):
        load_weights(net(), path)


def test_weights_that_changed_on_disk_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    model = net()
    save_weights(model, path)
    whole = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(len(whole), (200,), generator=generator).tolist():
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        if b"foveate.sha256" not in changed:  # its name alone was hit, and the weights are whole
            continue
        with pytest.raises(CheckpointError, match=r"model.safetensors (is damaged|holds)"):
            load_weights(net(), path)

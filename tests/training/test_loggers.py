"""Records of epochs for other programs."""

from __future__ import annotations

import csv
from importlib.util import find_spec

import pytest

from foveate.training import Recipe, train
from tests.training.pictures import Pictures, classifier, task


def run(directory, logger, stop=None):
    learning = Pictures(12, 4, 1)
    learning.stop = stop
    return train(classifier(), task(), learning, Pictures(6, 3, None), Recipe(epochs=3),
                 directory, logger=logger)  # fmt: skip


def test_nothing_is_logged_unasked(tmp_path):
    run(tmp_path, ())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "model.safetensors"]


def test_csv_has_every_epoch_and_those_before_going_on(tmp_path):
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, "csv", stop=1)
    result = run(tmp_path, "csv")
    with open(tmp_path / "logs" / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    for row, record in zip(rows, result.history, strict=True):
        for name, value in record.values.items():
            assert float(row[name]) == value
        assert float(row["seconds"]) == record.seconds


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_has_every_epoch_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, "tensorboard", stop=1)
    result = run(tmp_path, ["tensorboard", "csv"])
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert losses == [
        (record.epoch, pytest.approx(record.values["train_loss"])) for record in result.history
    ]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_writes_offline(tmp_path):
    run(tmp_path, "wandb")
    assert list((tmp_path / "logs").rglob("run-*.wandb"))


def test_an_unknown_logger_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown logger 'tensorbord'; did you mean 'tensorboard'"):
        run(tmp_path, "tensorbord")


def test_a_logger_that_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("foveate.training.loggers.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="logger='wandb' needs a package: pip install wandb"):
        run(tmp_path, ["csv", "wandb"])

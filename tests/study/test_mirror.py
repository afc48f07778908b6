"""Run directories at addresses: what is copied, when, and going on from there."""

from __future__ import annotations

import time
from contextlib import suppress

import fsspec
import pytest

import foveate
from foveate.study.compare import compare
from foveate.study.entry import PlanError
from foveate.study.mirror import is_address, mirrored
from foveate.trainer.run import train
from foveate.training import CHECKPOINT

TINY = {
    "data": "digits", "limit": 64, "epochs": 2, "batch_size": 16, "threads": 1, "samples": 0,
    "model_kwargs": {"depths": [1, 1, 1, 1]},
}  # fmt: skip


@pytest.fixture
def address():
    yield "memory://bucket/run"
    files = fsspec.filesystem("memory")
    if files.exists("/bucket"):
        files.rm("/bucket", recursive=True)


def names(address):
    files, root = fsspec.core.url_to_fs(address)
    return {path[len(root) :].lstrip("/") for path in files.find(root)}


def test_files_are_copied_and_come_back(address, monkeypatch):
    with mirrored(address) as local:
        (local / "trials").mkdir()
        (local / "trials" / "a.json").write_text("1")
        (local / "gone.json").write_text("1")
        (local / ".lock").write_text("")
    assert names(address) == {"trials/a.json", "gone.json"}
    with suppress(RuntimeError), mirrored(address) as local:
        assert (local / "trials" / "a.json").read_text() == "1"
        (local / "trials" / "a.json").write_text("22")
        (local / "gone.json").unlink()
        raise RuntimeError
    assert names(address) == {"trials/a.json"}, "copied however it ends"
    with mirrored(address) as local:
        assert (local / "trials" / "a.json").read_text() == "22"


def test_what_changes_is_copied_meanwhile(address, monkeypatch):
    monkeypatch.setattr("foveate.study.mirror.SECONDS", 0.01)
    with mirrored(address) as local:
        (local / "a.json").write_text("1")
        for _ in range(500):
            if "a.json" in names(address):
                break
            time.sleep(0.01)
        assert names(address) == {"a.json"}


def test_a_training_goes_on_from_its_address(address, tmp_path):
    whole = train(out=tmp_path / "whole", **TINY)

    def stop(event):
        if hasattr(event, "values") and event.epoch == 2:  # before its checkpoint is written
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("foveate.trainer.progress.Shown.__call__", lambda self, event: stop(event))
        with pytest.raises(KeyboardInterrupt):
            train(out=address, **TINY)
    assert CHECKPOINT in names(address)
    ended = train(resume=address)
    assert ended.record.metrics == whole.record.metrics
    assert ended.path == f"{address}/model.safetensors"
    assert {"model.safetensors", "training.json"} <= names(address)
    assert CHECKPOINT not in names(address)
    fsspec.filesystem("memory").get(ended.path, str(tmp_path / "m.safetensors"))
    assert foveate.load(tmp_path / "m.safetensors").info.metrics == whole.record.metrics


def test_a_study_lies_at_its_address(address):
    result = compare(
        out=address, data="digits", limit=64, epochs=1, attention=["none"], controls=[], seeds=1,
        threads=1,
    )  # fmt: skip
    assert result.report == f"{address}/report.html"
    assert {"plan.yaml", "report.html"} <= names(address)
    assert any(name.endswith("trial.json") for name in names(address))


def test_an_address_that_is_none_is_refused():
    assert not is_address("runs/a")
    with pytest.raises(PlanError, match="nowhere://x is no address that fsspec knows"):
        train(out="nowhere://x", **TINY)

"""``foveate predict`` says of images what the study's own measuring did, for every task."""

from __future__ import annotations

import csv
import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import foveate
from foveate.cli import main
from foveate.data.annotations.masks import coco_masks
from foveate.data.detection_batches import held_out_detection_batches
from foveate.data.images import load
from foveate.prediction import predict as module
from foveate.prediction.detection import _run_lengths
from foveate.study.records import Records
from foveate.study.tasks import task_of
from foveate.tasks import Detection
from tests.data.folders import truncate
from tests.data.masks import make_scenes
from tests.prediction.models import detector, trial

SMALL = {"dims": [8, 8, 8, 8], "depths": [1, 1, 1, 1]}


def photos(root: Path) -> Path:
    """Two classes of photographs as people have them: large, turned, transparent, of 16 bits."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 8)):
        for label, name in enumerate(("dark", "light")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                size = (90, 131) if number % 2 else (33, 47)
                noise = rng.integers(0, 120, (*size, 3)) + 120 * label
                pixels = noise.astype(np.uint8)
                path = folder / f"{split}{number}"
                if number % 4 == 0:
                    Image.fromarray(pixels[..., 0].astype(np.uint16) * 13).save(f"{path}.png")
                elif number % 4 == 1:
                    turned = Image.Exif()
                    turned[0x0112] = 6
                    Image.fromarray(pixels).save(f"{path}.jpg", exif=turned)
                elif number % 4 == 2:
                    clear = np.concatenate([pixels, pixels[..., :1]], axis=2)
                    Image.fromarray(clear).save(f"{path}.png")
                else:
                    Image.fromarray(pixels).save(f"{path}.jpg", quality=90)
    return root


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> tuple[Path, Path, Path]:
    """The run, the trial's folder, and the folder of images."""
    root = tmp_path_factory.mktemp("classifier")
    data = photos(root / "photos")
    _, folder = trial(root, data=str(data), attention=["cbam"], epochs=2, batch_size=4, lr=0.01,
                      image_size=[16, 20], cache="none", host_kwargs=SMALL)  # fmt: skip
    return root, folder, data


@pytest.fixture(scope="module")
def predicted(classifier, tmp_path_factory) -> Path:
    _, folder, data = classifier
    out = tmp_path_factory.mktemp("out")
    assert main(["predict", str(folder), str(data / "val"), "-o", str(out), "--top-k", "1",
                 "--batch-size", "5"]) == 0  # fmt: skip
    return out


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8", newline="")))


def test_labels_are_those_of_the_study(classifier, predicted):
    root, _, _ = classifier
    images = load(root / "data")
    kept = Records(root).predictions("cbam", 0)
    of_study = {
        name.removeprefix("val/"): images.classes[label]
        for name, label in zip(images.test.names, kept.predicted, strict=True)
    }
    found = {row["file"]: row["class_1"] for row in rows(predicted / "predictions.csv")}
    assert len(found) == 16
    assert set(found.values()) == {"dark", "light"}
    assert found == of_study
    assert {path.name for path in predicted.iterdir()} == {"index.html", "predictions.csv"}


def test_probabilities_have_the_loss_of_the_study(classifier, tmp_path):
    """The images that the model gets are those that it got when it was measured."""
    root, folder, data = classifier
    foveate.predict(folder, data / "val", tmp_path / "out")
    found = {}
    for row in rows(tmp_path / "out" / "predictions.csv"):
        given = {row[f"class_{n}"]: float(row[f"probability_{n}"]) for n in (1, 2)}
        found[row["file"]] = given[row["file"].split("/")[0]]
    loss = float(np.mean([-np.log(probability) for probability in found.values()]))
    assert loss == pytest.approx(Records(root).trial("cbam", 0).loss, abs=1e-5)


def test_the_file_of_a_trial_says_what_it_scored(classifier):
    root, folder, _ = classifier
    info = foveate.load(folder).info
    assert info.classes == ("dark", "light")
    assert info.metrics["accuracy"] == Records(root).trial("cbam", 0).score
    assert info.input.ranges
    assert info.input.side == (20, 25)


def test_what_was_read_and_passed_over_is_said(classifier, tmp_path, capsys):
    _, folder, data = classifier
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    for number, path in enumerate(sorted((data / "val" / "dark").iterdir())[:4]):
        (mixed / f"{number}{path.suffix}").write_bytes(path.read_bytes())
    truncate(mixed / "1.jpg")
    (mixed / "text.png").write_text("no image")
    (mixed / "notes.txt").write_text("hello")
    assert main(["predict", str(folder), str(mixed), "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "images are read in color, resized to fill 16x20 and the middle cut out" in said
    assert "passed over, files that are no images: 1" in said
    assert "unreadable: 2 of 5 images: 1.jpg (" in said
    assert "trained on no" not in said
    assert "3 images predicted" in said
    unreadable = rows(tmp_path / "out" / "unreadable.csv")
    assert [row["file"] for row in unreadable] == ["1.jpg", "text.png"]
    assert len(rows(tmp_path / "out" / "predictions.csv")) == 3
    assert "2 images could not be read" in (tmp_path / "out" / "index.html").read_text()


def test_a_depth_that_training_did_not_meet_is_said(classifier, tmp_path):
    _, folder, _ = classifier
    Image.fromarray(np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)).save(
        tmp_path / "f.tiff"
    )
    found = foveate.predict(folder, tmp_path / "f.tiff", tmp_path / "out")
    assert any("was trained on no floating-point images" in line for line in found.said)
    assert found.images == 1


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    root = tmp_path_factory.mktemp("segmenter")
    data = make_scenes(root / "scenes", {"train": 24, "val": 5}, (33, 41), side=16)
    plan, folder = trial(
        root, task="segmentation", data=str(data), attention=["cbam"], epochs=5, batch_size=4,
        lr=0.02, image_size=[32, 40], window=[32, 32], augment="none", class_weights="balanced",
        host_kwargs={**SMALL, "dims": [16, 24, 32, 32]}, head_kwargs={"neck_dim": 16, "dim": 16},
    )  # fmt: skip
    return root, plan, folder, data


def test_masks_are_those_of_the_study(segmenter, tmp_path):
    root, plan, folder, data = segmenter
    found = foveate.predict(folder, data / "images" / "val", tmp_path / "out")
    images = load(root / "data")
    model, info = foveate.load(folder)
    work = task_of(plan)
    batches = work.measuring(plan, images, images.test, images.moments, 0)
    task = work.training(plan, images)
    with torch.inference_mode():
        expected = [
            logits.argmax(0).numpy() for x, _ in batches for logits in task.predict(model, x)
        ]
    areas = Records(root).predictions("cbam", 0).areas
    for index, (name, labels) in enumerate(zip(images.test.names, expected, strict=True)):
        with Image.open(tmp_path / "out" / "masks" / Path(name).name) as mask:
            assert mask.mode == "P"
            ours = np.asarray(mask)
        assert (ours == labels).all()
        assert len(np.unique(ours)) > 1
        counted = images.test.mask(index) != 255
        assert np.bincount(ours[counted], minlength=3).tolist() == areas[index, 1].tolist()
        overlay = Image.open(tmp_path / "out" / "overlays" / Path(name).with_suffix(".jpg").name)
        assert overlay.size == (ours.shape[1], ours.shape[0])
    assert found.images == 5
    assert info.input.window == (32, 32)
    listed = json.loads((tmp_path / "out" / "classes.json").read_text())
    assert listed["classes"] == ["ground", "green", "blue"]


@pytest.mark.parametrize("masks", [False, True])
def test_objects_are_those_of_the_task(masks, tmp_path):
    model, images, _ = detector(tmp_path, masks)
    task = Detection(images.categories, masks=masks)
    with torch.inference_mode():
        ((x, targets),) = held_out_detection_batches(images, (48, 48), 4)
        expected = task.coco_results(task.predict(model, x), targets, [1, 2])
    out = tmp_path / "out"
    data = tmp_path / "coco" / "val2017"
    arguments = ["predict", str(tmp_path), str(data), "-o", str(out), "--score-threshold", "0"]
    assert main(arguments) == 0
    found = json.loads((out / "detections.json").read_text())
    assert {each["category_id"] for each in found} <= {3, 7}
    assert len(found) == len(expected) > 4
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["category_id"] == theirs["category_id"]
        assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=1e-3)
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        if masks:
            assert ours["segmentation"]["size"] == [40, 60]
    listed = json.loads((out / "images.json").read_text())
    assert [image["file_name"] for image in listed["images"]] == ["val4.png", "val5.png"]
    assert listed["images"][0] == {"id": 1, "file_name": "val4.png", "height": 40, "width": 60}
    assert len(rows(out / "predictions.csv")) == len(found)


def test_run_lengths_are_of_the_whole_image():
    probabilities = torch.zeros(1, 20, 30)
    probabilities[:, 5:10, :15] = 0.9
    found = _run_lengths(probabilities, (40, 60))
    assert found["size"] == [40, 60]
    mask = coco_masks().decode(found)
    expected = np.zeros((40, 60), np.uint8)
    expected[10:20, :30] = 1
    assert (mask != expected).mean() < 0.02


def test_low_scores_are_left_out_and_counted(tmp_path):
    detector(tmp_path)
    found = foveate.predict(tmp_path, tmp_path / "coco" / "val2017", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "detections.json").read_text()) == []
    assert any("12 of a score below 0.5 are left out" in line for line in found.said)
    assert "nothing found" in found.page.read_text()


@pytest.fixture
def refused(capsys):
    """Runs the command, which must refuse in one line."""

    def call(*arguments: str | Path) -> str:
        with pytest.raises(SystemExit) as exit_:
            main(["predict", *map(str, arguments)])
        output = capsys.readouterr()
        assert exit_.value.code == 2
        assert output.err.startswith("foveate: ")
        assert output.err.count("\n") == 1
        return output.err

    return call


def test_bad_input_is_refused_in_one_line(classifier, refused, tmp_path):
    root, folder, data = classifier
    out = tmp_path / "out"
    assert "no such file or folder" in refused(tmp_path / "none", data, "-o", out)
    assert "did you mean" in refused(root, data, "-o", out)
    assert "damaged, or no safetensors" in refused(data / "val/dark/val3.jpg", data, "-o", out)
    assert "no such file or folder" in refused(folder, tmp_path / "none", "-o", out)
    (tmp_path / "bad.png").write_text("hello")
    assert "the image cannot be read: 'bad.png' (not an image)" in refused(
        folder, tmp_path / "bad.png", "-o", out
    )
    assert not out.exists()
    assert "is for detection" in refused(folder, data, "-o", out, "--score-threshold", "0.1")
    assert "top_k must be" in refused(folder, data, "-o", out, "--top-k", "0")
    assert "unknown device" in refused(folder, data, "-o", out, "--device", "gpu")
    assert "is a file" in refused(folder, data, "-o", tmp_path / "bad.png")
    assert "is not empty" in refused(folder, data, "-o", tmp_path)
    assert "no host of your own" in refused(folder, data, "-o", out, "--host", "a.py:b")


def test_a_full_disk_is_named(classifier, tmp_path, monkeypatch):
    _, folder, data = classifier

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "out" / "index.html"))

    monkeypatch.setattr(module, "write_page", full)
    with pytest.raises(ValueError, match=r"the disk is full: .*index\.html could not be written"):
        foveate.predict(folder, data / "val", tmp_path / "out")


def test_progress_reaches_its_end(classifier, tmp_path):
    _, folder, data = classifier
    told = []
    foveate.predict(folder, [data / "val"], tmp_path / "out",
                    progress=lambda done, total: told.append((done, total)))  # fmt: skip
    assert told[-1] == (16, 16)

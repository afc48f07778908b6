"""What the documentation shows runs, what it links to is there, what it lists exists."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm

import foveate
from foveate import registry
from foveate.saved.info import Architecture, ImageInput, ModelInfo
from foveate.training.checkpoint import save_weights
from tests.data.folders import make_folder
from tests.test_public_api import public_modules, public_names

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def python_blocks(page: Path) -> list[str]:
    """The Python of a page, each block on its lines there, so that errors point at them."""
    text = page.read_text()
    blocks = []
    for found in re.finditer(r"^ *```python\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL):
        before = text.count("\n", 0, found.start(1))
        blocks.append("\n" * before + textwrap.dedent(found[1]))
    return blocks


def run(page: Path) -> dict[str, Any]:
    """The names that the blocks of a page define, run one after the other."""
    shown = sys.modules["shown"] = ModuleType("shown")  # where pickle finds what it defines
    names = vars(shown)
    blocks = python_blocks(page)
    assert blocks, f"{page} shows no Python"
    for block in blocks:
        exec(compile(block, str(page), "exec"), names)
    return names


def test_every_page_that_shows_python_is_run_here():
    shown = {page.name for page in PAGES if python_blocks(page)}
    assert shown == {
        "README.md",
        "add-a-mechanism.md",
        "compare.md",
        "detection.md",
        "predict.md",
        "reduce.md",
        "surgery.md",
    }


def test_what_the_page_on_trained_models_shows(tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "flowers" / "trials" / "slide-seed0"
    folder.mkdir(parents=True)
    built = Architecture("classifier", "resnet10t")
    of_images = ImageInput(3, (32, 32), "crop", (0.5,) * 3, (0.2,) * 3)
    info = ModelInfo("classification", built, ("daisy", "tulip"), of_images)
    model = timm.create_model("resnet10t", num_classes=2)
    save_weights(model, folder / "model.safetensors", info)
    monkeypatch.chdir(tmp_path)
    names = run(ROOT / "docs" / "predict.md")
    assert names["info"].classes == ("daisy", "tulip")
    assert not names["model"].training


@pytest.mark.slow
def test_what_the_page_on_surgery_shows(monkeypatch):
    """Its calls, on models without the weights that it would download."""
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name))
    assert foveate.changes(run(ROOT / "docs" / "surgery.md")["vit"])


@pytest.mark.slow
def test_what_the_page_on_reducing_shows(monkeypatch):
    """Its calls, on a model without the weights that it would download."""
    foveate.list_reducers()
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=0, **kw: create(name, **kw))
    monkeypatch.setattr(registry, "_SPECS", dict(registry._SPECS))
    names = run(ROOT / "docs" / "reduce.md")
    assert len(names["stands"]) == 12
    assert names["cost"] == 734_513_216
    assert {each.shape for each in names["maps"].values()} == {(2, 14, 14)}
    assert names["drawn"].height == 16 + 2 * 224 + 8
    assert sorted(names["attention"]) == list(range(12))


@pytest.mark.slow
def test_what_the_page_on_detecting_shows():
    names = run(ROOT / "docs" / "detection.md")
    (found,) = names["found"]
    assert found["masks"].shape[1:] == (1, 120, 161)
    assert names["evidence"].left_out().shape == (4, 1, 10)
    assert [category.id for category in names["images"].categories] == [7]


@pytest.mark.slow
def test_what_the_page_on_comparing_shows(tmp_path, monkeypatch):
    """Its call, with the settings of a study that takes seconds."""
    make_folder(tmp_path / "photos", {"a": 20, "b": 20})
    small = {"attention": ["cbam"], "seeds": 1, "epochs": 1, "image_size": (32, 32), "workers": 1}
    compare = foveate.compare
    monkeypatch.setattr(foveate, "compare", lambda **given: compare(**{**given, **small}))
    monkeypatch.chdir(tmp_path)
    result = run(ROOT / "docs" / "compare.md")["result"]
    assert result.report.is_file()


def test_what_the_readme_shows(capsys):
    names = run(ROOT / "README.md")
    # What its comments say.
    assert names["y"].shape == names["x"].shape
    assert names["shown"].map.shape == (56, 40)
    assert names["shown"].map.sum().item() == pytest.approx(1, abs=1e-4)
    assert [f.shape[2:] for f in names["features"]] == [
        (224 // stride, 160 // stride) for stride in (4, 8, 16, 32)
    ]
    printed = capsys.readouterr().out
    assert "multiply-adds, " in printed
    assert "local_attention runs by" in printed


@pytest.mark.slow  # every check of a mechanism, those that compile and export too
def test_what_the_recipe_for_a_mechanism_shows(monkeypatch):
    foveate.list_attention()
    spec = foveate.describe("squeeze_excitation")
    monkeypatch.setitem(registry._SPECS, "my_attention", spec)
    run(ROOT / "docs" / "add-a-mechanism.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [
        link
        for link in links
        if not re.match(r"https?:|mailto:", link) and not (page.parent / link).exists()
    ]
    assert not missing


def test_the_page_of_the_interface_lists_what_is_public():
    stated = {}
    for section in (ROOT / "docs" / "api.md").read_text().split("\n## ")[1:]:
        stated[section.split("\n", 1)[0]] = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    public = {module.__name__: public_names(module) for module in public_modules()}
    public["foveate"] = list(foveate._HOME)
    assert stated == public, "docs/api.md is out of date: python docs/generate.py api"

"""``examples/browser``: the page says what PyTorch does, without a network."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import foveate
from foveate.cli import main
from foveate.data.batches import Fit, normalized
from foveate.data.sources.base import TEST
from foveate.data.sources.characters import Characters
from foveate.prediction.base import moments_of

playwright = pytest.importorskip("playwright.sync_api")

EXAMPLE = Path(__file__).parents[1] / "examples" / "browser"
RUNTIME = EXAMPLE / "node_modules" / "onnxruntime-web" / "dist"
CHROMIUM = shutil.which("chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium"),
    pytest.mark.skipif(not RUNTIME.is_dir(), reason="npm install was not run in examples/browser"),
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None: ...


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model of the embedded characters, trained for a minute."""
    run = tmp_path_factory.mktemp("characters") / "run"
    command = ["train", "--data", "characters", "--model", "pyramid_pico", "--epochs", "12",
               "--threads", "1", "--device", "cpu", "--out", str(run)]  # fmt: skip
    assert main(command) == 0
    return foveate.load(run)


@pytest.fixture(scope="module")
def address(model, tmp_path_factory) -> Iterator[str]:
    """Of a server of the page with the exported model."""
    folder = tmp_path_factory.mktemp("page")
    for path in EXAMPLE.iterdir():
        if path.suffix in (".html", ".css", ".js"):
            shutil.copy(path, folder)
    (folder / "node_modules").symlink_to(EXAMPLE / "node_modules")
    loaded, info = model
    foveate.export(loaded, folder / "model.onnx", info=info, dynamic=())
    handler = partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def page(address):
    """The page, the model loaded; whatever it asks another server for fails."""
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.wrong = []
        page.on("pageerror", lambda error: page.wrong.append(str(error)))
        page.on("requestfailed", lambda request: page.wrong.append(request.url))
        page.route(lambda url: not url.startswith((address, "data:")), lambda route: route.abort())
        page.goto(address)
        page.wait_for_selector("#file:enabled")
        yield page
        assert page.wrong == []
        browser.close()


def on_page(page, path: Path) -> dict[str, float]:
    """Probabilities of the likeliest classes, the likeliest first, as the page shows them."""
    page.set_input_files("#file", str(path))
    return shown(page, path.name)


def shown(page, name: str) -> dict[str, float]:
    """The same, of the image of this name."""
    page.wait_for_function("name => document.querySelector('#name').textContent === name", arg=name)
    items = page.eval_on_selector_all(
        "#classes li",
        "all => all.map(x => [x.querySelector('span').textContent, x.querySelector('data').value])",
    )
    return {name: float(value) for name, value in items}


@torch.inference_mode()
def in_pytorch(model, image: Image.Image) -> dict[str, float]:
    loaded, info = model
    x = normalized(Fit(info.input.size)(image)[None], *moments_of(info.input))
    shares = loaded(x).softmax(1)[0]
    best = shares.topk(5)
    return {info.classes[i]: p for p, i in zip(*map(torch.Tensor.tolist, best), strict=True)}


def agree(given: dict[str, float], expected: dict[str, float]) -> None:
    assert list(given) == list(expected)
    assert given == pytest.approx(expected, abs=1e-4)


def held_out() -> tuple[np.ndarray, list[str]]:
    """Drawings of drawers who are not trained on, and their classes."""
    source = Characters()
    listing = source.list()
    items = [item for item in listing.items if item.split == TEST][::40]
    pixels = np.stack([np.asarray(source.read(item.name).image) for item in items])
    return pixels, [listing.classes[item.label] for item in items]


def test_it_is_right_about_characters_and_as_sure_as_pytorch(page, model, tmp_path):
    right = 0
    for number, (pixels, name) in enumerate(zip(*held_out(), strict=True)):
        image, path = Image.fromarray(pixels), tmp_path / f"{number}.png"
        image.save(path)
        found = on_page(page, path)
        agree(found, in_pytorch(model, image))
        right += next(iter(found)) == name
    assert right > number / 2


@pytest.mark.parametrize("size", [(57, 91), (91, 57), (20, 20), (300, 64)])
def test_other_sizes_are_resized_as_in_training(size, page, model, tmp_path):
    noise = torch.randint(256, (6, 5, 3), dtype=torch.uint8).numpy()
    image = Image.fromarray(noise).resize(size[::-1], Image.Resampling.BICUBIC)
    path = tmp_path / f"{size[0]}x{size[1]}.png"
    image.save(path)
    agree(on_page(page, path), in_pytorch(model, image.convert("L")))


def test_an_image_is_dropped_on_the_page(page, model):
    page.evaluate(
        """async () => {
          const canvas = new OffscreenCanvas(32, 32);
          canvas.getContext('2d').fillRect(8, 4, 3, 24);  // on nothing, which is white
          const file = new File([await canvas.convertToBlob()], 'dropped.png');
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(file);
          document.dispatchEvent(new DragEvent('drop', { dataTransfer, cancelable: true }));
        }"""
    )
    drawn = np.full((32, 32), 255, np.uint8)
    drawn[4:28, 8:11] = 0
    agree(shown(page, "dropped.png"), in_pytorch(model, Image.fromarray(drawn)))


def test_it_is_reached_by_keyboard_and_has_a_light_and_a_dark_form(page):
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds[0] != grounds[1]


def test_what_is_no_image_is_said(page, tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    page.set_input_files("#file", str(tmp_path / "notes.txt"))
    page.wait_for_selector("#status.wrong")
    assert "notes.txt cannot be read as an image" in page.text_content("#status")
    assert page.is_hidden("#result")

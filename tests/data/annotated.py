"""Small sets of annotated images, in every layout that is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

CLASSES = ("red", "blue")
IDS = (3, 7)
SIZE = (40, 60)
"""Height and width."""


class Scene(NamedTuple):
    """An image with rectangles: each a label and x1, y1, x2, y2."""

    name: str
    split: str
    objects: list[tuple[int, tuple[int, int, int, int]]]


def scenes(train: int = 4, val: int = 2) -> list[Scene]:
    """Two rectangles an image, one of each class; the boxes of the right half leave as xywh."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(train + val):
        left = (int(rng.integers(1, 8)), int(rng.integers(1, 10)))
        right = (int(rng.integers(32, 36)), int(rng.integers(14, 18)))
        objects = [
            (label, (x, y, x + int(rng.integers(12, 20)), y + int(rng.integers(8, 14))))
            for label, (x, y) in enumerate((left, right))
        ]
        split = "train" if number < train else "val"
        found.append(Scene(f"{split}{number}.png", split, objects))
    return found


def draw(scene: Scene, path: Path, exif: int | None = None) -> None:
    """Write the image; with an EXIF orientation the pixels are stored so that it shows upright."""
    pixels = np.full((*SIZE, 3), 200, dtype=np.uint8)
    for label, (x1, y1, x2, y2) in scene.objects:
        pixels[y1:y2, x1:x2] = (220, 20, 20) if label == 0 else (20, 20, 220)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if exif is None:
        image.save(path)
        return
    about = Image.Exif()
    about[0x0112] = exif
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    image.transpose(back.get(exif, Image.Transpose.ROTATE_180)).save(path, exif=about)


def coco_document(chosen: list[Scene], ids: tuple[int, ...] = IDS) -> dict[str, Any]:
    """One of COCO's files, as values."""
    annotations = [
        {
            "id": 10 * number + row,
            "image_id": number,
            "category_id": ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
            "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
        }
        for number, scene in enumerate(chosen)
        for row, (label, (x1, y1, x2, y2)) in enumerate(scene.objects)
    ]
    return {
        "images": [
            {"id": number, "file_name": scene.name, "height": SIZE[0], "width": SIZE[1]}
            for number, scene in enumerate(chosen)
        ],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name} for number, name in zip(ids, CLASSES, strict=True)
        ],
    }


Change = Callable[[dict[str, Any]], Any]


def make_coco(
    root: Path,
    change: Change | None = None,
    change_val: Change | None = None,
    train: int = 4,
    val: int = 2,
) -> Path:
    """``annotations/instances_{train,val}.json`` and ``{train,val}2017``."""
    (root / "annotations").mkdir(parents=True)
    for split, changed in (("train", change), ("val", change_val)):
        chosen = [scene for scene in scenes(train, val) if scene.split == split]
        for scene in chosen:
            draw(scene, root / f"{split}2017" / scene.name)
        document = coco_document(chosen)
        if changed is not None:
            changed(document)
        path = root / "annotations" / f"instances_{split}2017.json"
        path.write_text(json.dumps(document))
    return root


def make_roboflow(root: Path) -> Path:
    """``{train,valid}/_annotations.coco.json`` beside the images."""
    for split, folder in (("train", "train"), ("val", "valid")):
        chosen = [scene for scene in scenes() if scene.split == split]
        for scene in chosen:
            draw(scene, root / folder / scene.name)
        (root / folder / "_annotations.coco.json").write_text(json.dumps(coco_document(chosen)))
    return root


def voc_text(scene: Scene, shift: int, extra: str = "") -> str:
    """One XML; ``shift`` is 1 where pixels are counted from one."""
    objects = "".join(
        f"<object><name>{CLASSES[label]}</name>{extra}<bndbox><xmin>{x1 + shift}</xmin>"
        f"<ymin>{y1 + shift}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for label, (x1, y1, x2, y2) in scene.objects
    )
    return (
        f"<annotation><filename>{scene.name}</filename><size><width>{SIZE[1]}</width>"
        f"<height>{SIZE[0]}</height><depth>3</depth></size>{objects}</annotation>"
    )


def make_voc(root: Path, lists: bool = True, shift: int = 1) -> Path:
    """``Annotations``, ``JPEGImages`` and ``ImageSets/Main``, or folders of splits."""
    for scene in scenes():
        stem = Path(scene.name).stem
        images = root / "JPEGImages" if lists else root / scene.split
        files = root / "Annotations" if lists else root / scene.split
        draw(scene, images / scene.name)
        files.mkdir(exist_ok=True)
        (files / f"{stem}.xml").write_text(voc_text(scene, shift))
    if lists:
        for split in ("train", "val"):
            names = [Path(scene.name).stem for scene in scenes() if scene.split == split]
            path = root / "ImageSets" / "Main" / f"{split}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(names) + "\n")
    return root


def yolo_lines(scene: Scene) -> str:
    """One label file."""
    height, width = SIZE
    lines = [
        f"{label} {(x1 + x2) / 2 / width} {(y1 + y2) / 2 / height} "
        f"{(x2 - x1) / width} {(y2 - y1) / height}"
        for label, (x1, y1, x2, y2) in scene.objects
    ]
    return "\n".join(lines) + "\n"


def make_yolo(root: Path, layout: str = "yaml") -> Path:
    """``images/train`` and ``labels/train``; ``train/images``; or all in one folder."""
    for scene in scenes():
        images, labels = {
            "yaml": (f"images/{scene.split}", f"labels/{scene.split}"),
            "roboflow": (f"{scene.split}/images", f"{scene.split}/labels"),
            "names": (f"images/{scene.split}", f"labels/{scene.split}"),
            "flat": (".", "."),
        }[layout]
        draw(scene, root / images / scene.name)
        path = root / labels / f"{Path(scene.name).stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yolo_lines(scene))
    names = json.dumps(list(CLASSES))
    if layout == "yaml":
        text = f"path: .\ntrain: images/train\nval: images/val\nnc: 2\nnames: {names}\n"
        (root / "data.yaml").write_text(text)
    elif layout == "roboflow":
        text = f"train: ../train/images\nval: ../val/images\nnc: 2\nnames: {names}\n"
        (root / "data.yaml").write_text(text)
    else:
        (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root

"""Which kind of annotation files a folder or a file is, and what they hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from foveate.data.annotations.coco import read_coco
from foveate.data.annotations.files import ImageFiles, split_word
from foveate.data.annotations.record import Annotations
from foveate.data.annotations.voc import read_voc
from foveate.data.annotations.yolo import NAME_FILES, label_path, read_yolo
from foveate.data.findings import LeftOut
from foveate.data.sources.base import DataError

OTHER_JSON = "JSON files that hold no boxes of objects"
_SNIFFED = 4096


class Opened(NamedTuple):
    """Annotations, and the folder that the names of their images are relative to."""

    annotations: Annotations
    root: Path


def open_annotations(name: str, root: str | None = None, *, masks: bool = False) -> Opened:
    """Read the annotations that ``name`` stands for; images are not decoded.

    Args:
        name: a folder of COCO's, Pascal VOC's or YOLO's layout, one COCO file, or a ``data.yaml``.
        root: the folder below which the images of a COCO file lie, where it is not the file's own.
        masks: whether the masks of objects are read.

    Raises:
        DataError: if there are none, or one cannot be understood.
    """
    path = Path(name).expanduser()
    if path.is_file() and path.suffix.lower() == ".json":
        folder = path.parent.parent if path.parent.name == "annotations" else path.parent
        images = ImageFiles(Path(root).expanduser() if root else folder)
        return Opened(read_coco([(split_word(path.stem) or "", path)], images, masks), images.root)
    if path.is_file() and path.suffix.lower() in (".yaml", ".yml"):
        return Opened(*read_yolo(path.parent, path, masks))
    if not path.is_dir():
        what = "is a file of another kind" if path.is_file() else "does not exist"
        raise DataError(f"data {name!r} {what}; {_EXPECTED}")
    return _open_folder(path, Path(root).expanduser() if root else path, masks)


_EXPECTED = (
    "give a folder with COCO's JSON files, Pascal VOC's XML files or YOLO's label files and the "
    "images, one JSON file, or a data.yaml"
)


def _open_folder(path: Path, root: Path, masks: bool) -> Opened:
    documents, others = _coco_files(path)
    if documents:
        images = ImageFiles(root)
        found = read_coco(documents, images, masks)
        names = [other.relative_to(path).as_posix() for other in others]
        found.left_out += [LeftOut(name, OTHER_JSON) for name in names]
        return Opened(found, images.root)
    described = [
        p for p in sorted(path.glob("*.y*ml")) if p.is_file() and b"names:" in p.read_bytes()
    ]
    if len(described) > 1:
        raise DataError(
            f"{described[0]} and {described[1]} both describe a YOLO set: give one of them"
        )
    if described:
        return Opened(*read_yolo(path, described[0], masks))
    documents = sorted(path.rglob("*.xml"))
    if documents:
        if masks:
            raise DataError(
                f"{path} holds Pascal VOC's XML files, which have boxes only: give masks='ellipse' "
                "or masks='rectangle' to draw masks from the boxes, or none"
            )
        return Opened(read_voc(documents, ImageFiles(path)), path)
    if _has_labels(path):
        return Opened(*read_yolo(path, None, masks))
    raise DataError(f"{name_of(path)} holds no annotations; {_EXPECTED}")


def name_of(path: Path) -> str:
    """A folder as messages give it."""
    return f"the folder {str(path)!r}"


def _coco_files(path: Path) -> tuple[list[tuple[str, Path]], list[Path]]:
    """COCO files of objects with their splits, and the other JSON files.

    Raises:
        DataError: if two are of one split.
    """
    paths = [p for p in sorted(path.rglob("*.json")) if len(p.relative_to(path).parts) <= 3]
    documents = [p for p in paths if _is_coco(p)]
    instances = [p for p in documents if p.name.startswith("instances_")]
    documents = instances or documents
    found: dict[str, Path] = {}
    for document in documents:
        split = split_word(document.stem) or split_word(document.parent.name) or ""
        if split in found:
            what = f"split {split}" if split else "whole set"
            raise DataError(
                f"{found[split]} and {document} are both of the {what}: give one of them, or "
                "rename them to say train, val or test"
            )
        found[split] = document
    if "" in found and len(found) > 1:
        raise DataError(
            f"{found['']} belongs to no split, and {next(p for s, p in found.items() if s)} does: "
            "say train, val or test in its name"
        )
    return list(found.items()), [p for p in paths if p not in documents]


def _is_coco(path: Path) -> bool:
    """Whether a JSON file is meant as one of COCO's; one that is damaged is, by its name."""
    if path.stem.startswith("instances_") or ".coco" in path.name:
        return True
    if split_word(path.stem) is not None and path.parent.name == "annotations":
        return True
    try:
        with open(path, encoding="utf-8-sig") as file:
            start = file.read(_SNIFFED)
            if not start.lstrip().startswith("{"):
                return False
            values = json.loads(start + file.read())
    except (ValueError, OSError):
        return False
    return {"images", "annotations", "categories"} <= values.keys()


def _has_labels(path: Path) -> bool:
    if any(any(path.rglob(name)) for name in NAME_FILES):
        return True
    images = ImageFiles(path).all
    return any(label_path(path / name).exists() for name in images[:100])

"""What a run keeps of its annotated images: which, with what objects, read how, and what was found.

The record is ``detection.json`` in the directory of the images. A run that goes on uses what is
recorded, whatever became of the annotation files since; the pixels must be those of then.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from foveate._files import read_json, write_text
from foveate.data.annotations.record import (
    AnnotatedImage,
    Category,
    Objects,
    categories_of,
    categories_to_list,
)
from foveate.data.findings import Findings
from foveate.data.moments import Moments
from foveate.data.pixels.decode import ValueRange
from foveate.data.sources.base import DataError

FILE = "detection.json"
_FORMAT = 1


@dataclass
class DetectionRecord:
    """All of a prepared set but the pixels.

    Attributes:
        root: the folder that the names of images are relative to.
        categories: the classes, in the order of labels, with the ids that files call them by.
        masks: where masks come from.
        side: height and width that images were reduced towards.
        cache: directory of the cache, if there is one.
        ranges: of the values of deep images, by kind.
        in_memory: whether the pixels are kept in a file, else they are decoded as needed.
        splits: the images of each, with their objects.
        digests: of the shape and pixels of each, likewise.
        mirror: whether training images are mirrored.
        moments: of the training images.
        findings: what is to be said.
    """

    root: str
    categories: tuple[Category, ...]
    masks: str
    side: tuple[int, int]
    cache: str | None
    ranges: dict[str, ValueRange]
    in_memory: bool
    splits: dict[str, list[AnnotatedImage]]
    digests: dict[str, list[str]]
    mirror: bool = False
    moments: Moments = field(default_factory=lambda: Moments((), ()))
    findings: Findings = field(default_factory=Findings)

    def write(self, directory: Path) -> None:
        """Put the record in place, whole."""
        values = {
            **vars(self),
            "format": _FORMAT,
            "categories": categories_to_list(self.categories),
            "splits": {
                split: [_image_to_dict(image) for image in images]
                for split, images in self.splits.items()
            },
            "moments": self.moments._asdict(),
            "findings": self.findings.to_dict(),
        }
        write_text(directory / FILE, json.dumps(values) + "\n")

    @classmethod
    def read(cls, directory: Path) -> DetectionRecord | None:
        """The record in a directory, if there is one.

        Raises:
            DataError: if it is damaged or of another version of the library.
        """
        path = directory / FILE
        if not path.exists():
            return None
        try:
            values = read_json(path)
            written = values.pop("format")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is damaged ({error}); start anew") from None
        if written != _FORMAT:
            raise DataError(f"{path} was written by another version of foveate; start anew")
        try:
            return cls._from_dict(values)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged ({error}); start anew") from None

    @classmethod
    def _from_dict(cls, values: dict[str, Any]) -> DetectionRecord:
        found = values["moments"]
        return cls(
            **{
                **values,
                "categories": categories_of(values["categories"]),
                "side": tuple(values["side"]),
                "ranges": {kind: ValueRange(*pair) for kind, pair in values["ranges"].items()},
                "splits": {
                    split: [_image_of(image, split) for image in images]
                    for split, images in values["splits"].items()
                },
                "moments": Moments(tuple(found["mean"]), tuple(found["std"]), found["images"]),
                "findings": Findings.from_dict(values["findings"]),
            }
        )


def _image_to_dict(image: AnnotatedImage) -> dict[str, Any]:
    objects = image.objects
    masks = objects.masks and [
        {"size": mask["size"], "counts": mask["counts"].decode("ascii")} for mask in objects.masks
    ]
    return {
        "name": image.name,
        "size": image.size,
        "boxes": objects.boxes.tolist(),
        "labels": objects.labels.tolist(),
        "crowd": objects.crowd.tolist(),
        "areas": objects.areas.tolist(),
        "masks": masks,
    }


def _image_of(values: dict[str, Any], split: str) -> AnnotatedImage:
    masks = values["masks"]
    if masks is not None:
        masks = tuple({**mask, "counts": mask["counts"].encode("ascii")} for mask in masks)
    objects = Objects(
        np.array(values["boxes"], np.float64).reshape(-1, 4),
        np.array(values["labels"], np.int64),
        np.array(values["crowd"], bool),
        np.array(values["areas"], np.float64),
        masks,
    )
    return AnnotatedImage(values["name"], tuple(values["size"]), objects, split)  # pyrefly: ignore

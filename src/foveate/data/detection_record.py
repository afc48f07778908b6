"""What the record of a set of annotated images has beside that of the images: their objects.

A run that goes on uses what is recorded, whatever became of the annotation files since.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from foveate.data.annotations.record import (
    AnnotatedImage,
    Category,
    Objects,
    categories_of,
    categories_to_list,
)


@dataclass
class ObjectRecord:
    """The objects of a set.

    Attributes:
        folder: that the names of images are relative to.
        categories: the classes, in the order of labels, with the ids that files call them by.
        masks: where masks come from: none, given, ellipse or rectangle.
        images: of each split, the images with their objects.
    """

    folder: str
    categories: tuple[Category, ...]
    masks: str
    images: dict[str, list[AnnotatedImage]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON holds them."""
        return {
            "folder": self.folder,
            "categories": categories_to_list(self.categories),
            "masks": self.masks,
            "images": {
                split: [_image_to_dict(image) for image in images]
                for split, images in self.images.items()
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ObjectRecord:
        """What :meth:`to_dict` gave."""
        return cls(
            values["folder"],
            categories_of(values["categories"]),
            values["masks"],
            {
                split: [_image_of(image, split) for image in images]
                for split, images in values["images"].items()
            },
        )

    def count(self, *splits: str) -> np.ndarray:
        """(I, K) objects of each image and class that are no crowd, over the splits in order."""
        images = [image for split in splits for image in self.images.get(split, [])]
        counts = np.zeros((len(images), len(self.categories)), dtype=np.int64)
        for row, image in zip(counts, images, strict=True):
            single = image.objects.labels[~image.objects.crowd]
            row += np.bincount(single, minlength=len(self.categories))
        return counts


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

"""Objects in images: boxes, and masks where the model finds them, as COCO's results and as CSV."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ImageDraw
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors

from foveate._files import write_json, write_text
from foveate.data.annotations.masks import coco_masks
from foveate.data.annotations.record import categories_to_list
from foveate.data.batches import normalized
from foveate.data.detection_batches import Inside
from foveate.data.findings import printable
from foveate.prediction.base import Shown, moments_of, thumbnail
from foveate.prediction.files import Named
from foveate.prediction.reading import Picture
from foveate.prediction.tables import write_table
from foveate.saved.load import LoadedModel
from foveate.study.report.labelled import palette
from foveate.tasks import Detection

Found = list[dict[str, Any]]
"""The objects of an image, each as COCO's results have it."""

_SHOWN = 4
_LINE = 2
RESULTS, IMAGES, TABLE = "detections.json", "images.json", "predictions.csv"


class Objects:
    """See :class:`foveate.prediction.base.Predictor`.

    Args:
        loaded: a detector.
        device: where it is.
        images: all that may come; their ids are their places, from 1.
        score_threshold: objects of a lower score are left out.
    """

    batch_size = 4

    def __init__(
        self, loaded: LoadedModel, device: str, images: Sequence[Named], score_threshold: float
    ) -> None:
        self.model, info = loaded
        self.device, self.threshold = device, score_threshold
        self.categories = info.categories or ()
        self.task = Detection(self.categories)
        self.names = dict(zip((each.id for each in self.categories), info.classes, strict=True))
        colors = palette(None, len(info.classes))
        self.colors = dict(zip(self.names, colors, strict=True))
        self.ids = {image.name: number for number, image in enumerate(images, 1)}
        self.low = 0
        self._inside, self._moments = Inside(info.input.size), moments_of(info.input)
        self._results: Found = []
        self._images: list[dict[str, Any]] = []

    def predict(self, pictures: list[Picture]) -> list[Found]:
        images = [self._tensor(picture.pixels) for picture in pictures]
        scales = [
            {"scale": torch.tensor([picture.size[1] / x.shape[2], picture.size[0] / x.shape[1]])}
            for picture, x in zip(pictures, images, strict=True)
        ]
        given = self.task.predict(self.model, [x.to(self.device) for x in images])
        given = [{name: value.cpu() for name, value in one.items()} for one in given]
        kept = [{name: value[one["scores"] >= self.threshold] for name, value in one.items()}
                for one in given]  # fmt: skip
        self.low += sum(map(_count, given)) - sum(map(_count, kept))
        found = []
        for picture, one, scale in zip(pictures, kept, scales, strict=True):
            objects = self.task.coco_results([one], [scale], [self.ids[picture.name]])
            for each, mask in zip(objects, one.get("masks", ()), strict=False):
                each["segmentation"] = _run_lengths(mask, picture.size)
            found.append(objects)
        return found

    def _tensor(self, pixels: np.ndarray) -> Tensor:
        x = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
        x = self._inside(tv_tensors.Image(x), {})[0].as_subclass(Tensor)
        return normalized(x[None], *self._moments)[0]

    def write(self, out: Path, picture: Picture, found: Found) -> None:
        height, width = picture.size
        self._results += found
        self._images.append(
            {
                "id": self.ids[picture.name],
                "file_name": printable(picture.name),
                "height": height,
                "width": width,
            }
        )

    def show(self, picture: Picture, found: Found) -> Shown:
        image = thumbnail(picture.pixels)
        pen = ImageDraw.Draw(image)
        scale = image.width / picture.size[1]
        for each in reversed(found):  # the best on top
            x, y, width, height = (scale * side for side in each["bbox"])
            corners = x, y, max(x, x + width), max(y, y + height)
            pen.rectangle(corners, outline=self.colors[each["category_id"]], width=_LINE)
        counts = Counter(self.names[each["category_id"]] for each in found)
        said = tuple(f"{count} × {name}" for name, count in counts.most_common(_SHOWN))
        return Shown(picture.name, (("objects", image),), said or ("nothing found",))

    def finish(self, out: Path) -> list[str]:
        listed = {"images": self._images, "categories": categories_to_list(self.categories)}
        write_json(out / IMAGES, listed)
        write_text(out / RESULTS, json.dumps(self._results) + "\n")
        name_of = {image["id"]: image["file_name"] for image in self._images}
        head = ("file", "image_id", "class", "category_id", "score", "x", "y", "width", "height")
        rows = [
            (
                name_of[each["image_id"]],
                each["image_id"],
                self.names[each["category_id"]],
                each["category_id"],
                f"{each['score']:.6f}",
                *(f"{side:.2f}" for side in each["bbox"]),
            )
            for each in self._results
        ]
        write_table(out / TABLE, head, rows)
        said = [
            f"{RESULTS}: {len(rows):,} objects in COCO's form of results, with the category ids "
            f"that the model was trained with ({IMAGES} has the ids of images); {TABLE}: the same"
        ]
        if self.threshold > 0:
            said.append(
                f"{self.low:,} of a score below {self.threshold:g} are left out; COCO's average "
                "precision wants them all: a score threshold of 0"
            )
        return said


def _count(one: dict[str, Tensor]) -> int:
    return len(one["scores"])


def _run_lengths(mask: Tensor, size: tuple[int, int]) -> dict[str, Any]:
    """A mask (1, h, w) of probabilities at the size of the image, as COCO's run lengths."""
    full = F.interpolate(mask[None].float(), size=size, mode="bilinear", align_corners=False)
    found = coco_masks().encode(np.asfortranarray(full[0, 0].numpy() >= 0.5, dtype=np.uint8))
    return {"size": list(size), "counts": found["counts"].decode("ascii")}

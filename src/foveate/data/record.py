"""What a run keeps of its images: which, in which order, read how, and what was found.

The record is ``index.json`` in the directory of the images. A study that goes on reads the images
that are recorded, by name and in that order, so that a folder that has grown cannot shift labels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from foveate._files import read_json, write_text
from foveate.data.augmentation import Augmentation
from foveate.data.detection_record import ObjectRecord
from foveate.data.findings import Findings, printable
from foveate.data.moments import Moments
from foveate.data.pixels.decode import ValueRange
from foveate.data.sources.base import SPLITS, TEST, TRAIN, DataError

FILE = "index.json"
_FORMAT = 2


class ImageCounts(NamedTuple):
    """How many images a run has.

    Attributes:
        train: to learn from.
        test: held out.
        classes: that they fall into.
        skipped: that could not be read.
    """

    train: int
    test: int
    classes: int
    skipped: int


def count_images(directory: Path) -> ImageCounts | None:
    """What the record in a directory says, if there is one; those of version 0.1 too.

    Raises:
        DataError: if it is damaged.
    """
    path = directory / FILE
    if not path.exists():
        return None
    try:
        values = read_json(path)
        train, test = (len(values[split]["labels"]) for split in (TRAIN, TEST))
        return ImageCounts(train, test, len(values["classes"]), len(values["skipped"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}); start anew") from None


@dataclass
class SplitRecord:
    """One split, image by image.

    Attributes:
        labels: the class of each; of images of objects, the rarest class in it.
        names: by which its source finds it.
        digests: of its shape and decoded pixels.
    """

    labels: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)


@dataclass
class MaskRecord:
    """What a set of images and masks has beside the images.

    Attributes:
        ignored: the user's own label of pixels that count nowhere, beside 255.
        pixels: of each class, in the training masks.
        digests: by split, of the labels of each image.
        colors: that the list of classes paints each class with; None if it says none.
    """

    ignored: int | None
    pixels: list[int]
    digests: dict[str, list[str]]
    colors: list[list[int]] | None = None

    @property
    def all_digests(self) -> list[str]:
        """Of all splits, one after the other."""
        return [digest for split in SPLITS for digest in self.digests.get(split, [])]


@dataclass
class SetRecord:
    """All of a prepared set but the pixels.

    Attributes:
        name: what the user asked for.
        root: where named sets lie.
        classes: their names.
        channels: 1 or 3.
        side: height and width that images were reduced towards.
        cache: directory of the cache, if there is one.
        ranges: of the values of deep images, by kind.
        in_memory: whether the pixels are in a file beside the record, else they are decoded as
            needed.
        whole: whether the pixels are there.
        listed: how many images the source held.
        unused: images that were read and then left out as duplicates.
        splits: by name, see ``SPLITS``.
        augmentation: what ``auto`` comes to.
        moments: of the training images.
        findings: what is to be said.
        masks: where classes are of pixels; else None.
        objects: where classes are of objects; else None.
    """

    name: str
    root: str | None
    classes: list[str]
    channels: int
    side: tuple[int, int]
    cache: str | None
    ranges: dict[str, ValueRange]
    in_memory: bool
    whole: bool
    listed: int
    unused: list[str]
    splits: dict[str, SplitRecord]
    augmentation: Augmentation = field(default_factory=lambda: Augmentation("none", False, ""))
    moments: Moments = field(default_factory=lambda: Moments((), ()))
    findings: Findings = field(default_factory=Findings)
    masks: MaskRecord | None = None
    objects: ObjectRecord | None = None

    @property
    def of_parts(self) -> bool:
        """Whether classes are of pixels or of objects, and not of whole images."""
        return self.masks is not None or self.objects is not None

    def write(self, directory: Path) -> None:
        """Put the record in place, whole.

        Names keep bytes that are not UTF-8, which only ASCII JSON can hold.
        """
        values = {
            **{key: value for key, value in vars(self).items() if key not in _NESTED},
            "format": _FORMAT,
            "skipped": [
                {"file": printable(item.name), "reason": item.reason}
                for item in self.findings.left_out
                if item.unreadable
            ],
            **{split: vars(record) for split, record in self.splits.items()},
            "augmentation": self.augmentation._asdict(),
            "moments": self.moments._asdict(),
            "findings": self.findings.to_dict(),
            "masks": None if self.masks is None else vars(self.masks),
            "objects": None if self.objects is None else self.objects.to_dict(),
        }
        write_text(directory / FILE, json.dumps(values) + "\n")

    @classmethod
    def read(cls, directory: Path) -> SetRecord | None:
        """The record in a directory, if there is one.

        Raises:
            DataError: if it is damaged or of another version of the library.
        """
        path = directory / FILE
        if not path.exists():
            return None
        try:
            values = read_json(path)
            if values.get("format") != _FORMAT:
                raise DataError(
                    f"{path} was written by another version of foveate, which reads and normalizes "
                    "images in another way: its report can be read, but a study that is not "
                    "finished has to start anew"
                )
            return cls._from_dict(values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} is damaged ({error}); start anew") from None

    @classmethod
    def _from_dict(cls, values: dict[str, Any]) -> SetRecord:
        plain = {key: values[key] for key in cls.__dataclass_fields__ if key not in _NESTED}
        plain["side"] = tuple(plain["side"])
        plain["ranges"] = {kind: ValueRange(*pair) for kind, pair in plain["ranges"].items()}
        found = values["moments"]
        return cls(
            **plain,
            splits={s: SplitRecord(**values[s]) for s in SPLITS if s in values},
            augmentation=Augmentation(**values["augmentation"]),
            moments=Moments(tuple(found["mean"]), tuple(found["std"]), found["images"]),
            findings=Findings.from_dict(values["findings"]),
            masks=MaskRecord(**values["masks"]) if values.get("masks") else None,
            objects=ObjectRecord.from_dict(values["objects"]) if values.get("objects") else None,
        )


_NESTED = ("splits", "augmentation", "moments", "findings", "masks", "objects")

"""What a model that was just trained says of some of the images held out, as files and a page."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import nn

from foveate.data.findings import printable
from foveate.data.images import ImageSet
from foveate.data.moments import sample
from foveate.prediction.files import Named
from foveate.prediction.page import write_page
from foveate.prediction.predict import predictor_of
from foveate.prediction.reading import Picture
from foveate.saved.info import ModelInfo
from foveate.saved.load import LoadedModel

SAMPLES = "samples"


def write_samples(
    root: Path, model: nn.Module, info: ModelInfo, images: ImageSet, count: int, device: str
) -> Path:
    """Put a page with predictions of held-out images into ``samples`` of a run directory.

    Args:
        root: the run directory.
        model: that was trained.
        info: what its file says of it.
        images: with those held out.
        count: of images that are shown, spread over them.
        device: that predicts.
    """
    folder = root / SAMPLES
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pictures = []
    for row in sample(len(images.test), count):
        pixels = images.test[row]
        name = printable(images.test.names[row])
        pictures.append(Picture(name, pixels, (pixels.shape[0], pixels.shape[1])))
    named = [Named(each.name, Path(each.name)) for each in pictures]
    predictor = predictor_of(LoadedModel(model.eval().to(device), info), device, named)
    shown = []
    with torch.inference_mode():
        for start in range(0, len(pictures), predictor.batch_size):
            batch = pictures[start : start + predictor.batch_size]
            for picture, found in zip(batch, predictor.predict(batch), strict=True):
                predictor.write(folder, picture, found)
                shown.append(predictor.show(picture, found))
    said = [
        f"{len(shown)} of the {len(images.test):,} images held out, none of which were learnt from",
        *predictor.finish(folder),
    ]
    return write_page(folder, root.name, info, shown, len(shown), [], said)

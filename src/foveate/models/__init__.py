"""Backbones, one file a family, registered with timm when this package is imported."""

from __future__ import annotations

import importlib
import pkgutil

import timm

from foveate.models._backbone import Backbone, Published
from foveate.models._published_detectors import FIGURES as DETECTORS
from foveate.models._published_detectors import PublishedDetector
from foveate.models._published_segmenters import FIGURES, PublishedSegmenter
from foveate.models.attention_unet import AttentionUNet, attention_unet
from foveate.models.detector import Detector, create_detector, list_detectors
from foveate.models.pyramid import CONTROLS, create_for_place, list_for_place
from foveate.models.segmenter import Segmenter, create_segmenter, list_segmenters

__all__ = [
    "CONTROLS",
    "AttentionUNet",
    "Backbone",
    "Detector",
    "Published",
    "PublishedDetector",
    "PublishedSegmenter",
    "Segmenter",
    "attention_unet",
    "create_detector",
    "create_for_place",
    "create_segmenter",
    "list_backbones",
    "list_detectors",
    "list_for_place",
    "list_segmenters",
    "published_detectors",
    "published_figures",
    "published_segmenters",
]

_FAMILIES = [
    importlib.import_module(f"{__name__}.{module.name}")
    for module in pkgutil.iter_modules(__path__)
    if not module.name.startswith("_")
]


def list_backbones() -> list[str]:
    """Names of this library's backbones, for ``timm.create_model``."""
    return sorted(
        name
        for family in _FAMILIES
        for name in getattr(family, "__all__", [])
        if timm.is_model(name) and timm.model_entrypoint(name).__module__ == family.__name__
    )


def published_figures() -> dict[str, Published]:
    """What the publications say of the backbones, by name."""
    return {
        name: figures
        for family in _FAMILIES
        for name, figures in getattr(family, "PUBLISHED", {}).items()
    }


def published_detectors() -> tuple[PublishedDetector, ...]:
    """What publications say of detectors that :func:`create_detector` builds."""
    return DETECTORS


def published_segmenters() -> tuple[PublishedSegmenter, ...]:
    """What publications say of segmentation models that :func:`create_segmenter` builds."""
    return FIGURES

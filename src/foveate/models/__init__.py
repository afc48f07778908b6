"""Backbones, one file a family, registered with timm."""

from __future__ import annotations

from foveate.models.pyramid import CONTROLS, Pyramid, create_slot, list_slots

__all__ = ["CONTROLS", "Pyramid", "create_slot", "list_slots"]

"""Backbones, one file a family, registered with timm."""

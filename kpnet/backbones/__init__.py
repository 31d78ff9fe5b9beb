"""Backbones: image batches to feature pyramids."""

from __future__ import annotations

from kpnet.backbones import conv_sandwich, mlp  # noqa: F401 - they fill the registry
from kpnet.backbones.base import BACKBONES, Backbone
from kpnet.backbones.factory import build_backbone, list_backbones

__all__ = ["BACKBONES", "Backbone", "build_backbone", "list_backbones"]

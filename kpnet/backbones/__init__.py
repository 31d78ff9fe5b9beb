"""Backbones: image batches to feature pyramids."""

from __future__ import annotations

import kpnet.backbones.conv_sandwich  # noqa: F401 - fills the registry
from kpnet.backbones.base import BACKBONES, Backbone
from kpnet.backbones.factory import build_backbone, list_backbones

__all__ = ["BACKBONES", "Backbone", "build_backbone", "list_backbones"]

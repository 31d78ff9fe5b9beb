"""Heads: feature pyramids to keypoints."""

from __future__ import annotations

from kpnet.heads import heatmap, likelihood, multi, offset, regression, rle, simcc, temporal  # noqa: F401 (they register themselves)
from kpnet.heads.base import HEADS, Head, HeadOutput, Keypoints, Pyramid
from kpnet.plugins import load_plugins

__all__ = ["HEADS", "Head", "HeadOutput", "Keypoints", "Pyramid", "list_heads"]


def list_heads() -> list[str]:
    """Names that `head:` takes."""
    load_plugins()
    return sorted(HEADS)

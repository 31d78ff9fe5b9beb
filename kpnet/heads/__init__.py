"""Heads: feature pyramids to keypoints."""

from __future__ import annotations

from kpnet.core.registry import load_plugins
from kpnet.heads import heatmap, likelihood, multi, offset, regression, rle, simcc, temporal  # noqa: F401 (they register)
from kpnet.heads.base import HEADS, Head, HeadOutput, Keypoints, PyramidInfo, window_of

__all__ = ["HEADS", "Head", "HeadOutput", "Keypoints", "PyramidInfo", "list_heads", "window_of"]


def list_heads() -> list[str]:
    """Names that `head:` takes."""
    load_plugins()
    return sorted(HEADS)

"""A backbone and a head as one network: build, save, load, average, calibrate, summarise.

Imports backbones, heads and what they may import.
"""

from __future__ import annotations

from kpnet.models.build import build_model, load_model
from kpnet.models.keypoint_model import KeypointModel

__all__ = ["KeypointModel", "build_model", "load_model"]

"""Keypoint detection with any backbone and any head.

Nothing heavy is imported until a name is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kpnet import (
        coordinates,
        data,
        decoding,
        losses,
        metrics,
        oks,
        plot,
        rendering,
        smoothing,
        uncertainty,
    )
    from kpnet.backbones import list_backbones
    from kpnet.config.loading import load_config
    from kpnet.core.allocator import keep_freed_memory
    from kpnet.core.errors import KpnetError
    from kpnet.core.skeleton import Skeleton
    from kpnet.evaluation.measurement import evaluate
    from kpnet.heads import list_heads
    from kpnet.inference.predictor import Predictor
    from kpnet.models.build import build_model, load_model
    from kpnet.models.keypoint_model import KeypointModel
    from kpnet.models.test_time import TestTime
    from kpnet.training.supervised import train

__version__ = "0.1.0"

_HOME = {
    "KeypointModel": "kpnet.models",
    "KpnetError": "kpnet.core.errors",
    "Predictor": "kpnet.inference.predictor",
    "Skeleton": "kpnet.core.skeleton",
    "TestTime": "kpnet.models.test_time",
    "build_model": "kpnet.models",
    "evaluate": "kpnet.evaluation.measurement",
    "keep_freed_memory": "kpnet.core.allocator",
    "list_backbones": "kpnet.backbones",
    "list_heads": "kpnet.heads",
    "load_config": "kpnet.config.loading",
    "load_model": "kpnet.models",
    "train": "kpnet.training.supervised",
}
_MODULES = (
    *("coordinates", "data", "decoding", "losses", "metrics", "oks", "plot", "rendering", "smoothing"),
    "uncertainty",
)

__all__ = [
    "KeypointModel",
    "KpnetError",
    "Predictor",
    "Skeleton",
    "TestTime",
    "build_model",
    "coordinates",
    "data",
    "decoding",
    "evaluate",
    "keep_freed_memory",
    "list_backbones",
    "list_heads",
    "load_config",
    "load_model",
    "losses",
    "metrics",
    "oks",
    "plot",
    "rendering",
    "smoothing",
    "train",
    "uncertainty",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"kpnet.{name}")
    raise AttributeError(f"module 'kpnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

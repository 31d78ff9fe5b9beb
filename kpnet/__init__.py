"""kpnet: keypoint detection with any backbone in any head.

Nothing heavy is imported until a name is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kpnet import data, decoding, losses, metrics, oks, plot, rendering
    from kpnet.backbones import list_backbones
    from kpnet.config import load_config
    from kpnet.errors import KpnetError
    from kpnet.heads import list_heads
    from kpnet.model import KeypointModel, build_model, load_model
    from kpnet.predictor import Predictor
    from kpnet.skeleton import Skeleton
    from kpnet.testtime import TestTime

__version__ = "0.1.0"

_HOME = {
    "KeypointModel": "kpnet.model",
    "KpnetError": "kpnet.errors",
    "Predictor": "kpnet.predictor",
    "Skeleton": "kpnet.skeleton",
    "TestTime": "kpnet.testtime",
    "build_model": "kpnet.model",
    "list_backbones": "kpnet.backbones",
    "list_heads": "kpnet.heads",
    "load_config": "kpnet.config",
    "load_model": "kpnet.model",
}
_MODULES = ("data", "decoding", "losses", "metrics", "oks", "plot", "rendering")

__all__ = [
    "KeypointModel",
    "KpnetError",
    "Predictor",
    "Skeleton",
    "TestTime",
    "build_model",
    "data",
    "decoding",
    "list_backbones",
    "list_heads",
    "load_config",
    "load_model",
    "losses",
    "metrics",
    "oks",
    "plot",
    "rendering",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"kpnet.{name}")
    raise AttributeError(f"module 'kpnet' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

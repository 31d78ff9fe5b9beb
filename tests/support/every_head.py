"""Every registered head, with every decoder, and variants of their options."""

from __future__ import annotations

import inspect
from typing import Any

from kpnet.heads import HEADS
from kpnet.heads.decoders import DECODERS


def specs() -> list[Any]:
    """Every head, with every decoder where it takes one: a new file is tested by being registered."""
    found: list[Any] = []
    for name, cls in sorted(HEADS.items()):
        if name == "multi":
            continue
        takes = "decoder" in inspect.signature(cls).parameters
        found += [{"name": name, "decoder": d} for d in sorted(DECODERS)] if takes else [{"name": name}]
    return found


VARIANTS = [
    {"name": "regression", "pool": "avg", "hidden": [], "activation": "none"},
    {"name": "regression", "hidden": [16, 8], "dropout": 0.5, "loss": {"l1": 1.0, "smooth_l1": 0.5}},
    {"name": "heatmap", "stride": 2, "temperature": 0.5, "loss": {"mse": 1.0, "map_mse": 2.0, "smooth_l1": 1.0}},
    {"name": "heatmap", "stride": 8, "loss": {"cross_entropy": 1.0}},
    {"name": "heatmap", "stages": 3, "temperature": "learned", "hardest": 2, "loss": {"kl": 1.0, "js": 1.0}},
    {"name": "heatmap", "temperature": 0.05, "loss": {"map_mse": 1.0, "adaptive_wing": 0.1}, "decoding": "dark"},
    {"name": "heatmap", "loss": {"wing": 1.0, "variance": 0.1}, "decoding": "local"},
    {"name": "offset", "decoding": "argmax", "loss": {"offset": 1.0, "cross_entropy": 0.5, "l1": 0.2}},
    {"name": "centers", "window": 2, "loss": {"centers": 1.0, "extents": 0.5, "offsets": 0.5, "cross_entropy": 1.0}},
    {"name": "centers", "points": False},
    {"name": "simcc", "bins": 3, "hardest": 3, "loss": {"cross_entropy": 1.0, "wing": 0.5}},
    {"name": "rle", "pool": "avg", "hidden": [], "loss": {"nll": 0.5, "l1": 1.0}},
    {"name": "multi", "heads": {"coarse": {"name": "laplace_nll"}, "fine": {"name": "heatmap"}}},
    {"name": "temporal", "layer": "conv", "past": 1, "future": 2, "head": {"name": "gaussian_nll"}, "appearance": 0},
    {"name": "temporal", "layer": "rnn", "loss": {"mse": 2.0, "wing": 1.0}, "head": {"name": "rle"}, "hardest": 2},
    {"name": "multi", "heads": {"a": "rle", "b": "simcc"}, "weights": {"a": 0.1}, "primary": "fused"},
]


EVERY = [*specs(), *VARIANTS]


def label(spec: dict[str, Any]) -> str:
    return "-".join(str(v) for v in spec.values() if isinstance(v, (str, int)))

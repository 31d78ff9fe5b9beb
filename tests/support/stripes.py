"""A small world to pretrain on: images of bright bars, and a config that is done in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SIDE = 16
CONV = {"name": "conv_sandwich", "channels": [8, 16], "norm": "batch", "dropout": 0.1}
MLP = {"name": "mlp", "hidden": 32, "latent": 6}


def stripes(count: int) -> np.ndarray:
    """Uint8 (count, 16, 16): a bright bar at a place and of a brightness of its own."""
    rng = np.random.default_rng(0)
    images = np.full((count, SIDE, SIDE), 40, np.uint8)
    for image in images:
        at = rng.integers(2, SIDE - 4)
        image[:, at : at + 3] = rng.integers(120, 250)
    return images


def pretraining(folder: Path) -> dict[str, Any]:
    """The config, and its images in `folder`."""
    np.savez(folder / "stripes.npz", images=stripes(37))  # the last batch is smaller
    return {
        "name": "tiny",
        "model": {"backbone": CONV, "decoder": {"width": 16}, "in_channels": 1, "input_size": SIDE},
        "data": {
            "root": str(folder),
            "images": "stripes.npz",
            "val": 0.2,
            "transforms": [{"HorizontalFlip": {"p": 0.5}}],
        },
        "train": {"epochs": 2, "batch_size": 8, "noise": 0.1, "mask": {"ratio": 0.25, "patch": 4}, "seed": 3},
        "trainer": {"accelerator": "cpu"},
    }

"""A training of a second that two processes can share: no batch norm, and points that leave the image."""

from __future__ import annotations

from typing import Any

TINY: dict[str, Any] = {
    "name": "tiny",
    "model": {
        "backbone": {"name": "conv_sandwich", "channels": [8, 16], "norm": "group"},
        "head": {"name": "regression", "loss": {"l1": 1.0}},
        "in_channels": 1,
        "input_size": 32,
    },
    "data": {"format": "synthetic", "train": 24, "val": 5, "transforms": [{"Affine": {"scale": [1, 2.5], "p": 1}}]},
    "train": {
        "epochs": 2,
        "batch_size": 8,
        "optimizer": {"name": "sgd", "lr": 0.05},
        "schedule": "constant",
        "average": None,
    },
    "trainer": {"accelerator": "cpu", "logger": None},
}

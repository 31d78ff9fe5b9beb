"""The shipped recipes by the command that takes them, and a small model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import kpnet
from kpnet import build_model
from kpnet.config.loading import list_configs, load_config
from kpnet.config.pretraining import load_pretrain_config

TRAINED = [name for name in list_configs() if not name.startswith("pretrain_")]
TINY_HEATMAP: dict[str, Any] = {
    "backbone": {"name": "conv_sandwich", "channels": [8, 16], "norm": "batch", "dropout": 0.2},
    "head": {"name": "heatmap", "stride": 4, "decoder": {"name": "top_down", "width": 8}},
    "in_channels": 1,
    "input_size": 32,
}  # the model of trainings that take a second
SANDWICH = {"name": "conv_sandwich", "channels": [8, 16]}


def loader(name: str) -> Callable[..., Any]:
    """What reads the recipe."""
    return load_config if name in TRAINED else load_pretrain_config


def small(**changes: Any) -> kpnet.KeypointModel:
    """A model of 32x32 grey images with 3 points."""
    values = {"backbone": SANDWICH, "head": "heatmap", "num_keypoints": 3, "in_channels": 1, "input_size": 32}
    torch.manual_seed(0)
    return build_model(**{**values, **changes})

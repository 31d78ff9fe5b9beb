"""A training of a second that two processes can share: no batch norm, and points that leave the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch.multiprocessing

from kpnet.config.loading import load_config
from kpnet.training.supervised import train

TWO = ("trainer.devices=2", "trainer.strategy=ddp_fork", "train.batch_size=4")
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


def train_on_two(overrides: tuple[str, ...], out: Path, resume: bool = False) -> None:
    """Train TINY in two processes, forked from a new one: a fork of one that has computed may wait for ever."""
    torch.multiprocessing.start_processes(_train, ((*overrides, *TWO), out, resume), nprocs=1, start_method="spawn")


def _train(_: int, overrides: tuple[str, ...], out: Path, resume: bool) -> None:
    torch.set_num_threads(1)
    train(load_config(TINY, overrides), out=out, resume=resume)

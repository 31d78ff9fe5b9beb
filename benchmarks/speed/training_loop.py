"""Measure the training loop's own cost: an epoch of a recipe, augmentation included, against the bare steps.

    python benchmarks/speed/training_loop.py data.root=data/faces15 [--threads 1] [--epochs 5]

Each epoch of the real training (loader, augmentation, Lightning, weight average, logging, checkpoint; no validation)
is followed, in the same process, by as many optimizer steps of a second model of the same config on one batch
in memory. The goal is a ratio of the medians of at most 1.05.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any

import lightning.pytorch as pl
import torch

from kpnet.config.loading import load_config
from kpnet.models.build import build_model
from kpnet.training import supervised as training
from kpnet.training.freezing import parameter_groups
from kpnet.training.optim import build_optimizer


class BareSteps(pl.Callback):
    """Times the bare steps after each epoch, and the epochs without them."""

    def __init__(self, config: Any) -> None:
        self.model = build_model(config).train()
        self.optimizer = build_optimizer(parameter_groups(self.model, config.train), config.train.optimizer)
        size, points = config.model.input_size, len(self.model.skeleton)
        batch = config.train.batch_size
        self.images = torch.rand(batch, config.model.in_channels, *size)
        self.target, self.weight = torch.rand(batch, points, 2) - 0.5, torch.ones(batch, points)
        self.epochs: list[float] = []
        self.bare: list[float] = []
        self.start = 0.0

    def step(self) -> None:
        """Take one optimizer step on the batch in memory."""
        output = self.model.output(self.images)
        loss = torch.stack(list(self.model.head.loss(output, self.target, self.weight).values())).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch:  # what lies between the epochs (the checkpoint) belongs to the one before
            self.epochs.append(time.perf_counter() - self.start)
            start = time.perf_counter()
            for _ in range(int(trainer.num_training_batches)):
                self.step()
            self.bare.append(time.perf_counter() - start)
            print(f"epoch {self.epochs[-1]:.3f} s, bare steps {self.bare[-1]:.3f} s", flush=True)
            self.start = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--config", default="facial_heatmap")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    overrides = [*arguments.overrides, f"train.epochs={arguments.epochs + 2}", "trainer.limit_val_batches=0"]
    config = load_config(arguments.config, [*overrides, "trainer.accelerator=cpu", "trainer.precision=32-true"])
    config = config.model_copy(update={"data": config.data.model_copy(update={"val": None})})
    timer = BareSteps(load_config(config))
    build = training.configure_trainer
    training.configure_trainer = lambda *given, **named: _with(build(*given, **named), timer)
    with tempfile.TemporaryDirectory() as folder:
        training.train(config, out=f"{folder}/run")
    epochs, bare = timer.epochs[1:], timer.bare[1:]  # the first warms up
    epoch, steps = statistics.median(epochs), statistics.median(bare)
    print(f"threads {arguments.threads}: epoch {epoch:.3f} s, bare steps {steps:.3f} s")
    print(f"ratio {epoch / steps:.3f} (at most 1.05)")


def _with(trainer: pl.Trainer, callback: pl.Callback) -> pl.Trainer:
    trainer.callbacks.append(callback)  # type: ignore[attr-defined]
    return trainer


if __name__ == "__main__":
    main()

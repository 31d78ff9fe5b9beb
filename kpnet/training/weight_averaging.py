"""Averages of the weights during a training."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_avg_fn, get_ema_multi_avg_fn, get_swa_avg_fn

from kpnet.config.optim import EMA, SWA


def weight_average(settings: EMA | SWA, epochs: int, half: bool = False) -> WeightAveraging:
    """Build the callback of `train.average` for a training of `epochs` epochs, on weights of 16 bits if `half`."""
    if not isinstance(settings, EMA):
        return EndAverage(
            min(int(settings.start * epochs), epochs - 1), **({"avg_fn": get_swa_avg_fn()} if half else {})
        )
    return MovingAverage(**_moving(settings.decay, half))


def teacher_average(decay: float, half: bool = False) -> TeacherAverage:
    """Build the callback of a teacher beside a training whose `train.average` is no moving average."""
    return TeacherAverage(**_moving(decay, half))


def _moving(decay: float, half: bool) -> dict[str, Any]:
    return {"avg_fn": get_ema_avg_fn(decay)} if half else {"multi_avg_fn": get_ema_multi_avg_fn(decay)}


class Average(WeightAveraging):
    """Averages weights in at least 32 bits: in 16, an average would not move by one hundredth of a difference."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._held: list[Tensor] | None = None  # the weights, while the average is in their place

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None and "avg_fn" in self._kwargs:
            self._average_model.float()

    def _swap_models(self, pl_module: pl.LightningModule) -> None:
        """Replace the weights by the average, or put them back; Lightning's would round the average to their bits."""
        weights = [*pl_module.parameters(), *pl_module.buffers()]
        if self._held is None:
            self._held = [each.detach().clone() for each in weights]
            self._copy_average_to_current(pl_module)
            return
        for weight, held in zip(weights, self._held, strict=True):
            weight.data.copy_(held)
        self._held = None


class MovingAverage(Average):
    """Averages the weights after each step."""

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average, as torch's `AveragedModel` does.

        It asks a counter on the device whether it has begun, for which a GPU would have to wait twice in each step;
        `_latest_update_step` is a number of Python's.
        """
        if trainer.global_step <= self._latest_update_step:  # gradients are still being accumulated
            return
        model = self._average_model
        assert model is not None
        averages = [*model.module.parameters(), *model.module.buffers()]
        weights = [each.detach() for each in (*pl_module.parameters(), *pl_module.buffers())]
        if not self._latest_update_step:
            torch._foreach_copy_(averages, weights)
        elif model.avg_fn is not None:
            for average, weight in zip(averages, weights, strict=True):
                average.copy_(model.avg_fn(average, weight, model.n_averaged))
        elif model.multi_avg_fn is not None:
            for dtype in {each.dtype for each in averages}:
                chosen = [i for i, each in enumerate(averages) if each.dtype == dtype]
                model.multi_avg_fn([averages[i] for i in chosen], [weights[i] for i in chosen], model.n_averaged)
        model.n_averaged += 1
        self._latest_update_step = trainer.global_step


class TeacherAverage(MovingAverage):
    """The teacher of a training without `train.average: ema`: the weights that are trained stay what they are."""

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the weights themselves."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nothing was replaced."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights themselves."""

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the teacher beside the weights."""
        assert self._average_model is not None
        checkpoint["teacher"] = self._average_model.state_dict()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Load the teacher, if the training had one."""
        if self._average_model is not None and "teacher" in checkpoint:
            self._average_model.load_state_dict(checkpoint["teacher"])


class EndAverage(Average):
    """Averages the weights at the ends of the epochs from `start` (counted from 0) on.

    BatchNorm's statistics are averaged too, rather than measured again in a further pass over the data.
    """

    def __init__(self, start: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start = start

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None and epoch_idx >= self.start

    @property
    def _begun(self) -> bool:
        return self._average_model is not None and bool(self._average_model.n_averaged > 0)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Averaged at the ends of epochs before: a run that was lengthened averages its new last epochs.
        if self._begun and trainer.current_epoch <= self.start:
            assert self._average_model is not None
            self._average_model.n_averaged.zero_()

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._begun:
            super().on_validation_epoch_start(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._begun:
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._begun:
            super().on_train_end(trainer, pl_module)

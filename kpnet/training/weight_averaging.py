"""Averages of the weights during a training."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from kpnet.config.optim import EMA, SWA


def weight_average(settings: EMA | SWA, epochs: int) -> WeightAveraging:
    """Build the callback of `train.average` for a training of `epochs` epochs."""
    if isinstance(settings, EMA):
        return WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(settings.decay))
    return EndAverage(min(int(settings.start * epochs), epochs - 1))


class EndAverage(WeightAveraging):
    """Averages the weights at the ends of the epochs from `start` (counted from 0) on.

    BatchNorm's statistics are averaged too, rather than measured again in a further pass over the data.
    """

    def __init__(self, start: int) -> None:
        super().__init__()
        self.start = start

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None and epoch_idx >= self.start

    @property
    def _begun(self) -> bool:
        return self._average_model is not None and bool(self._average_model.n_averaged > 0)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._begun and trainer.current_epoch < self.start:  # a run that was lengthened averages its new last epochs
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

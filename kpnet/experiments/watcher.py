"""Stop unpromising trials of a sweep after a validation."""

from __future__ import annotations

import lightning.pytorch as pl

from kpnet.experiments.plan import ShouldContinue, TrialStopped


class PruningCallback(pl.Callback):
    """Raises `TrialStopped` after a validation if `watch` returns False."""

    def __init__(self, watch: ShouldContinue) -> None:
        self.watch = watch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        score = trainer.callback_metrics.get("val_score")
        if score is not None and not self.watch(trainer.current_epoch, float(score)):
            raise TrialStopped(f"stopped after epoch {trainer.current_epoch + 1}, score {float(score):.1f}")

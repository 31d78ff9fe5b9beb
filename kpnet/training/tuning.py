"""`tune`: a learning rate by a range test (Smith 2017), and the largest batch that fits into memory.

On Lightning's Trainer, and not by its Tuner: that gives all groups of parameters one rate, so that `lr_scale` is lost;
takes the slope against the rate and not its logarithm, so that noise at the smallest rates has the steepest; may answer
with a batch size that it has not tried; and writes checkpoints on the way.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from kpnet.config.schema import Config, TrainConfig
from kpnet.core.errors import KpnetError
from kpnet.data import KeypointDataset
from kpnet.models.build import assemble
from kpnet.models.keypoint_model import KeypointModel
from kpnet.training.loaders import Loaders
from kpnet.training.module import Batch, KeypointModule
from kpnet.training.optim import build_optimizer
from kpnet.training.trainer import check_arguments, create_trainer, fit, on_gpu, resolve_precision

LOWEST, HIGHEST = 1e-7, 10.0
MIN_STEPS = 20
SMOOTHING = 3.0  # steps: the standard deviation of a Gaussian
RISE = 0.05  # of the whole fall: a loss that rises by so much has begun to diverge
TRIED_STEPS = 3  # of each batch size: memory is at its most once the optimizer has its state
MAX_BATCH_CPU, MAX_BATCH_GPU = 256, 8192
# What a single step depends on; the rest of `trainer` says how long, where to and on how many devices.
STEP_ARGUMENTS = (
    *("accelerator", "precision", "accumulate_grad_batches"),
    *("gradient_clip_algorithm", "deterministic", "benchmark"),
)


@dataclass(frozen=True)
class LRCurve:
    """Of a range test: the rates (N,) of its steps, their losses (N,), these smoothed (N,), and the rate at which they
    fall fastest."""

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float


@dataclass(frozen=True)
class BatchSize:
    """The largest power of two that fits, and what stopped the search."""

    size: int
    limit: Literal["memory", "data", "most"]


class RangeTest(KeypointModule):
    """A KeypointModule that takes one step at each of `rates`. What rests in the first epoch rests throughout."""

    def __init__(self, model: KeypointModel, config: TrainConfig, rates: np.ndarray) -> None:
        super().__init__(model, config)
        self.rates = rates
        self.losses: list[list[float]] = [[] for _ in rates]  # of each step's batches

    def on_train_epoch_start(self) -> None:
        """Nothing thaws: the test is of the training's beginning."""

    def configure_optimizers(self) -> Any:
        # Built at rate 1, each group's is its own scale, which the schedule keeps.
        optimizer = build_optimizer(self.learning_parts(), self.config.optimizer.model_copy(update={"lr": 1.0}))
        schedule = LambdaLR(optimizer, lambda step: float(self.rates[min(step, len(self.rates) - 1)]))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.losses[self.trainer.global_step].append(loss.item())
        return loss

    def not_finite(self, terms: dict[str, Tensor]) -> None:
        self.trainer.should_stop = True


def find_lr(config: Config, data: KeypointDataset, steps: int = 100) -> tuple[LRCurve, list[str]]:
    """Take `steps` steps from rate 1e-7 to 10, each larger by the same factor, with the config's own model, data and
    optimizer; its schedule has no part in it. With lines that say what the rate is of.

    A KpnetError where no rate can be told.
    """
    pl.seed_everything(config.train.seed, workers=True, verbose=False)
    module = RangeTest(assemble(config.model, data.skeleton), config.train, np.geomspace(LOWEST, HIGHEST, steps))
    _run(module, config, data)
    means = np.array([np.mean(losses) if losses else math.nan for losses in module.losses])
    curve = suggest_lr(module.rates, means)
    size = config.train.batch_size
    said = [f"learning rate {curve.suggestion:.1e}: where the loss falls fastest, at batch size {size}"]
    first, *others = module.learning_parts()
    if others:
        scales = ", ".join(f"{part.name} {part.scale:g}" for part in others)
        said.append(f"it is the {first.name}'s; other parts learned at their own share of it: {scales}")
    if module.model.frozen_stages:
        frozen, stages = module.model.frozen_stages, len(module.model.backbone.strides)
        said.append(f"{frozen} of {stages} stages of the backbone were frozen, as in the first epoch")
    return curve, said


def suggest_lr(rates: np.ndarray, losses: np.ndarray) -> LRCurve:
    """Of rates (N,) and losses (N,) those before the first loss that is not finite, and the rate at which the smoothed
    loss falls fastest per factor of the rate, before it first rises.

    A KpnetError where there are fewer than 20 of them, or the loss falls by less than twice what it scatters.
    """
    bad = np.flatnonzero(~np.isfinite(losses))
    count = int(bad[0]) if len(bad) else len(losses)
    if count < MIN_STEPS:
        raise KpnetError(
            f"no learning rate found: the loss is not finite after {count} steps, at a rate of {rates[count]:.1e}; "
            "look for NaN in the images, or set train.clip_norm=1.0"
        )
    rates, losses = rates[:count], losses[:count]
    start = float(np.median(losses[: MIN_STEPS // 2]))
    # What has diverged is cut off, or it would be smeared over the steps before it.
    smoothed = _smooth(np.minimum(losses, 2 * start - losses.min()))
    lowest = np.minimum.accumulate(smoothed)
    end, half = int(smoothed.argmin()), int((lowest < (start + lowest[-1]) / 2).argmax())
    # As a standard deviation; a smaller loss scatters less.
    scatter = 1.5 * float(np.median(np.abs(losses - smoothed)[: max(half, MIN_STEPS // 2)]))
    # What has diverged may come to rest at a saturated answer, and fall faster there than it ever learned.
    whole = start - lowest[-1]
    risen = np.flatnonzero((smoothed - lowest > max(scatter, RISE * whole)) & (start - lowest > whole / 4))
    end = int(smoothed[: risen[0]].argmin()) if len(risen) else end
    fall = start - float(smoothed[end])
    if end == 0 or fall <= max(2 * scatter, 1e-6 * abs(start)):
        raise KpnetError(
            f"no learning rate found: from {rates[0]:.0e} to {rates[-1]:.0e}, the loss falls by {fall:.2g} at most and "
            f"scatters by {scatter:.2g}; try more --steps, or a larger train.batch_size"
        )
    slope = np.gradient(smoothed, np.log(rates))
    return LRCurve(rates, losses, smoothed, float(rates[slope[: end + 1].argmin()]))


def _smooth(values: np.ndarray) -> np.ndarray:
    """Gaussian, and not a running mean, which would lag behind."""
    steps = np.arange(len(values))
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / SMOOTHING) ** 2)
    return (weights / weights.sum(1, keepdims=True)) @ values


def find_batch_size(config: Config, data: KeypointDataset, most: int | None = None) -> BatchSize:
    """Three steps at each power of two from 2 to `most` (None: 256 on a CPU, 8192 on a GPU) or the data's length.

    A KpnetError where not even the first fits into memory.
    """
    most = most or (MAX_BATCH_GPU if on_gpu(config.trainer) else MAX_BATCH_CPU)
    bound, found = min(most, len(data)), 0
    pl.seed_everything(config.train.seed, workers=True, verbose=False)
    model = assemble(config.model, data.skeleton)
    # Not from 1: a batch norm over one sample of one cell has no variance.
    for size in [2**power for power in range(1, bound.bit_length())] or [1]:
        settings = config.train.model_copy(update={"batch_size": size})
        module = RangeTest(model, settings, np.full(TRIED_STEPS, LOWEST))
        try:
            _run(module, config.model_copy(update={"train": settings}), data)
        except RuntimeError as error:
            if not is_oom_error(error):
                raise
            if not found:
                raise KpnetError(f"a batch of {size} does not fit into memory") from None
            return BatchSize(found, "memory")
        finally:
            garbage_collection_cuda()
        found = size
    return BatchSize(found, "data" if len(data) < most else "most")


def _run(module: RangeTest, config: Config, data: KeypointDataset) -> None:
    """A step for each of the module's rates, on one device; nothing is written."""
    check_arguments(config.trainer)
    settings = {key: value for key, value in resolve_precision(config.trainer).items() if key in STEP_ARGUMENTS}
    trainer = create_trainer(
        **settings,
        devices=1,
        max_steps=len(module.rates),
        gradient_clip_val=config.train.clip_norm,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning|torchmetrics")
        fit(trainer, module, Loaders(data, None, config), None)
    if not torch.isfinite(torch.tensor(module.losses[0])).all():
        raise KpnetError(
            "the loss of the first batch is not finite, before anything was learned: look for NaN in the data"
        )


def describe_batch_size(found: BatchSize, samples: int) -> str:
    """One line: why not a larger one."""
    if found.limit == "memory":
        return f"batch size {found.size}: {2 * found.size} does not fit into memory"
    reason = (
        f"there are {samples} training samples" if found.limit == "data" else "--max-batch-size allows no larger one"
    )
    return f"batch size {found.size}: {reason}; memory was not the limit"

"""Learning rate by a range test, and the largest batch size that fits into memory.

The range test is that of Smith 2017, Cyclical learning rates for training neural networks.

It uses Lightning's Trainer, but not its Tuner. It gives all groups of parameters one rate, so that `lr_scale` is lost;
takes the slope against the rate instead of its logarithm, so that noise at the smallest rates is the steepest; may
return a batch size that it has not tried; and writes checkpoints.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.memory import garbage_collection_cuda, is_oom_error
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from kpnet.config.schema import Config, TrainConfig
from kpnet.core.errors import KpnetError
from kpnet.data import KeypointDataset
from kpnet.data.augmentations import device_augmentation
from kpnet.models.build import assemble
from kpnet.models.keypoint_model import KeypointModel
from kpnet.training.loaders import Loaders, trains_on_one
from kpnet.training.loss_monitor import StepLoss
from kpnet.training.module import KeypointModule
from kpnet.training.optim import build_optimizer
from kpnet.training.trainer import DTYPES, create_trainer, fit, on_gpu, resolve_precision, trainer_arguments

if TYPE_CHECKING:  # it imports albumentations
    from kpnet.data.transforms.device import DeviceAugment

LOWEST, HIGHEST = 1e-7, 10.0
MIN_STEPS = 20
SMOOTHING = 3.0  # standard deviation of a Gaussian, in steps
RISE = 0.05  # a loss that rises by this share of its whole fall has begun to diverge
TRIED_STEPS = 3  # per batch size: memory use peaks once the optimizer has its state
MAX_BATCH_CPU, MAX_BATCH_GPU = 256, 8192
# Arguments of `trainer` that a single step depends on; the others set the length, the folder and the devices.
STEP_ARGUMENTS = (
    *("accelerator", "precision", "accumulate_grad_batches"),
    *("gradient_clip_algorithm", "deterministic", "benchmark"),
)


@dataclass(frozen=True)
class LRCurve:
    """The result of a range test.

    Attributes:
        rates: Learning rate of each step (N,).
        losses: Loss of each step (N,).
        smoothed: The losses, smoothed (N,).
        suggestion: The rate at which the smoothed loss falls fastest.
    """

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float


@dataclass(frozen=True)
class BatchSize:
    """The largest power of two that fits into memory, and what ended the search."""

    size: int
    limit: Literal["memory", "data", "most"]


class RangeTest(KeypointModule):
    """A KeypointModule that takes one step at each of `rates`; stages frozen in the first epoch stay frozen."""

    def __init__(
        self, model: KeypointModel, config: TrainConfig, rates: np.ndarray, augment: DeviceAugment | None = None
    ) -> None:
        super().__init__(model, config, augment)
        self.rates = rates
        self.losses: list[list[float]] = [[] for _ in rates]  # of each step's batches

    def on_train_epoch_start(self) -> None:
        """Unfreeze nothing: the test is about the beginning of a training."""

    def configure_optimizers(self) -> Any:
        # Built at rate 1, each group's rate is its own scale, which the schedule keeps.
        optimizer = build_optimizer(self.learning_groups(), self.config.optimizer.model_copy(update={"lr": 1.0}))
        schedule = LambdaLR(optimizer, lambda step: float(self.rates[min(step, len(self.rates) - 1)]))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _share(self, loss: Tensor, points: Tensor) -> Tensor:
        self.losses[self.trainer.global_step].append(loss.item())
        return super()._share(loss, points)

    def not_finite(self, last: StepLoss) -> None:
        self.trainer.should_stop = True


def find_lr(config: Config, data: KeypointDataset, steps: int = 100) -> tuple[LRCurve, list[str]]:
    """Run a range test: steps at rates from 1e-7 to 10, each larger than the last by the same factor.

    Model, data and optimizer are the config's; its schedule is not used.

    Args:
        config: The config of the training to tune.
        data: Its training data.
        steps: Number of steps.

    Returns:
        The curve, and lines of text that describe the suggested rate.

    Raises:
        KpnetError: The loss shows no rate at which it falls.
    """
    pl.seed_everything(config.train.seed, workers=True, verbose=False)
    augment = device_augmentation(config.data, config.model, data.skeleton)
    rates = np.geomspace(LOWEST, HIGHEST, steps)
    module = RangeTest(assemble(config.model, data.skeleton), config.train, rates, augment)
    _run(module, config, data)
    means = np.array([np.mean(losses) if losses else math.nan for losses in module.losses])
    curve = suggest_lr(module.rates, means)
    size = config.train.batch_size
    lines = [f"learning rate {curve.suggestion:.1e}: where the loss falls fastest, at batch size {size}"]
    first, *others = module.learning_groups()
    if others:
        scales = ", ".join(f"{part.name} {part.scale:g}" for part in others)
        lines.append(f"it is the {first.name}'s; other parts learned at their own multiple of it: {scales}")
    if module.model.frozen_stages:
        frozen, stages = module.model.frozen_stages, len(module.model.backbone.strides)
        lines.append(f"{frozen} of {stages} stages of the backbone were frozen, as in the first epoch")
    return curve, lines


def suggest_lr(rates: np.ndarray, losses: np.ndarray) -> LRCurve:
    """Suggest the rate at which the smoothed loss falls fastest, before it first rises.

    Args:
        rates: Learning rates (N,), increasing.
        losses: Loss at each rate (N,). Those from the first on that is not finite are cut off.

    Returns:
        The curve; its slope is taken against the logarithm of the rate.

    Raises:
        KpnetError: Fewer than 20 losses are finite, or the loss falls by less than twice its scatter.
    """
    infinite = np.flatnonzero(~np.isfinite(losses))
    count = int(infinite[0]) if len(infinite) else len(losses)
    if count < MIN_STEPS:
        raise KpnetError(
            f"no learning rate found: the loss is not finite after {count} steps, at a rate of {rates[count]:.1e}; "
            "look for NaN in the images, or set train.clip_norm=1.0"
        )
    rates, losses = rates[:count], losses[:count]
    start = float(np.median(losses[: MIN_STEPS // 2]))
    # Diverged losses are clipped, or the smoothing would smear them over the steps before.
    smoothed = _smooth(np.minimum(losses, 2 * start - losses.min()))
    lowest = np.minimum.accumulate(smoothed)
    end, half = int(smoothed.argmin()), int((lowest < (start + lowest[-1]) / 2).argmax())
    # As a standard deviation, from the first half of the fall: a smaller loss scatters less.
    scatter = 1.5 * float(np.median(np.abs(losses - smoothed)[: max(half, MIN_STEPS // 2)]))
    # A diverged network may end at a saturated output, and its loss fall faster on the way than it ever learned.
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
    """Smooth with a Gaussian; a running mean would lag behind."""
    steps = np.arange(len(values))
    weights = np.exp(-0.5 * ((steps[:, None] - steps) / SMOOTHING) ** 2)
    return (weights / weights.sum(1, keepdims=True)) @ values


def find_batch_size(config: Config, data: KeypointDataset, most: int | None = None) -> BatchSize:
    """Find the largest power of two that fits into memory as a batch size, by three steps at each.

    Args:
        config: The config of the training to tune.
        data: Its training data; no batch is larger.
        most: Largest batch size to try. None: 256 on a CPU, 8192 on a GPU.

    Returns:
        The batch size, and what ended the search.

    Raises:
        KpnetError: Not even the first batch fits into memory.
    """
    most = most or (MAX_BATCH_GPU if on_gpu(config.trainer) else MAX_BATCH_CPU)
    bound, found = min(most, len(data)), 0
    pl.seed_everything(config.train.seed, workers=True, verbose=False)
    model = assemble(config.model, data.skeleton)
    augment = device_augmentation(config.data, config.model, data.skeleton)
    # Not from 1: a batch norm over one cell of one sample has no variance.
    for size in [2**power for power in range(1, bound.bit_length())] or [1]:
        tried = config.model_copy(update={"train": config.train.model_copy(update={"batch_size": size})})
        module = RangeTest(model, tried.train, np.full(TRIED_STEPS, LOWEST), augment)
        try:
            _run(module, tried, data)
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
    """Take a step at each of the module's rates, on one device, without writing anything."""
    settings = resolve_precision(config.trainer)
    module.model.to(DTYPES.get(settings.precision, torch.float32))
    single = trains_on_one(module.model, module.model.output, data[0]["image"][None])
    one_device = settings.model_copy(update={"devices": 1})
    arguments = {key: value for key, value in trainer_arguments(one_device).items() if key in STEP_ARGUMENTS}
    trainer = create_trainer(
        **arguments,
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
        fit(trainer, module, Loaders(data, None, config, single=single), None)
    if not torch.isfinite(torch.tensor(module.losses[0])).all():
        raise KpnetError(
            "the loss of the first batch is not finite, before anything was learned: look for NaN in the data"
        )


def describe_batch_size(found: BatchSize, samples: int) -> str:
    """Describe a batch size in one line, with the reason why it is not larger."""
    if found.limit == "memory":
        return f"batch size {found.size}: {2 * found.size} does not fit into memory"
    reason = (
        f"there are {samples} training samples" if found.limit == "data" else "--max-batch-size allows no larger one"
    )
    return f"batch size {found.size}: {reason}; memory was not the limit"

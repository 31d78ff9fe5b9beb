"""The LightningModule of supervised training: loss, its average, validation metrics, freezing."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from kpnet.config.schema import TrainConfig
from kpnet.core.errors import KpnetError, NotFiniteError, first_line
from kpnet.data.base import unit_images
from kpnet.evaluation.accumulators import KeypointMetrics, LossMean, WeightedMean
from kpnet.heads import HeadOutput
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.loss_terms import LossTerms
from kpnet.training.freezing import ParameterGroup, count_learning_groups, frozen_stages, parameter_groups
from kpnet.training.loss_monitor import LossMonitor, StepLoss
from kpnet.training.optim import GroupSchedule, build_optimizer, build_schedule
from kpnet.training.saturation import SaturationCheck
from kpnet.training.unlabelled import Teaching, teacher_of

if TYPE_CHECKING:  # it imports albumentations
    from kpnet.data.transforms.device import DeviceAugment
    from kpnet.heads.centers import CentersHead

Batch = dict[str, Any]
log = logging.getLogger("kpnet")


class KeypointModule(pl.LightningModule):
    """Trains a KeypointModel on batches of a KeypointDataset, which are augmented here by `data.device_transforms`."""

    def __init__(
        self,
        model: KeypointModel,
        config: TrainConfig,
        augment: DeviceAugment | None = None,
        teaching: Teaching | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.config = config
        terms = _count_terms(model)
        self.train_loss = LossMean(
            terms + (_count_terms(model.finder) if isinstance(model.finder, KeypointModel) else 0)
        )
        self.val_loss = LossMean(terms)
        self.augment = augment
        self.teaching = teaching
        self._compiled: Callable[..., Any] | None = None
        self.monitor = LossMonitor()
        self.val_metrics = KeypointMetrics(model.skeleton, model.config.input_size)
        self.saturation = SaturationCheck(len(model.skeleton))
        self.present = WeightedMean()  # share of the points of which it is known, in the first epoch
        self.shares = torch.zeros(())  # of the batches that make the next step
        self.groups = parameter_groups(model, config)
        self._freeze_for(0)

    def _freeze_for(self, epoch: int) -> None:
        frozen = frozen_stages(self.config.freeze, len(self.model.backbone.strides), epoch)
        if frozen != self.model.frozen_stages:
            self.model.freeze_backbone(frozen)

    def learning_groups(self) -> list[ParameterGroup]:
        return self.groups[: count_learning_groups(self.groups, self.model, self.model.frozen_stages)]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._freeze_for(checkpoint["epoch"])  # the optimizer's groups are those of the epoch that was saved
        if self.teaching is not None:
            self.teaching.lost = checkpoint.get("teacher_is_lost", False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.teaching is not None:
            checkpoint["teacher_is_lost"] = self.teaching.lost

    def on_train_epoch_start(self) -> None:
        before = len(self.learning_groups())
        self._freeze_for(self.current_epoch)
        unfrozen = self.learning_groups()[before:]
        for part in unfrozen:
            self._add(part)
        if unfrozen and isinstance(self.trainer.strategy, DDPStrategy):
            # DDP never synchronises what required no gradient when it was wrapped.
            self.trainer.strategy.model = self
            self.trainer.strategy.configure_ddp()

    def _add(self, part: ParameterGroup) -> None:
        """Add a part to the optimizer, at the rate that the others have reached."""
        settings, scheduler = self.config.optimizer, self.lr_schedulers()
        if isinstance(scheduler, GroupSchedule):
            return scheduler.add(part, settings.weight_decay, settings.lr)
        for optimizer in self.trainer.optimizers:  # a plateau may have lowered the rates
            fallen = optimizer.param_groups[0]["lr"] / (settings.lr * self.groups[0].scale)
            for group in part.groups(settings.weight_decay, settings.lr * fallen):
                optimizer.add_param_group(group)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0:
            # Not at the epoch's start: the loader draws a number too, in a resumed run before that.
            seed_epoch(self.config.seed, self.current_epoch, self.global_rank)
            self.train_loss.reset()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Convert the bytes of images on the device: a quarter is sent."""
        if "labelled" in batch:
            views = {key: unit_images(value) for key, value in batch["unlabelled"].items()}
            return {**self.on_after_batch_transfer(batch["labelled"], 0), "unlabelled": views}
        batch = {**batch, "image": unit_images(batch["image"])}
        return {**batch, "scene": self.on_after_batch_transfer(batch["scene"], 0)} if "scene" in batch else batch

    def _augmented(self, batch: Batch, batch_idx: int) -> Batch:
        if self.augment is None:
            return batch
        return self.augment(batch, self._draws(batch_idx))

    def _draws(self, *numbers: int) -> torch.Generator:
        """Return random draws on the device that follow from the epoch and numbers."""
        sequence = np.random.SeedSequence((self.config.seed, self.current_epoch, self.global_rank, *numbers))
        return torch.Generator(self.device).manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))

    def _compute(self, batch: Batch) -> tuple[HeadOutput, LossTerms]:
        """Return `compute_terms`, by compiled code if `train.compile` says so and it compiles."""
        tensors = {key: value for key, value in batch.items() if key not in ("index", "matrix", "unlabelled")}
        if not self.config.compile:
            return compute_terms(self.model, tensors)
        if self._compiled is None:
            self._compiled = torch.compile(compute_terms)
        try:
            return self._compiled(self.model, tensors)
        except RuntimeError as error:
            if not _is_of_the_compiler(error):
                raise
            cause = getattr(error, "inner_exception", error)  # what a backend raised
            log.warning("train.compile: %s; the network runs as it is", first_line(cause, with_type=True))
            self._compiled = compute_terms
            return compute_terms(self.model, tensors)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        batch = self._augmented(batch, batch_idx)
        output, terms = self._compute(batch)
        loss = terms.values.detach().sum()
        everywhere = self._over_ranks(torch.cat([loss[None], terms.counts]))  # (ranks, 1 + terms)
        if (last := self.check_loss()) is not None:
            # On the CPU already: of a value on a GPU, Lightning would make a number in each step.
            self.log("loss", last.ranks[self.global_rank], prog_bar=True, logger=False)
        self.monitor.send(self.current_epoch, self.global_step, everywhere[:, 0], terms.named)
        self.train_loss.update(terms)
        later = self.current_epoch == 1 and 2 * batch_idx >= self.trainer.num_training_batches
        if (self.current_epoch == 0 or later) and not self.model.head.finds_instances:
            self.saturation.update(self.current_epoch, output.xy.detach(), batch["keypoints"], batch["visible"])
        if self.current_epoch == 0 and "present" in batch:
            self.present.update(batch["present"], batch["present"].isfinite())
        loss = terms.weighted(everywhere[:, 1:])
        if self.teaching is not None:
            loss = loss + self._taught(self.teaching, batch, batch_idx)
        return self._share(loss, everywhere[:, 1:].sum())

    def progress(self) -> float:
        """Return the fraction of the training's steps that are done."""
        return self.global_step / (steps_per_epoch(self.trainer) * self.config.epochs)

    def _taught(self, teaching: Teaching, batch: Batch, batch_idx: int) -> Tensor | float:
        """Return the weighted loss on unlabelled images; the network does not see them while they do not count."""
        weight = teaching.weight(self.progress())
        if not weight:
            return 0.0
        taught = teaching.label(teacher_of(self.trainer), batch["unlabelled"], self._draws(batch_idx, 1))
        _, terms = self._compute(taught)
        return weight * terms.weighted(self._over_ranks(terms.counts))

    def _share(self, loss: Tensor, points: Tensor) -> Tensor:
        """Weight the loss of a batch by its points where several make a step; `on_before_optimizer_step` divides."""
        if self.trainer.accumulate_grad_batches == 1:
            return loss
        share = points / (self.trainer.world_size * self.config.batch_size * len(self.model.skeleton))  # about 1
        self.shares = self.shares + share
        return loss * share

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.trainer.accumulate_grad_batches == 1:
            return
        # Lightning has divided by the number of batches, of a last step with fewer batches too.
        gradients = [each.grad for each in self.parameters() if each.grad is not None]
        torch._foreach_mul_(gradients, self.trainer.accumulate_grad_batches / self.shares.clamp(min=1e-12))
        self.shares = torch.zeros_like(self.shares)

    def _over_ranks(self, values: Tensor) -> Tensor:
        """Return the values (N,) of all ranks as (ranks, N)."""
        gathered = self.all_gather(values) if self.trainer.world_size > 1 else values
        assert isinstance(gathered, Tensor)
        return gathered.view(-1, len(values))

    def check_loss(self) -> StepLoss | None:
        """Return the loss of the step before, and raise if it is not finite, in every process alike."""
        last = self.monitor.receive()
        if last is not None and not last.is_finite():
            self.not_finite(last)
        return last

    def not_finite(self, last: StepLoss) -> None:
        """Raise a NotFiniteError that names the terms of the loss."""
        raise NotFiniteError(f"the loss is not finite {last.describe()}: {self._remedy()}; the last good model is kept")

    def _remedy(self) -> str:
        if next(self.model.parameters()).dtype == torch.float16:  # in which Adam's epsilon is 0
            return "16 bits hold too few numbers: use trainer.precision=bf16-mixed"
        return f"lower train.optimizer.lr ({self.config.optimizer.lr:g}), or set train.clip_norm=1.0"

    def check_epoch(self, loss: float) -> None:
        """Raise if an epoch had nothing to learn from, so that its mean loss is NaN, or spoiled the weights."""
        self.check_loss()
        if math.isnan(loss):
            raise KpnetError(
                f"epoch {self.current_epoch + 1}: no training image has a labelled point: look at data.transforms, "
                "which may move all of them out of the image"
            )
        self.check_weights()

    def check_weights(self) -> None:
        """Raise if a weight is not finite, in every process alike."""
        wrong = next((name for name, value in self.model.named_parameters() if not value.isfinite().all()), None)
        if wrong is not None:
            raise NotFiniteError(
                f"the weights ({wrong}) are not finite after epoch {self.current_epoch + 1}, step {self.global_step}: "
                f"{self._remedy()}; the last good model is kept"
            )

    def on_validation_epoch_start(self) -> None:
        self.check_loss()
        self.val_loss.reset()
        self.val_metrics.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        output = self.model.output(batch["image"])
        visible = batch["visible"]
        self.val_loss.update(self.model.loss_terms(batch, output))
        if "boxes" in batch:  # the points of the true instances
            head = cast("CentersHead", self.model.head)
            points = head.read(output, batch["boxes"]).keypoints
            self.val_metrics.update(points.flatten(0, 1), batch["keypoints"].flatten(0, 1), visible.flatten(0, 1))
        else:
            self.val_metrics.update(self.model.head.decode(output), batch["keypoints"], visible)

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.learning_groups(), self.config.optimizer)
        steps, freeze = steps_per_epoch(self.trainer), self.config.freeze
        warmup, epochs = steps * freeze.warmup if freeze else 0.0, self.config.epochs
        schedule = build_schedule(optimizer, self.config.schedule, steps * epochs, epochs, warmup)
        if schedule["interval"] == "epoch":  # there is a loss to watch
            schedule["frequency"] = self.trainer.check_val_every_n_epoch or 1
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def _count_terms(model: KeypointModel) -> int:
    """Return the number of terms that `model.loss_terms` has, without those of a finder."""
    weight = torch.zeros(1, len(model.skeleton))
    if not model.head.finds_instances:
        return 1 + len(model.head.denominators(weight)) + (model.presence is not None)
    scene = {
        "boxes": torch.full((1, 1, 4), torch.nan),
        "ignored": torch.full((1, 1, 4), torch.nan),
        "keypoints": torch.zeros(1, 1, len(model.skeleton), 2),
        "visible": weight[None].bool(),
        "weight": weight[None],
        "partial": torch.zeros(1, dtype=torch.bool),
    }
    return 1 + len(cast("CentersHead", model.head).scene_denominators(scene))


def compute_terms(model: KeypointModel, batch: Batch) -> tuple[HeadOutput, LossTerms]:
    """Return the output of a model for a batch, and the terms of its loss; one graph for `torch.compile`."""
    output = model.output(batch["image"])
    return output, model.loss_terms(batch, output)


def _is_of_the_compiler(error: RuntimeError) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # slow to import

    return isinstance(error, TorchDynamoException)


def seed_epoch(seed: int, epoch: int, rank: int) -> None:
    """Seed the draws of an epoch (dropout, noise), so that a resumed run draws what an uninterrupted one drew."""
    torch.manual_seed((seed * 1_000_003 + epoch) * 65_537 + rank)


def steps_per_epoch(trainer: pl.Trainer) -> int:
    """Return the number of optimizer steps in an epoch."""
    # Not `trainer.estimated_stepping_batches`: it starts the workers before the checkpoint's epoch is known.
    loaders: Any = trainer.datamodule  # type: ignore[attr-defined]
    batches = loaders.train_batches(trainer.world_size)
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return math.ceil(batches / trainer.accumulate_grad_batches)

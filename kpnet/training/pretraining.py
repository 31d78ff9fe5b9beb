"""Pretraining: an encoder from images without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
from rich.console import Console
from torch import Tensor

from kpnet import plot
from kpnet.config.pretraining import Mask, PretrainConfig, PretrainSettings
from kpnet.core.console import PlainConsole
from kpnet.core.errors import NotFiniteError
from kpnet.core.files import write_json
from kpnet.data.base import unit_images
from kpnet.data.unlabelled import build_images
from kpnet.evaluation.accumulators import WeightedMean
from kpnet.models.autoencoder import Autoencoder
from kpnet.models.masked_images import MaskedImageModel
from kpnet.models.masking import check_mask, corrupt
from kpnet.models.memory_format import set_memory_format
from kpnet.models.reconstruction import ReconstructionModel
from kpnet.training.callbacks import MetricsLogger
from kpnet.training.freezing import ParameterGroup
from kpnet.training.loaders import UNCOUNTED, Loaders, probe, sharing_loaders, too_many_workers, trains_on_one
from kpnet.training.loss_monitor import LossMonitor, StepLoss
from kpnet.training.module import Batch, seed_epoch, steps_per_epoch
from kpnet.training.optim import build_optimizer, build_schedule
from kpnet.training.reconstructions import draw, first_images, measure
from kpnet.training.run_folder import NOTHING_YET, Claim, begun_trainer, claimed_run_folder, is_main_process
from kpnet.training.trainer import (
    DTYPES,
    allow_unused_parameters,
    check_validation,
    create_trainer,
    resolve_precision,
    run_arguments,
    train_in_folder,
)

METHODS: dict[str, type[ReconstructionModel]] = {"autoencoder": Autoencoder, "masked": MaskedImageModel}


class PretrainModule(pl.LightningModule):
    """Trains a network on its reconstructions of images with noise and masks.

    Args:
        model: The network, whose `loss` is trained on.
        settings: The training's settings.
        mask: The patches to blank; None: none.
    """

    def __init__(self, model: ReconstructionModel, settings: PretrainSettings, mask: Mask | None) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.mask = mask
        self.train_loss, self.val_loss = WeightedMean(), WeightedMean()
        self.monitor = LossMonitor()
        self.generator: torch.Generator | None = None  # for the validation's noise and masks

    def corrupt(self, images: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return images (B, C, H, W) with noise and masks, as the encoder sees them, and the blanked pixels."""
        return corrupt(images, self.settings.noise, self.mask, self.model.mean, generator)

    def draw(self, images: Tensor) -> dict[str, plot.Figure]:
        """Draw reconstructions of images (N, C, H, W), with the same noise and masks each time."""
        images = images.to(self.device)
        return draw(self.model, images, *self.corrupt(images, self._generator()))

    def _generator(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self.settings.seed)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0:  # as in KeypointModule: a resumed run draws what the uninterrupted one drew
            seed_epoch(self.settings.seed, self.current_epoch, self.global_rank)
            self.train_loss.reset()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Convert the bytes of images on the device: a quarter is sent."""
        return {**batch, "image": unit_images(batch["image"])}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images = batch["image"]
        loss = self.model.loss(images, *self.corrupt(images))
        ranks = loss.detach().view(1)
        if torch.distributed.is_initialized():  # all ranks stop, or the others would wait for this one
            ranks = self.all_gather(ranks).view(-1)  # type: ignore[union-attr]
        if (last := self.check_loss()) is not None:
            self.log("loss", last.ranks[self.global_rank], prog_bar=True, logger=False)
        self.monitor.send(self.current_epoch, self.global_step, ranks)
        self.train_loss.update(loss.detach(), torch.full_like(loss, len(images)))
        return loss

    def check_loss(self) -> StepLoss | None:
        """Return the loss of the step before, and raise if it is not finite, in every process alike."""
        last = self.monitor.receive()
        if last is not None and not last.is_finite():
            raise NotFiniteError(
                f"the loss is not finite {last.describe()}: lower train.optimizer.lr ({self.settings.optimizer.lr:g})"
            )
        return last

    def on_validation_epoch_start(self) -> None:
        self.check_loss()
        self.val_loss.reset()
        # The same noise and masks each time, so that the losses of two epochs compare.
        self.generator = self._generator()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images = batch["image"]
        loss = self.model.loss(images, *self.corrupt(images, self.generator))
        self.val_loss.update(loss, torch.full_like(loss, 0 if UNCOUNTED in batch else len(images)))

    def configure_optimizers(self) -> Any:
        settings = self.settings
        optimizer = build_optimizer([ParameterGroup("model", list(self.model.parameters()))], settings.optimizer)
        steps = steps_per_epoch(self.trainer) * settings.epochs
        schedule = build_schedule(optimizer, settings.schedule, steps, settings.epochs)
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class PretrainFolderCallback(MetricsLogger):
    """Writes `metrics.csv`, and reconstructions and interpolations of a few images to TensorBoard."""

    def __init__(self, folder: Path, shown: Tensor, console: Console, bar: bool) -> None:
        super().__init__(folder, console, bar)
        self.shown = shown

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PretrainModule)
        self.measured = {"val_loss": pl_module.val_loss.compute().item()}
        pl_module.log_dict(self.measured, logger=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, PretrainModule)
        pl_module.check_loss()
        summary = f"  val loss {self.measured['val_loss']:.4g}" if self.measured else ""
        self.record(trainer, pl_module.train_loss.compute().item(), summary)
        if trainer.is_global_zero and self.draws(trainer):
            for name, figure in pl_module.draw(self.shown).items():
                self.log_figure(trainer, name, figure)


def pretrain(
    config: PretrainConfig,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    console: Console | None = None,
) -> tuple[Path, ReconstructionModel, dict[str, float]]:
    """Train a backbone on images without labels, as `model.method` says, and write a run folder.

    `pretrained: FOLDER` in a model's config then loads the backbone. A training whose data or model cannot be built
    leaves nothing.

    Args:
        config: The config, as `kpnet.config.pretraining.load_pretrain_config` reads it.
        out: The run folder. Defaults to `runs/<name>`.
        resume: Continue a run as `kpnet.train` does.
        force: Delete an existing run in that folder and start again.
        console: Where progress is printed. Defaults to the terminal.

    Returns:
        The run folder, the network in eval mode, and its errors on the validation data, empty without any: `mse` of an
        autoencoder's reconstructions and `mean_image_mse` of the images' mean, or `hidden_l1` of the hidden patches
        that a masked-image model predicts and `mean_image_l1` of the images' mean there. With a
        single validation image the second one is left out.

    Raises:
        KpnetError: The config, the images or the run folder cannot be used.

    Example:
        ```python
        folder, network, measures = pretrain(load_pretrain_config("pretrain.yaml"))
        ```
    """
    console = console or PlainConsole()
    with claimed_run_folder(config, out, resume, force) as claim:
        if resume and not claim.resume and is_main_process():
            console.print(f"{claim.folder}: {NOTHING_YET}", markup=False, highlight=False, soft_wrap=True)
        return _pretrain(config, claim, console)


def _pretrain(
    config: PretrainConfig, claim: Claim, console: Console
) -> tuple[Path, ReconstructionModel, dict[str, float]]:
    folder = claim.folder
    check_mask(config.model.input_size, config.mask)
    train_set, val_set = build_images(config)
    watchers = {"schedule: plateau": config.train.schedule.name == "plateau"}
    check_validation(config.trainer, val_set is not None, watchers)
    model = METHODS[config.model.method](config.model)
    set_memory_format(model)
    probe(train_set)
    config = config.model_copy(update={"trainer": resolve_precision(begun_trainer(config, claim))})
    single = trains_on_one(model, model, train_set[0]["image"][None])
    bar = console.is_terminal and config.trainer.enable_progress_bar
    callback = PretrainFolderCallback(folder, first_images(train_set if val_set is None else val_set), console, bar)
    trainer = create_trainer(**run_arguments(config, folder, [callback], bar))
    sharing = sharing_loaders(trainer, val_set is not None)
    warning = too_many_workers(train_set.in_bytes(), config.data.workers, config.train.batch_size, sharing)
    if warning and is_main_process():
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    allow_unused_parameters(trainer, model, lambda: model(train_set[0]["image"][None]).square().mean())
    model = model.to(DTYPES.get(config.trainer.precision, torch.float32))
    module = PretrainModule(model, config.train, config.mask)
    loaders = Loaders(train_set, val_set, config, single=single)
    train_in_folder(trainer, module, loaders, config, folder, resume=claim.resume)
    module.float()  # whatever the training's precision was
    measures = _finish(folder, module, callback, loaders) if trainer.is_global_zero else {}
    return folder, module.model.eval(), measures


def _finish(
    folder: Path, module: PretrainModule, callback: PretrainFolderCallback, loaders: Loaders
) -> dict[str, float]:
    """Save the final model, its error and the figures."""
    measures = measure(module.model, loaders.val, module.mask, module.settings.seed) if loaders.val is not None else {}
    module.model.save(folder / "final")
    table = pd.read_csv(folder / "metrics.csv")  # the callback's rows may be those of a forked process
    write_json(folder / "final" / "training.json", {"epoch": int(table.epoch.iloc[-1]), **measures})
    for name, figure in module.draw(callback.shown).items():
        plot.save_figure(figure, folder / f"{name}.png")
    plot.save_figure(plot.draw_curves(table), folder / "curves.png")
    return measures

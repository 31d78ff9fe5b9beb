"""Pretraining: an encoder from images without labels."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kpnet import plot
from kpnet.config.pretraining import PretrainConfig, PretrainSettings
from kpnet.core.console import PlainConsole
from kpnet.core.errors import NotFiniteError
from kpnet.core.files import write_json
from kpnet.core.runtime import evaluation_mode
from kpnet.data.base import unit_images
from kpnet.data.unlabelled import UnlabelledImages, build_images
from kpnet.evaluation.accumulators import WeightedMean
from kpnet.models.autoencoder import Autoencoder, check_mask, corrupt
from kpnet.models.memory_format import set_memory_format
from kpnet.training.callbacks import MetricsLogger
from kpnet.training.freezing import ParameterGroup
from kpnet.training.loaders import UNCOUNTED, Loaders, probe, sharing_loaders, too_many_workers, trains_on_one
from kpnet.training.loss_monitor import LossMonitor, StepLoss
from kpnet.training.module import Batch, seed_epoch, steps_per_epoch
from kpnet.training.optim import build_optimizer, build_schedule
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

SHOWN, PAIRS, STEPS = 10, 5, 7  # images reconstructed; pairs interpolated; steps of each interpolation


class PretrainModule(pl.LightningModule):
    """Trains an autoencoder on the mean squared error of its reconstructions, in grey values of [0, 1]."""

    def __init__(self, model: Autoencoder, settings: PretrainSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.train_loss, self.val_loss = WeightedMean(), WeightedMean()
        self.monitor = LossMonitor()
        self.generator: torch.Generator | None = None  # for the validation's noise and masks

    def corrupt(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return images (B, C, H, W) with noise and masks, as the encoder sees them."""
        return corrupt(images, self.settings.noise, self.settings.mask, self.model.mean, generator)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0:  # as in KeypointModule: a resumed run draws what the uninterrupted one drew
            seed_epoch(self.settings.seed, self.current_epoch, self.global_rank)
            self.train_loss.reset()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Convert the bytes of images on the device: a quarter is sent."""
        return {**batch, "image": unit_images(batch["image"])}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images = batch["image"]
        loss = F.mse_loss(self.model(self.corrupt(images)), images)
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
        self.generator = torch.Generator(self.device).manual_seed(self.settings.seed)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images = batch["image"]
        loss = F.mse_loss(self.model(self.corrupt(images, self.generator)), images)
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
            for name, figure in draw(pl_module, self.shown).items():
                self.log_figure(trainer, name, figure)


def pretrain(
    config: PretrainConfig,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    console: Console | None = None,
) -> tuple[Path, Autoencoder, dict[str, float]]:
    """Train an autoencoder on images without labels, and write a run folder.

    `pretrained: FOLDER` in a model's config then loads the encoder as its backbone. A training whose data or model
    cannot be built leaves nothing. With noise or masks this is a denoising autoencoder (Vincent et al. 2008, Extracting
    and composing robust features with denoising autoencoders).

    Args:
        config: The config, as `kpnet.config.pretraining.load_pretrain_config` reads it.
        out: The run folder. Defaults to `runs/<name>`.
        resume: Continue a run as `kpnet.train` does.
        force: Delete an existing run in that folder and start again.
        console: Where progress is printed. Defaults to the terminal.

    Returns:
        The run folder, the autoencoder in eval mode, and its errors on the validation data: `mse` of the
        reconstructions and `mean_image_mse` of the images' mean; empty without validation data.

    Raises:
        KpnetError: The config, the images or the run folder cannot be used.

    Example:
        ```python
        folder, autoencoder, measures = pretrain(load_pretrain_config("pretrain.yaml"))
        ```
    """
    console = console or PlainConsole()
    with claimed_run_folder(config, out, resume, force) as claim:
        if resume and not claim.resume and is_main_process():
            console.print(f"{claim.folder}: {NOTHING_YET}", markup=False, highlight=False, soft_wrap=True)
        return _pretrain(config, claim, console)


def _pretrain(config: PretrainConfig, claim: Claim, console: Console) -> tuple[Path, Autoencoder, dict[str, float]]:
    folder = claim.folder
    check_mask(config.model.input_size, config.train.mask)
    train_set, val_set = build_images(config)
    watchers = {"schedule: plateau": config.train.schedule.name == "plateau"}
    check_validation(config.trainer, val_set is not None, watchers)
    model = Autoencoder(config.model)
    set_memory_format(model)
    probe(train_set)
    config = config.model_copy(update={"trainer": resolve_precision(begun_trainer(config, claim))})
    single = trains_on_one(model, model, train_set[0]["image"][None])
    bar = console.is_terminal and config.trainer.enable_progress_bar
    callback = PretrainFolderCallback(folder, _first(train_set if val_set is None else val_set), console, bar)
    trainer = create_trainer(**run_arguments(config, folder, [callback], bar))
    sharing = sharing_loaders(trainer, val_set is not None)
    warning = too_many_workers(train_set.in_bytes(), config.data.workers, config.train.batch_size, sharing)
    if warning and is_main_process():
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    allow_unused_parameters(trainer, model, lambda: model(train_set[0]["image"][None]).square().mean())
    module = PretrainModule(model.to(DTYPES.get(config.trainer.precision, torch.float32)), config.train)
    loaders = Loaders(train_set, val_set, config, single=single)
    train_in_folder(trainer, module, loaders, config, folder, resume=claim.resume)
    module.float()  # whatever the training's precision was
    measures = _finish(folder, module, callback, loaders) if trainer.is_global_zero else {}
    return folder, module.model.eval(), measures


def _finish(
    folder: Path, module: PretrainModule, callback: PretrainFolderCallback, loaders: Loaders
) -> dict[str, float]:
    """Save the final model, its error and the figures."""
    measures = measure(module.model, loaders.val) if loaders.val is not None else {}
    module.model.save(folder / "final")
    table = pd.read_csv(folder / "metrics.csv")  # the callback's rows may be those of a forked process
    write_json(folder / "final" / "training.json", {"epoch": int(table.epoch.iloc[-1]), **measures})
    for name, figure in draw(module, callback.shown).items():
        plot.save_figure(figure, folder / f"{name}.png")
    plot.save_figure(plot.draw_curves(table), folder / "curves.png")
    return measures


@torch.no_grad()
def measure(model: Autoencoder, dataset: Dataset[Any], batch_size: int = 64) -> dict[str, float]:
    """Measure the reconstructions of a dataset, without noise or masks.

    Args:
        model: The autoencoder; it stays on its device.
        dataset: Items with `image` (C, H, W).
        batch_size: Images per forward pass.

    Returns:
        `mse`, the mean squared error in grey values of [0, 1], and `mean_image_mse`, the error of the images' mean: the
        lowest that an encoder which gives the same for every image can reach.
    """
    device = next(model.parameters()).device
    error, count, total, squares = 0.0, 0, torch.zeros(()), torch.zeros(())
    with evaluation_mode(model):
        for batch in DataLoader(dataset, batch_size):
            images = batch["image"]
            error += (model(images.to(device)).cpu() - images).double().square().sum().item()
            total, squares = total + images.double().sum(0), squares + images.double().square().sum(0)
            count += len(images)
    variance = squares / count - (total / count) ** 2
    return {"mse": error / (count * total.numel()), "mean_image_mse": variance.mean().item()}


@torch.no_grad()
def draw(module: PretrainModule, images: Tensor) -> dict[str, plot.Figure]:
    """Draw `reconstructions` of images (N, C, H, W) with the training's noise and masks, and `interpolations`.

    The latter lie in the latent space, between the first image and the second, the third and the fourth, and so on.
    """
    model, images = module.model, images.to(module.device)
    with evaluation_mode(model):
        seen = module.corrupt(images, torch.Generator(images.device).manual_seed(module.settings.seed))
        rows = torch.stack([seen, model(seen), images])
        figures = {"reconstructions": plot.draw_mosaic(rows, ["input", "reconstruction", "original"])}
        first, second = images[: 2 * PAIRS - 1 : 2], images[1 : 2 * PAIRS : 2]
        if len(second):
            between = model.interpolate(first[: len(second)], second, STEPS).transpose(0, 1)
            ends = torch.cat([first[: len(second), None], between, second[:, None]], 1)
            steps = ["first", *(f"{i / (STEPS - 1):.2f}" for i in range(STEPS)), "second"]
            figures["interpolations"] = plot.draw_mosaic(ends, columns=steps)
    return figures


def _first(dataset: UnlabelledImages) -> Tensor:
    """Return the first images of a dataset (at most SHOWN, C, H, W), not augmented."""
    plain = copy.copy(dataset)
    plain.transform = None
    return torch.stack([plain[i]["image"] for i in range(min(SHOWN, len(plain)))])

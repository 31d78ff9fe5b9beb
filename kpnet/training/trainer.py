"""The Lightning Trainer of a run, and what happens around its `fit`."""

from __future__ import annotations

import inspect
import logging
import platform
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from kpnet.config.pretraining import PretrainConfig
from kpnet.config.schema import Config
from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.training.checkpoints import DurableCheckpointIO
from kpnet.training.loaders import Loaders
from kpnet.training.run_folder import create_run_folder

OWN_TRAINER_ARGUMENTS = ("max_epochs", "callbacks", "logger", "gradient_clip_val", "default_root_dir")


def fit(trainer: pl.Trainer, module: pl.LightningModule, loaders: Loaders, checkpoint: Path | None) -> None:
    """Train, from a checkpoint if given; errors from workers and Ctrl-C are raised as such."""
    try:
        trainer.fit(module, loaders, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning's reaction to Ctrl-C
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    except KpnetError as error:  # a loader's worker wraps it in its traceback
        raise type(error)(str(error).strip().splitlines()[-1].split("Error: ")[-1]) from None
    finally:
        for logger in trainer.loggers:  # or its thread outlives a failed training
            logger.finalize("finished")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging):
            # Again: resuming a checkpoint of the last epoch ends no training, and the weights would not be averaged.
            callback.on_train_end(trainer, module)


def train_in_folder(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    loaders: Loaders,
    config: Config | PretrainConfig,
    folder: Path,
    *,
    resume: bool,
) -> None:
    """Create the run folder with its config, and fit."""
    create_run_folder(folder, config, resume)
    for logger in trainer.loggers:
        logger.log_hyperparams(config.model_dump(mode="json"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        fit(trainer, module, loaders, folder / "last.ckpt" if resume else None)


def check_validation(trainer: dict[str, Any], has_val: bool, watchers: Mapping[str, Any]) -> None:
    """Raise if a `train` option that is set (name to value) watches validation data that the run does not have."""
    if has_val and trainer.get("limit_val_batches", 1) != 0:
        return
    for key, needed in watchers.items():
        if needed:
            raise KpnetError(f"train.{key} watches the validation data, and there is none: give data.val")


def resolve_precision(trainer: dict[str, Any]) -> dict[str, Any]:
    """Replace `precision: auto` by bfloat16 autocast where the hardware supports it, else by 32 bits."""
    if trainer.get("precision") != "auto":
        return trainer
    if on_gpu(trainer):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # A private function of torch; without it, 32 bits.
        native = platform.machine() in ("x86_64", "AMD64") and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return {**trainer, "precision": "bf16-mixed" if native else "32-true"}


def on_gpu(trainer: dict[str, Any]) -> bool:
    """Return whether the `trainer` section means a CUDA device."""
    return trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def run_arguments(
    config: Config | PretrainConfig, folder: Path, callbacks: list[pl.Callback], bar: bool, clip: float | None = None
) -> dict[str, Any]:
    """Return the arguments of a run's Trainer: `config.trainer`, checkpoints, TensorBoard and a progress bar (`bar`).

    The first callback runs before the checkpoint is written, the others after it.
    """
    check_arguments(config.trainer)
    last = ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
    callbacks = [callbacks[0], last, *callbacks[1:]]
    if bar:
        callbacks.append(RichProgressBar())
    defaults = {
        "max_epochs": config.train.epochs,
        "gradient_clip_val": clip,
        "callbacks": callbacks,
        "plugins": [AsyncCheckpointIO(DurableCheckpointIO())],  # the next epoch need not wait for the disk
        "logger": TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False),
        "default_root_dir": folder,
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "enable_progress_bar": bar,
        "use_distributed_sampler": False,
    }
    return {**defaults, **config.trainer}


def check_arguments(trainer: dict[str, Any]) -> None:
    """Raise for an argument that Lightning's Trainer does not have, or that kpnet sets itself."""
    known = [p for p in inspect.signature(pl.Trainer.__init__).parameters if p != "self"]
    for key in trainer:
        if key not in known:
            raise KpnetError(f'trainer: Lightning\'s Trainer has no argument "{key}"{did_you_mean(key, known)}')
        if key in OWN_TRAINER_ARGUMENTS:
            raise KpnetError(f'trainer: "{key}" is set by kpnet; see train.epochs, train.clip_norm and --out')


def create_trainer(**arguments: Any) -> pl.Trainer:
    """Create Lightning's Trainer without its log messages; raise KpnetError for arguments that it refuses."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        return pl.Trainer(**arguments)
    except (TypeError, ValueError, pl.utilities.exceptions.MisconfigurationException) as error:
        raise KpnetError(f"trainer: {' '.join(str(error).split())}") from None

"""The Lightning Trainer of a run, and what happens around its `fit`."""

from __future__ import annotations

import logging
import math
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.memory import is_oom_error
from torch import Tensor, nn
from torch.multiprocessing import ProcessRaisedException

from kpnet.config.pretraining import PretrainConfig
from kpnet.config.schema import Config
from kpnet.config.trainer import TrainerConfig
from kpnet.core.errors import KpnetError, NotFiniteError, first_line
from kpnet.core.runtime import evaluation_mode
from kpnet.training import loggers
from kpnet.training.checkpoints import DurableCheckpointIO
from kpnet.training.loaders import Loaders
from kpnet.training.ranks import FAILED, Ranks, check_step, one_voice
from kpnet.training.run_folder import create_run_folder

PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}
log = logging.getLogger("kpnet")
DTYPES: dict[str | None, torch.dtype] = {
    "16-true": torch.float16,
    "bf16-true": torch.bfloat16,
    "64-true": torch.float64,
}


def fit(trainer: pl.Trainer, module: pl.LightningModule, loaders: Loaders, checkpoint: Path | None) -> None:
    """Train, from a checkpoint if given; errors from workers and Ctrl-C are raised as such."""
    succeeded = False
    try:
        with one_voice(trainer), lightning_errors():
            trainer.fit(module, loaders, ckpt_path=checkpoint, weights_only=True)
        succeeded = True
    except SystemExit as ended:  # Lightning's reaction to Ctrl-C
        if trainer.interrupted and ended.code != FAILED:
            raise KeyboardInterrupt from None
        raise
    finally:  # or a logger's thread outlives a failed training
        try:
            loggers.end(trainer.loggers, succeeded)
        except Exception as error:
            if succeeded:
                raise
            log.warning("%s", first_line(error))  # it must not hide why the training failed
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging) and callback._average_model is not None:
            # Again: resuming a checkpoint of the last epoch ends no training, and the weights would not be averaged.
            callback.on_train_end(trainer, module)


@contextmanager
def lightning_errors(what: str = "") -> Iterator[None]:
    """Raise what Lightning refuses, and what a worker or a forked process raises, as a KpnetError of one line.

    Args:
        what: Start of the message.
    """
    try:
        yield
    except MisconfigurationException as error:
        raise KpnetError(f"{what or 'trainer: '}{' '.join(str(error).split())}") from None
    except KpnetError as error:  # a loader's worker wraps it in its traceback
        raise type(error)(str(error).strip().splitlines()[-1].split("Error: ")[-1]) from None
    except ProcessRaisedException as error:
        kind, _, message = str(error).strip().splitlines()[-1].partition(": ")
        for known in (NotFiniteError, KpnetError):
            if kind.endswith(known.__name__):
                raise known(message) from None
        raise


def train_in_folder(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    loaders: Loaders,
    config: Config | PretrainConfig,
    folder: Path,
    *,
    resume: bool,
    keep: bool = False,
) -> None:
    """Create the run folder with its config, and fit; `keep` leaves what is in the folder, as a resumed run does."""
    check_batches(trainer, loaders, config)
    if resume:
        check_step(trainer, config.train.batch_size, folder / "last.ckpt")
    create_run_folder(folder, config, resume or keep)
    loggers.begin(trainer.loggers, config.model_dump(mode="json"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        try:
            fit(trainer, module, loaders, folder / "last.ckpt" if resume else None)
        except RuntimeError as error:
            if not is_oom_error(error):
                raise
            way = "lower it"
            if isinstance(config, Config):  # what `kpnet tune` takes
                way = f"the largest batch that fits is found by kpnet tune {folder / 'config.yaml'} --batch-size"
            raise KpnetError(f"out of memory at train.batch_size {config.train.batch_size}: {way}") from None


def check_validation(trainer: TrainerConfig, has_val: bool, watchers: Mapping[str, Any]) -> None:
    """Raise if a `train` option that is set (name to value) watches validation data that the run does not have."""
    if has_val and trainer.limit_val_batches != 0:
        return
    for key, needed in watchers.items():
        if needed:
            raise KpnetError(f"train.{key} watches the validation data, and there is none: give data.val")


def check_batches(trainer: pl.Trainer, loaders: Loaders, config: Config | PretrainConfig) -> None:
    """Raise for settings that leave a process or an epoch without a batch, which Lightning finds out too late."""
    settings, ranks = config.trainer, trainer.world_size
    if len(loaders.train) < ranks:
        raise KpnetError(
            f"trainer.devices: {ranks} processes for {len(loaders.train)} training sample(s): each needs one of its "
            "own; use fewer devices"
        )
    count = loaders.train_batches(ranks)
    if isinstance(settings.limit_train_batches, float) and int(settings.limit_train_batches * count) == 0:
        limit = settings.limit_train_batches
        raise KpnetError(
            f"trainer.limit_train_batches: {limit:g} of {count} batches is none: give at least {1 / count:g}"
        )
    limit = settings.limit_train_batches
    count = min(limit, count) if isinstance(limit, int) else int(limit * count)
    every = settings.val_check_interval
    if loaders.val is None or settings.limit_val_batches == 0:
        return
    if (every if isinstance(every, int) else 1) > count:
        raise KpnetError(f"trainer.val_check_interval: {every} is more than the {count} batches of an epoch")
    smallest = math.ceil(max(1, len(loaders.val) // ranks) / config.train.batch_size)
    limit = settings.limit_val_batches
    if isinstance(limit, float) and int(limit * smallest) == 0:
        raise KpnetError(
            f"trainer.limit_val_batches: {limit:g} of {smallest} batches is none: give at least {1 / smallest:g}"
        )


def resolve_precision(trainer: TrainerConfig) -> TrainerConfig:
    """Return a `trainer` section with the precision that null and `auto` mean on this machine.

    `auto` is bfloat16 autocast where the hardware supports it, and null where that is a GPU.
    """
    if trainer.precision not in (None, "auto"):
        return trainer
    if on_gpu(trainer):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif trainer.precision is None:
        return trainer  # 32 bits
    else:
        # A private function of torch; without it, 32 bits.
        native = platform.machine() in ("x86_64", "AMD64") and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return trainer.model_copy(update={"precision": "bf16-mixed" if native else "32-true"})


def on_gpu(trainer: TrainerConfig) -> bool:
    """Return whether the `trainer` section means a CUDA device."""
    return trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def count_processes(trainer: TrainerConfig) -> int:
    """Return how many processes the `trainer` section starts on all machines together."""
    count = len(trainer.devices) if isinstance(trainer.devices, list) else trainer.devices
    if count in ("auto", -1):
        count = torch.cuda.device_count() if on_gpu(trainer) else 1
    return int(count) * trainer.num_nodes


def run_arguments(
    config: Config | PretrainConfig, folder: Path, callbacks: list[pl.Callback], bar: bool, clip: float | None = None
) -> dict[str, Any]:
    """Return the arguments of a run's Trainer: `config.trainer`, checkpoints, loggers and a progress bar (`bar`).

    The first callback runs before the checkpoint is written, the others after it.
    """
    profiler = config.trainer.profiler
    last = ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
    callbacks = [callbacks[0], last, *callbacks[1:], Ranks()]
    if bar:
        callbacks.append(RichProgressBar())
    return {
        **trainer_arguments(config.trainer),
        "max_epochs": config.train.epochs,
        "gradient_clip_val": clip,
        "callbacks": callbacks,
        "plugins": [AsyncCheckpointIO(DurableCheckpointIO())],  # the next epoch need not wait for the disk
        "logger": loggers.build_loggers(config.trainer.logger, config.name, folder),
        "profiler": profiler and PROFILERS[profiler](dirpath=folder, filename="profile"),
        "default_root_dir": folder,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": bar,
        "use_distributed_sampler": False,
    }


def trainer_arguments(trainer: TrainerConfig) -> dict[str, Any]:
    """Return Lightning's arguments of a `trainer` section; the rest of them is kpnet's own."""
    check_devices(trainer)
    # Lightning would convert the labels, too: see `KeypointModule`.
    precision = "32-true" if trainer.precision in (None, *DTYPES) else trainer.precision
    given = trainer.model_dump(exclude={"logger", "enable_progress_bar"}) | {"precision": precision}
    if trainer.sync_batchnorm is None:  # one GPU has nothing to synchronise with
        given["sync_batchnorm"] = on_gpu(trainer)
    return {key: value for key, value in given.items() if value is not None} | {
        "max_steps": trainer.max_steps or -1,
        "enable_model_summary": trainer.enable_model_summary,
    }


def check_devices(trainer: TrainerConfig) -> None:
    """Raise for devices that this machine does not have."""
    kind, devices = trainer.accelerator, trainer.devices
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    if kind == "mps" and not torch.backends.mps.is_available():
        raise KpnetError("trainer.accelerator: mps: this machine has no Apple GPU; expected auto or cpu")
    if (kind == "cuda" and not gpus) or (kind == "gpu" and not (gpus or torch.backends.mps.is_available())):
        raise KpnetError(f"trainer.accelerator: {kind}: torch finds no GPU here; expected auto or cpu")
    if trainer.sync_batchnorm and not on_gpu(trainer):
        raise KpnetError(
            "trainer.sync_batchnorm: works on NVIDIA GPUs alone: leave it out; with few images for each process, "
            "norm: group in model.backbone needs no other's images"
        )
    if on_gpu(trainer):
        highest = max(devices) + 1 if isinstance(devices, list) else devices
        if isinstance(highest, int) and highest > gpus:
            raise KpnetError(f"trainer.devices: {devices}: there are {gpus} GPUs here, numbered from 0")
    elif kind in ("cpu", "auto") and not torch.backends.mps.is_available():
        if (not isinstance(devices, int) and devices != "auto") or devices == -1:
            raise KpnetError(f"trainer.devices: {devices}: on the CPU, expected a number of processes or auto")
        if isinstance(devices, int) and devices > max(2, cores):
            raise KpnetError(
                f"trainer.devices: {devices} processes on {cores} cores: expected at most one for each core"
            )


def allow_unused_parameters(trainer: pl.Trainer, model: nn.Module, loss: Callable[[], Tensor]) -> None:
    """Let several processes train a model of which the loss does not use every parameter.

    A head that reads some of the backbone's maps leaves the others' layers without a gradient, for which DDP would
    wait for ever; to look for them costs time in each step.
    """
    if isinstance(trainer.strategy, DDPStrategy):
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        with evaluation_mode(model), torch.random.fork_rng(devices=()):
            gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
        trainer.strategy._ddp_kwargs["find_unused_parameters"] = any(each is None for each in gradients)


def create_trainer(**arguments: Any) -> pl.Trainer:
    """Create Lightning's Trainer without its log messages; raise KpnetError for arguments that it refuses."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    names = ("accelerator", "devices", "num_nodes", "strategy", "precision", "deterministic")
    given = ", ".join(f"trainer.{name} {arguments[name]}" for name in names if name in arguments)
    try:
        with lightning_errors(f"{given}: "):
            return pl.Trainer(**arguments)
    except (TypeError, ValueError, RuntimeError, ImportError) as error:
        if isinstance(error, KpnetError):
            raise
        raise KpnetError(f"{given}: {' '.join(str(error).split())}") from None

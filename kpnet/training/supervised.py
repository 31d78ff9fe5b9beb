"""`train`: from a config to a run folder."""

from __future__ import annotations

import inspect
import logging
import platform
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from rich.console import Console
from torch.utils.data import DataLoader, DistributedSampler, Sampler

from kpnet import plot
from kpnet.data import KeypointDataset
from kpnet.data.build import build_splits, unlabelled_points
from kpnet.engine.averaging import weight_average
from kpnet.engine.evaluation import evaluate
from kpnet.engine.module import KeypointModule
from kpnet.engine.run_folder import RunFolder, draw_samples, save_model
from kpnet.engine.start import begin, is_main_process, prepare
from kpnet.engine.transfer import check_freeze
from kpnet.errors import KpnetError, nearest
from kpnet.model import KeypointModel, assemble
from kpnet.pretrain_config import PretrainConfig
from kpnet.schema import Config

PROBES = 8  # training samples that are tried before anything is written
OWN_TRAINER_ARGUMENTS = ("max_epochs", "callbacks", "logger", "gradient_clip_val", "default_root_dir")


class EpochSampler(DistributedSampler[Any]):
    """Shuffles by (seed, epoch) and tells the dataset the epoch, on one process too."""

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        assert isinstance(self.dataset, KeypointDataset)
        self.dataset.set_epoch(epoch)


class EachOnceSampler(Sampler[int]):
    """Every sample once over all ranks; DistributedSampler would repeat some to make the ranks equal."""

    def __init__(self, length: int, ranks: int, rank: int) -> None:
        self.indices = range(rank, length, ranks)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class Loaders(pl.LightningDataModule):
    """The two splits as batches."""

    def __init__(self, train: KeypointDataset, val: KeypointDataset | None, config: Config | PretrainConfig) -> None:
        super().__init__()
        self.train, self.val, self.config = train, val, config

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        assert trainer is not None
        sampler = EpochSampler(
            self.train, trainer.world_size, trainer.global_rank, shuffle=True, seed=self.config.train.seed
        )
        # Lightning sets the epoch too, but after workers have begun to fetch for a resumed run.
        sampler.set_epoch(trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        return self._loader(self.train, sampler)

    def val_dataloader(self) -> Any:
        trainer = self.trainer
        assert trainer is not None
        if self.val is None:
            return []
        return self._loader(self.val, EachOnceSampler(len(self.val), trainer.world_size, trainer.global_rank))

    def _loader(self, dataset: KeypointDataset, sampler: Sampler[int]) -> DataLoader[Any]:
        workers = self.config.data.workers
        return DataLoader(
            dataset,
            batch_size=self.config.train.batch_size,
            sampler=sampler,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )


def train(
    config: Config,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    console: Console | None = None,
    callbacks: Sequence[pl.Callback] = (),
) -> tuple[Path, KeypointModel, dict[str, Any]]:
    """Train as the config says. Returns the run folder, the final model and its validation measures.

    The run goes to `out`, or `runs/<name>`. An existing run is only touched with `resume` (go on after
    its last whole epoch) or `force` (start anew). Nothing is written before data and model are built.
    callbacks: Lightning's, beside kpnet's own.
    """
    console = console or Console()
    folder = begin(config, out, resume, force)
    train_set, val_set = build_splits(config)
    _warn_unlabelled(unlabelled_points(train_set), console)
    model = assemble(config.model, train_set.skeleton)
    if model.backbone.loaded is not None and is_main_process():
        new = len(model.head.state_dict())
        console.print(f"pretrained: {model.backbone.loaded}; new: the head's {new}", highlight=False, soft_wrap=True)
    warning = check_freeze(model, config.train)
    if warning and is_main_process():
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)
    config = config.model_copy(update={"model": model.config, "trainer": resolved(config.trainer)})
    for index in range(min(PROBES, len(train_set))):
        train_set[index]  # a transform that fails says so here, and not from a worker's depths
    bar = console.is_terminal
    keeper = RunFolder(folder, val_set, console, bar)
    trainer = _trainer(config, folder, keeper, bar)
    trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]
    prepare(folder, config, force)
    for logger in trainer.loggers:
        logger.log_hyperparams(config.model_dump(mode="json"))
    module = KeypointModule(model, config.train)
    loaders = Loaders(train_set, val_set, config)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        checkpoint = folder / "last.ckpt" if resume else None
        fit(trainer, module, loaders, checkpoint)
    measures = _finish(folder, module, keeper, val_set) if trainer.is_global_zero else {}
    return folder, module.model.eval(), measures


def _warn_unlabelled(names: list[str], console: Console) -> None:
    if names and is_main_process():
        text = f"warning: no training sample has a label for {', '.join(names)}: untrained points"
        console.print(text, style="yellow", soft_wrap=True)


def fit(trainer: pl.Trainer, module: pl.LightningModule, loaders: Loaders, checkpoint: Path | None) -> None:
    """Train, from a checkpoint on or anew; what a worker or Ctrl-C raised comes out as itself."""
    try:
        trainer.fit(module, loaders, ckpt_path=checkpoint, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    except KpnetError as error:  # from a loader's worker it comes wrapped in the worker's traceback
        raise type(error)(str(error).strip().splitlines()[-1].split("Error: ")[-1]) from None
    finally:
        for logger in trainer.loggers:  # or its thread outlives a training that failed
            logger.finalize("finished")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging):
            # Once more: where a checkpoint of the last epoch was resumed, no training ended, and the weights are raw.
            callback.on_train_end(trainer, module)


def _finish(folder: Path, module: KeypointModule, keeper: RunFolder, val: KeypointDataset | None) -> dict[str, Any]:
    """The final model, its measures and the pictures."""
    import pandas as pd

    measures = evaluate(module.model, val) if val is not None else {}
    plain = {k: v for k, v in measures.items() if not isinstance(v, dict)}
    save_model(module.model, folder / "final", module.trainer.current_epoch - 1, plain)
    figure = draw_samples(module.model, val)
    if figure is not None:
        plot.save_figure(figure, folder / "predictions.png")
    plot.save_figure(plot.draw_curves(pd.DataFrame(keeper.history)), folder / "curves.png")
    return measures


def resolved(trainer: dict[str, Any]) -> dict[str, Any]:
    """`precision: auto` is bfloat16 autocast where the hardware computes in it, and 32 bits elsewhere."""
    if trainer.get("precision") != "auto":
        return trainer
    if on_gpu(trainer):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Private to torch; without it, 32 bits.
        native = platform.machine() in ("x86_64", "AMD64") and getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    return {**trainer, "precision": "bf16-mixed" if native else "32-true"}


def on_gpu(trainer: dict[str, Any]) -> bool:
    """Does the config's `trainer` mean a CUDA device?"""
    return trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def _trainer(config: Config, folder: Path, keeper: RunFolder, bar: bool) -> pl.Trainer:
    has_val = config.data.val is not None or config.data.fold is not None
    validates = has_val and config.trainer.get("limit_val_batches", 1) != 0
    watchers = {
        "schedule: plateau": config.train.schedule.name == "plateau",
        "early_stopping": config.train.early_stopping,
    }
    for key, needs in watchers.items():
        if needs and not validates:
            raise KpnetError(f"train.{key} watches the validation data, and there is none: give data.val")
    callbacks: list[pl.Callback] = []
    if config.train.average is not None:
        callbacks.append(weight_average(config.train.average, config.train.epochs))
    if config.train.early_stopping is not None:
        callbacks.append(EarlyStopping("val_score", mode="max", patience=config.train.early_stopping.patience))
    return build_trainer(config, folder, [keeper, *callbacks], bar, config.train.clip_norm)


def build_trainer(
    config: Config | PretrainConfig, folder: Path, callbacks: list[pl.Callback], bar: bool, clip: float | None = None
) -> pl.Trainer:
    """Lightning's Trainer with `config.trainer`, a checkpoint an epoch, TensorBoard and, where `bar`, a progress bar.

    The first of the callbacks comes before the checkpoint, the others after it.
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
        "plugins": [AsyncCheckpointIO()],  # the next epoch need not wait for the disk
        "logger": TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False),
        "default_root_dir": folder,
        "num_sanity_val_steps": 0,
        "enable_model_summary": False,
        "enable_progress_bar": bar,
        "use_distributed_sampler": False,
    }
    return make_trainer(**{**defaults, **config.trainer})


def check_arguments(trainer: dict[str, Any]) -> None:
    """A KpnetError for what Lightning's Trainer does not take, or kpnet sets itself."""
    known = [p for p in inspect.signature(pl.Trainer.__init__).parameters if p != "self"]
    for key in trainer:
        if key not in known:
            raise KpnetError(f'trainer: Lightning\'s Trainer has no argument "{key}"{nearest(key, known)}')
        if key in OWN_TRAINER_ARGUMENTS:
            raise KpnetError(f'trainer: "{key}" is set by kpnet; see train.epochs, train.clip_norm and --out')


def make_trainer(**arguments: Any) -> pl.Trainer:
    """Lightning's Trainer, quiet; what it refuses as a KpnetError."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    try:
        return pl.Trainer(**arguments)
    except (TypeError, ValueError, pl.utilities.exceptions.MisconfigurationException) as error:
        raise KpnetError(f"trainer: {' '.join(str(error).split())}") from None

"""Supervised training: from a config to a run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from rich.console import Console
from torch.utils.data import default_collate

from kpnet.config.loading import load_config
from kpnet.config.schema import Config
from kpnet.config.unlabelled import UnlabelledTraining
from kpnet.core.console import PlainConsole
from kpnet.core.hub import one_commit
from kpnet.data import KeypointDataset
from kpnet.data.augmentations import device_augmentation
from kpnet.data.build import build_splits, points_without_labels, with_scenes
from kpnet.data.scene_checks import describe_scenes
from kpnet.data.wrappers.scenes import Scenes, WithScenes
from kpnet.heads import finds_instances, window_of
from kpnet.models.build import assemble
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.memory import check_training_memory
from kpnet.training.callbacks import RunFolderCallback, StopEarly
from kpnet.training.finishing import finish_run
from kpnet.training.freezing import check_freeze
from kpnet.training.loaders import Loaders, probe, sharing_loaders, too_many_workers, trains_on_one
from kpnet.training.module import KeypointModule
from kpnet.training.run_folder import FIRST, NOTHING_YET, Claim, begun_trainer, claimed_run_folder, is_main_process
from kpnet.training.self_training import PseudoLabels, find_pseudo_labels
from kpnet.training.trainer import (
    DTYPES,
    allow_unused_parameters,
    check_validation,
    create_trainer,
    resolve_precision,
    run_arguments,
    train_in_folder,
)
from kpnet.training.unlabelled import build_unlabelled
from kpnet.training.weight_averaging import MovingAverage, teacher_average, weight_average

if TYPE_CHECKING:
    from kpnet.heads.centers import CentersHead


class TrainedRun(NamedTuple):
    """The result of a training.

    Attributes:
        folder: The run folder.
        model: The final model, in eval mode.
        measures: Its measures on the validation data, as `kpnet.evaluate` returns them; empty without validation data.
    """

    folder: Path
    model: KeypointModel
    measures: dict[str, Any]


@one_commit()
def train(
    config: str | Path | Mapping[str, Any] | Config,
    overrides: Sequence[str] = (),
    *,
    out: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    console: Console | None = None,
    callbacks: Sequence[pl.Callback] = (),
) -> TrainedRun:
    """Train a model on labelled images, and write a run folder.

    A training whose data or model cannot be built leaves nothing, and no other process can train in the folder
    meanwhile. The folder holds the config (`config.yaml`), the measures of each epoch (`metrics.csv`, TensorBoard), the
    best and the final model (`best/`, `final/`), the last checkpoint, and figures of the curves and of a few
    predictions. With `train.self_train` it is trained twice, and the folder also holds the run of the first training
    (`first/`) and what its model found in the images without labels (`pseudo_labels.csv`).

    Args:
        config: A YAML file, the name of a shipped recipe, a mapping, or a typed config.
        overrides: `key.path=value` strings, as on the command line.
        out: The run folder. Defaults to `runs/<name>`.
        resume: Continue a run after its last complete epoch, an ended one too where `train.epochs` is larger now. Where
            there is nothing to go on from, the training starts, so that one command starts and continues it.
        force: Delete an existing run in that folder and start again.
        console: Where progress is printed. Defaults to the terminal.
        callbacks: Lightning callbacks to add to kpnet's own; in self-training, to those of the second training.

    Returns:
        The run folder, the final model and its measures on the validation data.

    Raises:
        KpnetError: The config, the data or the run folder cannot be used.

    Example:
        ```python
        folder, model, measures = kpnet.train("my.yaml", ["train.epochs=10"])
        ```
    """
    if overrides or not isinstance(config, Config):  # read again, a config forgets which options were set
        config = load_config(config, overrides)
    console = console or PlainConsole()
    with claimed_run_folder(config, out, resume, force) as claim:
        if resume and not claim.resume and not (claim.folder / FIRST).is_dir() and is_main_process():
            console.print(f"{claim.folder}: {NOTHING_YET}", markup=False, highlight=False, soft_wrap=True)
        found = None
        if config.train.self_train is not None:
            found = find_pseudo_labels(
                config, claim, console, resume=resume, train=lambda of_labels, place: _train(of_labels, place, console)
            )
        return _train(config, claim, console, callbacks, found)


def _train(
    config: Config,
    claim: Claim,
    console: Console,
    callbacks: Sequence[pl.Callback] = (),
    found: PseudoLabels | None = None,
) -> TrainedRun:
    folder = claim.folder
    train_set, val_set = build_splits(config, window_of(config.model.head))
    _warn_unlabelled(points_without_labels(train_set), console)
    train_set, val_set = with_scenes(config, train_set, val_set, whole=finds_instances(config.model.head))
    if found is not None:
        train_set = found.beside(train_set, config)
    model = assemble(config.model, train_set.skeleton)
    if model.backbone.loaded is not None and is_main_process():
        console.print(f"pretrained: {_loaded(model)}", markup=False, highlight=False, soft_wrap=True)
    _warn(_unused(model), console)
    for line in _hard_instances(model, train_set) if is_main_process() else ():
        _warn(line, console)
    unlabelled = None if found is not None else build_unlabelled(config, model, train_set, val_set)
    probe(train_set)
    if unlabelled is not None:
        probe(unlabelled.images)
    augment = device_augmentation(config.data, config.model, train_set.skeleton)
    _warn(None if augment is None else augment.describe(), console)
    _warn(check_freeze(model, config.train), console)
    config = config.model_copy(
        update={"model": model.config, "trainer": resolve_precision(begun_trainer(config, claim))}
    )
    single = trains_on_one(model, model.output, train_set[0]["image"][None])
    bar = console.is_terminal and config.trainer.enable_progress_bar
    callback = RunFolderCallback(folder, val_set, console, bar, _read_images(config, train_set))
    trainer = configure_trainer(config, folder, callback, bar, taught=unlabelled is not None)
    sharing = sharing_loaders(trainer, val_set is not None, unlabelled is not None)
    loaded: list[tuple[KeypointDataset, int]] = [(train_set, config.train.batch_size)]
    if unlabelled is not None:
        loaded.append((unlabelled.images, unlabelled.batch_size))
    fewer = (too_many_workers(data.in_bytes(), config.data.workers, size, sharing) for data, size in loaded)
    _warn(next(filter(None, fewer), None), console)
    if isinstance(trainer.accelerator, CPUAccelerator):  # a GPU has its own memory, and torch raises where it is full
        check_training_memory(model, config.train.batch_size + (0 if unlabelled is None else unlabelled.batch_size))
    trainer.callbacks.extend(callbacks)  # type: ignore[attr-defined]
    allow_unused_parameters(trainer, model, lambda: model.loss(default_collate([train_set[0]])))
    model = model.to(DTYPES.get(config.trainer.precision, torch.float32))
    module = KeypointModule(model, config.train, augment, None if unlabelled is None else unlabelled.teaching)
    loaders = Loaders(train_set, val_set, config, single=single, unlabelled=unlabelled)
    train_in_folder(trainer, module, loaders, config, folder, resume=claim.resume, keep=found is not None)
    model = module.model.float().eval()  # whatever the training's precision was
    measures = finish_run(folder, model, val_set, config.data.workers, console) if trainer.is_global_zero else {}
    return TrainedRun(folder, model, measures)


def _read_images(config: Config, train: KeypointDataset) -> KeypointDataset | None:
    """Return the images that a training reads from files; None where it draws them all."""
    if not any(isinstance(entry.file, str) for entry in config.data.train):
        return None
    return train.scenes if isinstance(train, WithScenes) else train


def _loaded(model: KeypointModel) -> str:
    """Return what was taken from pretrained weights, and what is new."""
    taken = model.head.loaded
    if taken is None or not taken.tensors:
        return f"{model.backbone.loaded}; new: the head's {len(model.head.state_dict())}"
    return f"{model.backbone.loaded}; {taken}"


def _unused(model: KeypointModel) -> str | None:
    """Return a warning if some of the backbone's parameters do nothing for the head."""
    count, every = len(model.unused_parameters), sum(1 for _ in model.backbone.parameters())
    if not count:
        return None
    return (
        f"{count} of the backbone's {every} parameter tensors ({min(model.unused_parameters)}, …) make maps that the "
        "head does not read: they are frozen"
    )


def _hard_instances(model: KeypointModel, train: KeypointDataset) -> list[str]:
    """Return warnings of instances that the network of whole images cannot learn from; none where there is none."""
    if not isinstance(train, Scenes | WithScenes):
        return []
    scenes, finder = (train.scenes, model.finder) if isinstance(train, WithScenes) else (train, model)
    return describe_scenes(scenes, cast("CentersHead", cast(KeypointModel, finder).head).stride)


def _warn(warning: str | None, console: Console) -> None:
    if warning and is_main_process():
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)


def _warn_unlabelled(names: list[str], console: Console) -> None:
    if names and is_main_process():
        text = f"warning: no training sample has a label for {', '.join(names)}: untrained points"
        console.print(text, style="yellow", soft_wrap=True)


def configure_trainer(
    config: Config, folder: Path, callback: RunFolderCallback, bar: bool, *, taught: bool
) -> pl.Trainer:
    """Return the Trainer of a supervised run, with the callbacks that its `train` section asks for.

    Where the run is `taught`, an average of the weights is its teacher.
    """
    watchers = {
        "schedule: plateau": config.train.schedule.name == "plateau",
        "early_stopping": config.train.early_stopping,
    }
    check_validation(config.trainer, config.data.val is not None or config.data.fold is not None, watchers)
    callbacks: list[pl.Callback] = []
    half = config.trainer.precision in ("16-true", "bf16-true")
    if config.train.average is not None:
        callbacks.append(weight_average(config.train.average, config.train.epochs, half))
    if taught and not any(isinstance(each, MovingAverage) for each in callbacks):
        settings = config.train.unlabelled or UnlabelledTraining()
        callbacks.append(teacher_average(settings.decay, half))
    if config.train.early_stopping is not None:
        callbacks.append(StopEarly("val_score", mode="max", patience=config.train.early_stopping.patience))
    return create_trainer(**run_arguments(config, folder, [callback, *callbacks], bar, config.train.clip_norm))

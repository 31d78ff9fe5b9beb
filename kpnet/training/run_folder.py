"""Create, resume or overwrite a run folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import cv2
import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only

from kpnet.config.loading import flatten, load_as, to_yaml
from kpnet.config.pretraining import PretrainConfig
from kpnet.config.schema import Config
from kpnet.config.trainer import TrainerConfig
from kpnet.core.errors import KpnetError, few, first_line
from kpnet.core.files import PARTIAL, write_atomic
from kpnet.core.locking import LOCK, locked
from kpnet.core.model_folder import CONFIG, WATCH, WEIGHTS, weights_file
from kpnet.core.outputs import MARKER, check_writable, folder_kind, is_occupied, mark_folder
from kpnet.data.seen_images import IMAGES
from kpnet.models.record import FIGURE, RECORD

RUN = "run"  # the kind of folder that its marker states
FIRST, PSEUDO_LABELS = "first", "pseudo_labels.csv"  # of self-training: the first run, and what its model found
_MODEL_FILES = (WEIGHTS, CONFIG, WATCH, "training.json", RECORD, FIGURE)
# What a training, a comparison and a sweep write into a run folder; --force deletes nothing else.
RUN_FILES = (
    *("config.yaml", IMAGES, "last.ckpt", "metrics.csv", "result.json", "predictions.npz", "trial.json"),
    *("fit-profile.txt", "fit-profile-*.txt"),  # the latter of several ranks
    *(PSEUDO_LABELS, "predictions.png", "curves.png", "reconstructions.png", "interpolations.png"),
    *(f"{model}/{name}" for model in ("best", "final") for name in _MODEL_FILES),
    *("tensorboard/events.out.tfevents.*", "tensorboard/hparams.yaml"),
    *("mlflow.db", "mlflow.db-*", "mlflow/*/artifacts/**/*"),
    *("wandb/run-*/**/*", "wandb/offline-run-*/**/*", "wandb/latest-run", "wandb/debug*.log", "wandb/settings"),
    *(f"{folder}{PARTIAL}*" for folder in ("", "best/", "final/")),
)
_NESTED = ("mlflow", "wandb")  # have folders in them
_RUN_FOLDERS = ("best", "final", "tensorboard", *_NESTED, FIRST)
TRAINED = ("last.ckpt", "metrics.csv", "best", "final", FIRST)  # one of them is there after the first epoch
NOTHING_YET = "nothing to go on from yet, so the training starts"

log = logging.getLogger("kpnet")


def is_main_process() -> bool:
    """Return whether this is the first process, before Lightning has set up its ranks."""
    # All processes but the first are started with their rank.
    return getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"


class Claim(NamedTuple):
    """A run folder that this process holds, and whether there is a checkpoint in it to go on from."""

    folder: Path
    resume: bool


@contextmanager
def claimed_run_folder(
    config: Config | PretrainConfig, out: str | Path | None, resume: bool, force: bool
) -> Iterator[Claim]:
    """Check and lock the run folder, `out` or `runs/<name>`, and seed the random generators.

    What was made for the lock is removed again if nothing is written into the folder.

    Raises:
        KpnetError: The folder cannot be used as `check_folder` says, or another process works in it.
    """
    folder = Path(out) if out else Path("runs") / config.name
    with ExitStack() as stack:
        if is_main_process():  # the other DDP processes find the folder that the first one made
            check_folder(folder, config, resume, force)
            stack.enter_context(_held(folder))
            check_folder(folder, config, resume, force)  # another process may have been faster
        cv2.setNumThreads(0)  # the images are small, and the training needs the cores
        pl.seed_everything(config.train.seed, workers=True, verbose=False)
        yield Claim(folder, resume and (folder / "last.ckpt").is_file())


def begun_trainer(config: Config | PretrainConfig, claim: Claim) -> TrainerConfig:
    """Return the `trainer` section, with the precision that a resumed run began with where the config names none."""
    saved = claim.folder / "config.yaml"
    if config.trainer.precision is not None or not claim.resume or not saved.is_file():
        return config.trainer
    before = load_as(type(config), saved).trainer.precision or "32-true"
    return config.trainer.model_copy(update={"precision": before})


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with locked(folder / LOCK, folder):
            try:
                yield
            finally:
                if not is_occupied(folder):
                    (folder / LOCK).unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # there is something in it
            for each in missing:
                each.rmdir()


def check_folder(folder: Path, config: Config | PretrainConfig, resume: bool, force: bool) -> None:
    """Raise if the folder cannot be trained in.

    A new or empty folder can always be, and one whose training ended before its first checkpoint too. Otherwise a run
    is either resumed or deleted.
    """
    if resume and force:
        raise KpnetError("--resume continues a run and --force deletes it: give only one of them")
    check_writable(folder)
    if not is_occupied(folder):
        return
    if folder_kind(folder) != RUN:
        raise KpnetError(
            f"{folder}: not empty, and not a run folder of kpnet, as no {MARKER} in it says so; "
            "--force does not delete it: give another --out or name=…"
        )
    if resume:
        _check_resumable(folder, config)
        return
    if not force and any((folder / name).exists() for name in TRAINED):
        raise KpnetError(f"{folder}: exists already; use --force to start again, --resume to go on, or another name=…")
    _check_inputs(folder, config)


def _check_resumable(folder: Path, config: Config | PretrainConfig) -> None:
    """Raise for another config, and for a run whose checkpoint is gone; one without a checkpoint yet starts anew."""
    saved, checkpoint, metrics = folder / "config.yaml", folder / "last.ckpt", folder / "metrics.csv"
    if saved.is_file():
        _check_same(load_as(type(config), saved), config, saved, begun=checkpoint.is_file())
    if checkpoint.is_file():
        _check_length(checkpoint, config)
    elif (folder / "final").exists() or (metrics.is_file() and len(metrics.read_bytes().splitlines()) > 2):
        raise KpnetError(f"{folder}: nothing to resume: its last.ckpt is gone; use --force to start again")


def _check_inputs(folder: Path, config: Config | PretrainConfig) -> None:
    """Raise if --force would delete a file that the training reads."""
    if isinstance(config, Config):
        pretrained, names = config.model.pretrained, [*(entry.file for entry in config.data.train), config.data.val]
        inputs = [weights_file(pretrained)] if isinstance(pretrained, str) else []
    else:
        names, inputs = [config.data.images, str(config.data.val)], []
    inputs += [Path(config.data.root) / name for name in names if isinstance(name, str)]
    for path in _files_of_run(folder):
        for read in inputs:
            if read.exists() and path.exists() and path.samefile(read):
                raise KpnetError(f"{path}: --force would delete it, and the training reads it; give another --out")


def _check_same(old: Config | PretrainConfig, new: Config | PretrainConfig, where: Path, *, begun: bool) -> None:
    """Raise if a resumed run would continue with another config.

    Until the second training of a self-training has `begun`, what it learns from may change.
    """
    before, after = (flatten(config.model_dump(mode="json")) for config in (old, new))
    changed = [k for k in sorted(before.keys() | after.keys()) if before.get(k) != after.get(k) and not _is_place(k)]
    changed = [key for key in changed if begun or not key.startswith("train.self_train.")]
    if changed:
        listed = ", ".join(f"{key}: {before.get(key)} is now {after.get(key)}" for key in changed[:3])
        raise KpnetError(f"{where}: --resume with another config ({listed}); use the same, or --force to start again")


def _is_place(key: str) -> bool:
    """Return whether a resumed run may change the key: the data's folder, the machine, the end, what was filled in."""
    places = ("name", "data.root", "data.workers", "data.cache_gb", "model.num_keypoints", "train.epochs")
    return key in places or key.startswith(("trainer.", "train.early_stopping"))


def _check_length(path: Path, config: Config | PretrainConfig) -> None:
    """Raise if the run was trained for more epochs than the config has."""
    trained = trained_epochs(path)
    if trained > config.train.epochs:
        raise KpnetError(
            f"{path}: the run was trained for {trained} epochs, and train.epochs is {config.train.epochs}: "
            "give at least as many, or --force to start again"
        )


def trained_epochs(path: Path) -> int:
    """Return how many epochs a checkpoint has; raise if it cannot be loaded without executing code from it."""
    try:
        return int(torch.load(path, map_location="meta", weights_only=True)["epoch"]) + 1
    except Exception as error:
        raise KpnetError(f"{path}: not a checkpoint that can be loaded safely: {first_line(error)}") from None


def create_run_folder(folder: Path, config: Config | PretrainConfig, resume: bool) -> None:
    """Write the run folder with its marker and its config; unless it is resumed, the run that was there is deleted."""
    if not is_main_process():
        return
    if not resume and folder_kind(folder) == RUN:
        delete_run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    mark_folder(folder, RUN)
    write_atomic(folder / "config.yaml", to_yaml(config).encode())


def is_demo(folder: Path, demo: Config) -> bool:
    """Return whether a folder holds an earlier run of `kpnet demo`, whose config is `demo`: its name and its data."""
    if folder_kind(folder) != RUN or not (folder / "config.yaml").is_file():
        return False
    config = load_as(type(demo), folder / "config.yaml")
    return (config.name, config.data.format) == (demo.name, demo.data.format)


def delete_run(folder: Path) -> None:
    """Delete the files of a run, and warn about others, which stay. Links are deleted, and never what they point to."""
    for path in list(_files_of_run(folder)):
        path.unlink(missing_ok=True)
    nested = [path for name in _NESTED for path in sorted((folder / name).rglob("*"), reverse=True) if path.is_dir()]
    if _has_first(folder):
        delete_run(folder / FIRST)
        for name in (MARKER, LOCK):
            (folder / FIRST / name).unlink(missing_ok=True)
    for path in [*nested, *(folder / name for name in _RUN_FOLDERS)]:
        with suppress(OSError):  # it holds something else
            path.rmdir()
    others = sorted(path.name for path in folder.iterdir() if path.name not in (MARKER, LOCK))
    if others:
        log.warning("%s: kept what no training wrote: %s", folder, few(others))


def _has_first(folder: Path) -> bool:
    """Return whether a run folder has the first run of a self-training."""
    return not (folder / FIRST).is_symlink() and folder_kind(folder / FIRST) == RUN


def _files_of_run(folder: Path) -> Iterator[Path]:
    """Yield the files that kpnet wrote into a run folder and the first run in it, and links in their place."""
    if _has_first(folder):
        yield from _files_of_run(folder / FIRST)
    links = [path for name in _RUN_FOLDERS if (path := folder / name).is_symlink()]
    yield from links
    for pattern in RUN_FILES:
        for path in folder.glob(pattern):
            within = [folder / parent for parent in path.relative_to(folder).parents][:-1]
            if not any(each.is_symlink() for each in within) and (path.is_symlink() or path.is_file()):
                yield path

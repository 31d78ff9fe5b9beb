"""Create, resume or overwrite a run folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import cv2
import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_only

from kpnet.config.loading import flatten, load_as, to_yaml
from kpnet.config.pretraining import PretrainConfig
from kpnet.config.schema import Config
from kpnet.core.errors import KpnetError, first_line
from kpnet.core.files import write_atomic


def is_main_process() -> bool:
    """Return whether this is the first process, before Lightning has set up its ranks."""
    # All processes but the first are started with their rank.
    return getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"


def claim_run_folder(config: Config | PretrainConfig, out: str | Path | None, resume: bool, force: bool) -> Path:
    """Check the run folder, `out` or `runs/<name>`, without writing it; seed the random generators."""
    folder = Path(out) if out else Path("runs") / config.name
    if is_main_process():  # the other DDP processes find the folder that the first one made
        check_folder(folder, config, resume, force)
    cv2.setNumThreads(0)  # the images are small, and the training needs the cores
    pl.seed_everything(config.train.seed, workers=True, verbose=False)
    return folder


def check_folder(folder: Path, config: Config | PretrainConfig, resume: bool, force: bool) -> None:
    """Raise if the folder holds a run that is neither to be resumed nor deleted, or cannot be."""
    saved = folder / "config.yaml"
    if resume and force:
        raise KpnetError("--resume continues a run and --force deletes it: give only one of them")
    if resume:
        if not (folder / "last.ckpt").is_file():
            raise KpnetError(f"{folder}: nothing to resume: found no last.ckpt; start without --resume")
        _check_same(load_as(type(config), saved), config, saved)
        _check_checkpoint(folder / "last.ckpt")
    elif folder.exists() and any(folder.iterdir()) and not force:
        raise KpnetError(f"{folder}: exists already; use --force to start again, --resume to go on, or another name=…")
    elif folder.exists() and force and not saved.is_file() and any(folder.iterdir()):
        raise KpnetError(f"{folder}: not a run folder of kpnet, so --force does not delete it; give another --out")


def _check_same(old: Config | PretrainConfig, new: Config | PretrainConfig, where: Path) -> None:
    """Raise if a resumed run would continue with another config."""
    before, after = (flatten(config.model_dump(mode="json")) for config in (old, new))
    changed = [k for k in sorted(before.keys() | after.keys()) if before.get(k) != after.get(k) and not _is_place(k)]
    if changed:
        listed = ", ".join(f"{key}: {before.get(key)} is now {after.get(key)}" for key in changed[:3])
        raise KpnetError(f"{where}: --resume with another config ({listed}); use the same, or --force to start again")


def _is_place(key: str) -> bool:
    """Return whether a resumed run may change the key: the data's folder, the machine, what was filled in."""
    return key in ("name", "data.root", "data.workers", "model.num_keypoints") or key.startswith("trainer.")


def _check_checkpoint(path: Path) -> None:
    """Raise if the checkpoint cannot be loaded without executing code from it."""
    try:
        torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:
        raise KpnetError(f"{path}: not a checkpoint that can be loaded safely: {first_line(error)}") from None


def create_run_folder(folder: Path, config: Config | PretrainConfig, force: bool) -> None:
    """Write the run folder with its config; `force` deletes what was there."""
    if not is_main_process():
        return
    if force and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "config.yaml", to_yaml(config).encode())

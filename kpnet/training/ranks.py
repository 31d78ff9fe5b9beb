"""The processes of one training: who reports an error, what happens where one dies, and how many images make a step."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed
from torch.multiprocessing import ProcessExitedException

from kpnet.core.errors import KpnetError, NotFiniteError

LOST = "a process of the training ended, and so do the others; --resume continues after the last full epoch"
GRACE = 10.0  # seconds that the first process has to notice that another one ended, and to say so
PARENT_CHECKS = 40  # within two seconds
STEP = "images_per_step"  # key in a checkpoint
FAILED = 2  # exit code of a process that leaves the report to another one
_OBSERVER = "child-process-observer"  # Lightning's thread that kills all processes when one has ended


class Ranks(pl.Callback):
    """Notes in each checkpoint how many images make a step, and lets no process end without a word."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        for thread in threading.enumerate():
            if thread.name == _OBSERVER:  # it would kill this process before it can say why
                children = getattr(thread, "_child_processes", [])
                thread._terminate_all = lambda children=children: _end_all(children)  # type: ignore[attr-defined]
        agree, resumed = trainer.strategy.reduce_boolean_decision, bool(trainer.ckpt_path)
        if agree(resumed, all=False) and not agree(resumed, all=True):
            raise KpnetError("--resume: not every machine finds last.ckpt; put the run folder on a disk that all share")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        loaders: Any = trainer.datamodule  # type: ignore[attr-defined]
        checkpoint[STEP] = images_per_step(trainer, loaders.config.train.batch_size)


def _end_all(children: list[Any]) -> None:
    """End this process and its children with one line, unless its main thread does so first."""
    threading.main_thread().join(GRACE)
    for child in children:
        child.kill()
    if not threading.main_thread().is_alive():
        return  # it has said why, and ends with its own exit code
    print(f"kpnet: {LOST}", file=sys.stderr, flush=True)
    os._exit(FAILED)


def images_per_step(trainer: pl.Trainer, batch_size: int) -> int:
    """Return how many images make a step of the optimizer, over all processes."""
    return batch_size * trainer.world_size * trainer.accumulate_grad_batches


def check_step(trainer: pl.Trainer, batch_size: int, checkpoint: Path) -> None:
    """Raise if a run would be resumed with steps of another number of images, such as on fewer devices."""
    before = torch.load(checkpoint, map_location="meta", weights_only=True).get(STEP)
    batch = batch_size * trainer.world_size
    if before is None or before == batch * trainer.accumulate_grad_batches:
        return
    fits = f", or trainer.accumulate_grad_batches={before // batch}" if before % batch == 0 else ""
    raise KpnetError(
        f"{checkpoint}: a step of this run has {before} images, and train.batch_size {batch_size} on "
        f"{trainer.world_size} device(s) makes steps of {batch * trainer.accumulate_grad_batches}: "
        f"resume on as many devices as before{fits}"
    )


@contextmanager
def one_voice(trainer: pl.Trainer) -> Iterator[None]:
    """Let one process report an error that all of them have.

    The others exit silently. Where another process was lost, that is a KpnetError of one line; the second process
    reports it if the first one, which has started it, is the one that was lost.
    """
    parent = os.getppid()
    try:
        yield
    except (RuntimeError, ProcessExitedException, NotFiniteError) as error:
        lost = is_lost(error)
        if not lost and not isinstance(error, NotFiniteError):
            raise
        silent = not (lost and trainer.global_rank == 1 and _has_ended(parent))
        if not trainer.is_global_zero and silent and not _is_forked(trainer):
            raise SystemExit(FAILED) from None
        if lost:
            raise KpnetError(LOST) from None
        raise


def _has_ended(parent: int) -> bool:
    """Return whether the process that started this one has ended, or does in a moment.

    The connections of a killed process are closed a little before its children get another parent.
    """
    for _ in range(PARENT_CHECKS):
        if os.getppid() != parent:
            return True
        time.sleep(0.05)
    return False


def _is_forked(trainer: pl.Trainer) -> bool:
    """Return whether the processes are forks of one that waits for their errors."""
    return getattr(trainer.strategy, "_start_method", "popen") != "popen"


def is_lost(error: Exception) -> bool:
    """Return whether an error says that another process of the training has ended."""
    if isinstance(error, (torch.distributed.DistError, ProcessExitedException)):
        return True
    text = str(error)
    broken = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused", "Timed out", "timeout")
    return ("gloo" in text or "NCCL" in text or "TCPStore" in text) and any(each in text for each in broken)

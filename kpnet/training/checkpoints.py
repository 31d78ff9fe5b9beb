"""Checkpoints that survive a crash: the one before stays until the new one is whole and on the disk."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from kpnet.core.errors import KpnetError, first_line
from kpnet.core.files import replacing

NEEDED = ("epoch", "state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers")
FROM_FORK = ".temp.ckpt"  # the weights that Lightning's forked processes hand to the one that waits for them


class DurableCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the one before, waits until the disk has it, and renames it.

    Lightning's own writes to the folder for temporary files and moves it from there. Between two file systems that is a
    copy onto the checkpoint before, and a process that is killed in the middle leaves neither.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as beside, beside.open("wb") as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's own, in place of a full disk's
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    def load_checkpoint(self, path: str | Path, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Read a checkpoint, or raise KpnetError if it is damaged or not of a training."""
        try:
            checkpoint: dict[str, Any] = super().load_checkpoint(path, *arguments, **options)
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise KpnetError(f"{path}: a damaged checkpoint: {first_line(error)}; use --force to start again") from None
        missing = [key for key in NEEDED if key not in checkpoint]
        if missing and Path(path).name != FROM_FORK:
            raise KpnetError(f'{path}: no checkpoint of a training, as it has no "{missing[0]}"')
        return checkpoint

"""Two processes of one training, with gloo on the CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed
import torch.multiprocessing

RANKS = 2


def on_two_ranks(work: Callable[..., Any], folder: Path, *arguments: Any) -> Any:
    """Return what `work(rank, *arguments)` returns in the first of two processes of one group.

    They are not forked: a fork of a process that has computed with several threads may wait for them for ever.
    """
    store = folder / "store"
    store.unlink(missing_ok=True)
    torch.multiprocessing.start_processes(
        _run, (work, store, folder / "found.pt", arguments), nprocs=RANKS, start_method="spawn"
    )
    return torch.load(folder / "found.pt", weights_only=True)


def _run(rank: int, work: Callable[..., Any], store: Path, out: Path, arguments: tuple[Any, ...]) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS, timeout=timedelta(minutes=5)
    )
    found = work(rank, *arguments)
    if rank == 0:
        torch.save(found, out)
    torch.distributed.destroy_process_group()

"""Worker processes of data loaders, and the shared memory that they need."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from torch import Tensor

from kpnet.data.base import KeypointDataset

SHARED_MEMORY = Path("/dev/shm")  # where workers put their batches, on Linux; containers often have 64 MB there
PREFETCHED = 2  # batches that each worker has ready


def fitting_workers(dataset: KeypointDataset, workers: int, batch_size: int, sharing: int = 1) -> int:
    """Return how many of a loader's workers the shared memory has room for.

    A worker that finds none is killed by a bus error, and the training with it.

    Args:
        dataset: The data, whose first sample is as large as the others.
        workers: The workers that are asked for.
        batch_size: Samples of a batch.
        sharing: Loaders that share the memory.

    Returns:
        At most `workers`; 0 where not even one fits.
    """
    if not workers or not SHARED_MEMORY.is_dir():
        return workers
    sample = sum(value.nbytes for value in dataset[0].values() if isinstance(value, Tensor))
    batches = shutil.disk_usage(SHARED_MEMORY).free // sharing // max(1, sample * min(batch_size, len(dataset)))
    return max(0, min(workers, (batches - 1) // PREFETCHED))  # one more is being used


def evaluation_workers(dataset: KeypointDataset, workers: int, batch_size: int) -> int:
    """Return how many workers load a dataset once, in its order.

    Args:
        dataset: The data.
        workers: The workers that are asked for.
        batch_size: Samples of a batch.

    Returns:
        At most `workers`, as many as the shared memory has room for, and none for a single batch.
    """
    batches = math.ceil(len(dataset) / batch_size)
    return fitting_workers(dataset, min(workers, batches) if batches > 1 else 0, batch_size)

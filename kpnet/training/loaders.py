"""Data loaders and samplers."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, Sampler

from kpnet.config.pretraining import PretrainConfig
from kpnet.config.schema import Config
from kpnet.core.errors import KpnetError
from kpnet.core.runtime import evaluation_mode
from kpnet.data import KeypointDataset
from kpnet.data.workers import SHARED_MEMORY, fitting_workers
from kpnet.training.unlabelled import UnlabelledData

UNCOUNTED = "uncounted"  # key of a batch whose images do not count
ONE_VALUE = "a batch norm of this network has one value for each image: expected at least 2"
PROBES = 8  # training samples that are read before anything is written


def probe(dataset: KeypointDataset) -> None:
    """Read the first samples: a transform that fails raises here, and not inside a worker."""
    with torch.random.fork_rng(devices=[]):  # no other training follows from it
        for index in range(min(PROBES, len(dataset))):
            dataset[index]


def sharing_loaders(trainer: pl.Trainer, has_val: bool, has_unlabelled: bool = False) -> int:
    """Return how many loaders share a machine's memory: each process has one, and others for further images."""
    return trainer.world_size // trainer.num_nodes * (1 + has_val + has_unlabelled)


def too_many_workers(dataset: KeypointDataset, workers: int, batch_size: int, sharing: int = 1) -> str | None:
    """Return a warning if fewer workers are used than are asked for."""
    fitting = fitting_workers(dataset, workers, batch_size, sharing)
    if fitting == workers:
        return None
    free = shutil.disk_usage(SHARED_MEMORY).free / 1e6
    each = f" for each of {sharing} loaders" if sharing > 1 else ""
    return (
        f"data.workers: the {free:.0f} MB that are free in {SHARED_MEMORY} have room for the batches of {fitting} "
        f"workers{each}, not of {workers}, so {fitting} are used: give a container more (docker run "
        "--shm-size=1g), or lower train.batch_size"
    )


def trains_on_one(network: nn.Module, forward: Callable[[Tensor], Any], image: Tensor) -> bool:
    """Return whether each batch norm of a network has several values for each channel of a single image.

    Over one value there is no variance: `torch.nn.BatchNorm2d` raises in training.

    Args:
        network: The network, or a part of it.
        forward: Its computation, such as `model.output`.
        image: One image (1, C, H, W), as the network takes it.

    Raises:
        KpnetError: An instance norm has a single value, for which no batch is large enough.
    """
    single = False

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal single
        if inputs[0].numel() == inputs[0].shape[1]:
            if isinstance(module, nn.modules.instancenorm._InstanceNorm):
                raise KpnetError("model: an instance norm has one value for each channel: give a larger input_size")
            trial = copy.deepcopy(module)
            trial._forward_pre_hooks.clear()
            try:
                trial.train()(*inputs)
            except ValueError:  # of torch; others may take a single value
                single = True

    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    try:
        if norms:
            with evaluation_mode(network), torch.no_grad():
                forward(image)
    finally:
        for hook in hooks:
            hook.remove()
    return not single


class EpochSampler(DistributedSampler[Any]):
    """Shuffles by (seed, epoch) and sets the dataset's epoch, in a single process too."""

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        assert isinstance(self.dataset, KeypointDataset)
        self.dataset.set_epoch(epoch)


class StreamSampler(Sampler[int]):
    """Indices of `TwoViews`, without an end: every image once, in an order drawn by the seed, then in another order.

    Each epoch goes on where the one before ended, and what it yields depends on its number alone, so that a resumed
    run sees what an uninterrupted one would see.

    Args:
        images: Number of images.
        count: How many indices an epoch yields in one process.
        ranks: Number of processes.
        rank: Which of them this is.
        seed: What the orders follow from.
    """

    def __init__(self, images: int, count: int, ranks: int, rank: int, seed: int) -> None:
        self.images, self.count, self.ranks, self.rank, self.seed = images, count, ranks, rank, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        turn, order = -1, np.empty(0, np.int64)
        for step in range(self.epoch * self.count, (self.epoch + 1) * self.count):
            now, place = divmod(step * self.ranks + self.rank, self.images)
            if now != turn:
                turn, order = now, np.random.default_rng((self.seed, now)).permutation(self.images)
            yield turn * self.images + int(order[place])

    def __len__(self) -> int:
        return self.count


class UnpaddedDistributedSampler(Sampler[int]):
    """Yields every sample once over all ranks; `DistributedSampler` repeats some to make the ranks equal."""

    def __init__(self, length: int, ranks: int, rank: int) -> None:
        self.indices = range(rank, length, ranks)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class Uncounted(Dataset[Any]):
    """One sample without a visible point, for a process that no validation sample is left for.

    Lightning would skip the validation of a process without a batch, and the others would wait for it.
    """

    def __init__(self, dataset: KeypointDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.dataset[index]
        nothing = {key: torch.zeros_like(item[key]) for key in ("visible", "weight")}
        if "present" in item:
            nothing["present"] = torch.full_like(item["present"], torch.nan)
        return {**item, **nothing, UNCOUNTED: True}


class NoSingleSample(BatchSampler):
    """Batches of which none is a single sample: the last batch takes one that would be left."""

    def __iter__(self) -> Iterator[list[int]]:
        batches = super().__iter__()
        held = next(batches, None)
        for batch in batches:
            if len(batch) == 1:
                held = [*(held or []), *batch]
            elif held is not None:
                yield held
                held = batch
        if held is not None:
            yield held

    def __len__(self) -> int:
        samples, size = len(self.sampler), self.batch_size  # type: ignore[arg-type]
        return max(1, samples // size) if samples % size == 1 else math.ceil(samples / size)


class Loaders(pl.LightningDataModule):
    """Batches of the training and the validation data.

    Args:
        train: The training data.
        val: The validation data, if there is any.
        config: The config of the training.
        single: Whether the network trains on a single sample; see `trains_on_one`.
        unlabelled: Images to learn from beside the training data, if there are any. A batch is then
            `{"labelled": …, "unlabelled": …}`.

    Raises:
        KpnetError: Every batch would be a single sample, and the network does not train on one.
    """

    def __init__(
        self,
        train: KeypointDataset,
        val: KeypointDataset | None,
        config: Config | PretrainConfig,
        *,
        single: bool = True,
        unlabelled: UnlabelledData | None = None,
    ) -> None:
        super().__init__()
        self.unlabelled = unlabelled
        self.train, self.val, self.config, self.single = train, val, config, single

    def train_batches(self, ranks: int) -> int:
        """Return the number of training batches of an epoch, in each of `ranks` processes."""
        samples, size = math.ceil(len(self.train) / ranks), self.config.train.batch_size
        if not self.single and min(samples, size) == 1:
            what = "train.batch_size: 1" if size == 1 else "data.train: one sample for each process"
            raise KpnetError(f"{what}: {ONE_VALUE}")
        if not self.single and self.unlabelled is not None and self.unlabelled.batch_size == 1:
            raise KpnetError(f"train.unlabelled.batch_size: 1: {ONE_VALUE}")
        return samples // size if samples % size == 1 and not self.single else math.ceil(samples / size)

    def train_dataloader(self) -> Any:
        labelled = self._labelled()
        if self.unlabelled is None:
            return labelled
        images, size, trainer = self.unlabelled.images, self.unlabelled.batch_size, self.trainer
        assert trainer is not None
        count, seed = size * len(labelled), self.config.train.seed
        sampler = StreamSampler(len(images), count, trainer.world_size, trainer.global_rank, seed)
        sampler.set_epoch(trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        loaders = {"labelled": labelled, "unlabelled": self._loader(images, size, batch_size=size, sampler=sampler)}
        return CombinedLoader(loaders, "min_size")

    def _labelled(self) -> DataLoader[Any]:
        trainer = self.trainer
        assert trainer is not None
        sampler = EpochSampler(
            self.train, trainer.world_size, trainer.global_rank, shuffle=True, seed=self.config.train.seed
        )
        # Lightning sets the epoch too, but after workers have begun to fetch for a resumed run.
        sampler.set_epoch(trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        size = self.config.train.batch_size
        if self.single:
            return self._loader(self.train, size, batch_size=size, sampler=sampler)
        return self._loader(self.train, size, batch_sampler=NoSingleSample(sampler, size, drop_last=False))

    def val_dataloader(self) -> Any:
        trainer = self.trainer
        assert trainer is not None
        if self.val is None:
            return []
        if trainer.global_rank >= len(self.val):
            return DataLoader(Uncounted(self.val))
        sampler = UnpaddedDistributedSampler(len(self.val), trainer.world_size, trainer.global_rank)
        size = self.config.train.batch_size
        return self._loader(self.val, size, batch_size=size, sampler=sampler)

    def _loader(self, dataset: KeypointDataset, size: int, **batches: Any) -> DataLoader[Any]:
        assert self.trainer is not None
        sharing = sharing_loaders(self.trainer, self.val is not None, self.unlabelled is not None)
        in_bytes = dataset.in_bytes()  # the module converts them, on its device
        workers = fitting_workers(in_bytes, self.config.data.workers, size, sharing)
        return DataLoader(
            in_bytes,
            **batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

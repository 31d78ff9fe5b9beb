"""Data loaders and samplers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, DistributedSampler, Sampler

from kpnet.config.pretraining import PretrainConfig
from kpnet.config.schema import Config
from kpnet.data import KeypointDataset

PROBES = 8  # training samples that are read before anything is written


def probe(dataset: KeypointDataset) -> None:
    """Read the first samples: a transform that fails raises here, and not inside a worker."""
    with torch.random.fork_rng(devices=[]):  # no other training follows from it
        for index in range(min(PROBES, len(dataset))):
            dataset[index]


class EpochSampler(DistributedSampler[Any]):
    """Shuffles by (seed, epoch) and sets the dataset's epoch, in a single process too."""

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        assert isinstance(self.dataset, KeypointDataset)
        self.dataset.set_epoch(epoch)


class UnpaddedDistributedSampler(Sampler[int]):
    """Yields every sample once over all ranks; `DistributedSampler` repeats some to make the ranks equal."""

    def __init__(self, length: int, ranks: int, rank: int) -> None:
        self.indices = range(rank, length, ranks)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)


class Loaders(pl.LightningDataModule):
    """Batches of the training and the validation data."""

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
        return self._loader(
            self.val, UnpaddedDistributedSampler(len(self.val), trainer.world_size, trainer.global_rank)
        )

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

"""Loaders and samplers: which samples, in which order, in which epoch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from kpnet.backbones.mlp import MLP
from kpnet.config.loading import load_config
from kpnet.config.unlabelled import UnlabelledTraining
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import KeypointDataset, SyntheticFaces
from kpnet.data.wrappers.views import TwoViews
from kpnet.training.loaders import (
    UNCOUNTED,
    EpochSampler,
    Loaders,
    NoSingleSample,
    StreamSampler,
    Uncounted,
    UnpaddedDistributedSampler,
    too_many_workers,
    trains_on_one,
)
from kpnet.training.unlabelled import Teaching, UnlabelledData


class Numbers(KeypointDataset):
    """`count` images of 2x2 whose grey value is ten times the epoch, plus the index."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.skeleton, self.count = Skeleton(("a",)), count

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full((2, 2), 10 * max(int(self._epoch), 0) + index, np.uint8), np.zeros((1, 2))


def loaders(count: int, epoch: int = 0, ranks: int = 1, rank: int = 0, val: int | None = None, **train: Any) -> Loaders:
    """As in a training that has come to `epoch`, on one of several ranks."""
    model = {"backbone": "conv_sandwich", "head": "heatmap"}
    config = load_config({"model": model, "train": {"batch_size": 4, **train}, "data": {"workers": 0}})
    made = Loaders(Numbers(count), None if val is None else Numbers(val), config)
    progress = SimpleNamespace(current=SimpleNamespace(processed=epoch))
    trainer: Any = SimpleNamespace(
        world_size=ranks, num_nodes=1, global_rank=rank, fit_loop=SimpleNamespace(epoch_progress=progress)
    )
    made.trainer = trainer
    return made


def order(batches: Any) -> list[int]:
    return [int(index) for batch in batches for index in batch["index"]]


def test_an_epoch_has_every_sample_once_in_an_order_of_seed_and_epoch() -> None:
    first = order(loaders(10).train_dataloader())
    assert sorted(first) == list(range(10))
    assert first != sorted(first)
    assert order(loaders(10).train_dataloader()) == first
    assert order(loaders(10, epoch=1).train_dataloader()) != first
    assert order(loaders(10, seed=1).train_dataloader()) != first


def test_batches_are_of_the_configs_size_and_the_last_is_smaller() -> None:
    sizes = [len(batch["index"]) for batch in loaders(10).train_dataloader()]
    assert sizes == [4, 4, 2]


def test_a_resumed_training_begins_in_its_own_epoch() -> None:
    """The loader's first epoch is that of the training, for the order and for the dataset."""
    whole = loaders(10).train_dataloader()
    assert isinstance(whole.sampler, EpochSampler)
    whole.sampler.set_epoch(3)
    expected = [(batch["index"].tolist(), batch["image"].flatten().tolist()) for batch in whole]
    resumed = [(b["index"].tolist(), b["image"].flatten().tolist()) for b in loaders(10, epoch=3).train_dataloader()]
    assert resumed == expected
    index, image = resumed[0]
    assert image[0] == 30 + index[0]


def test_ranks_share_the_samples_of_an_epoch() -> None:
    seen = [order(loaders(9, ranks=2, rank=rank).train_dataloader()) for rank in range(2)]
    assert [len(each) for each in seen] == [5, 5], "equal numbers: a rank that waits for ever would hang"
    assert set(seen[0]) | set(seen[1]) == set(range(9))
    held = [order(loaders(9, ranks=2, rank=rank, val=5).val_dataloader()) for rank in range(2)]
    assert held == [[0, 2, 4], [1, 3]]


def test_validation_counts_each_sample_once_over_ranks() -> None:
    for length in (1, 5, 6, 7):
        seen = [i for rank in range(3) for i in UnpaddedDistributedSampler(length, 3, rank)]
        assert sorted(seen) == list(range(length))


def test_without_validation_data_there_is_no_loader() -> None:
    assert loaders(3).val_dataloader() == []
    val = loaders(3, val=5).val_dataloader()
    assert order(val) == [0, 1, 2, 3, 4]
    assert [len(batch["index"]) for batch in val] == [4, 1]


@pytest.mark.parametrize(("ranks", "val", "expected"), [(1, None, 8), (1, 8, 4), (2, None, 4), (2, 8, 2)])
def test_the_loaders_of_all_ranks_share_the_memory(
    ranks: int, val: int | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = loaders(8, ranks=ranks, val=val)
    made.config.data.workers = 8
    batch = 4 * sum(value.nbytes for value in made.train.in_bytes()[0].values() if isinstance(value, torch.Tensor))
    monkeypatch.setattr("kpnet.data.workers.SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=20 * batch))
    assert made.train_dataloader().num_workers == expected
    assert val is None or made.val_dataloader().num_workers == expected
    assert "2 workers for each of 4 loaders, not of 8" in str(too_many_workers(made.train.in_bytes(), 8, 4, 4))


def test_a_loader_of_unlabelled_images_counts_its_own_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = TwoViews(SyntheticFaces(8, image_size=(32, 32)), None)
    made = loaders(8)
    made.unlabelled = UnlabelledData(images, 8, Teaching(UnlabelledTraining(), images.skeleton, (32, 32)))
    made.config.data.workers = 8
    batch = 8 * sum(value.nbytes for value in images.in_bytes()[0].values() if isinstance(value, torch.Tensor))
    monkeypatch.setattr("kpnet.data.workers.SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2 * 5 * batch))
    assert made.train_dataloader().iterables["unlabelled"].num_workers == 2  # two batches of each, and one in use


def test_the_loaders_use_as_many_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = loaders(8, val=4)
    made.config.data.workers = 4
    monkeypatch.setattr("kpnet.data.workers.SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    assert made.train_dataloader().num_workers == made.val_dataloader().num_workers == 0


# Batch norms of one value


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_no_batch_is_a_single_sample_and_every_sample_comes_once(size: int) -> None:
    for samples in range(2, 30):
        batches = list(sampler := NoSingleSample(range(samples), size, drop_last=False))
        assert [i for batch in batches for i in batch] == list(range(samples))
        assert len(batches) == len(sampler)
        assert all(len(batch) in (size, size + 1) for batch in batches[:-1])
        assert 1 < len(batches[-1]) <= size + 1


def test_the_loader_has_as_many_batches_as_the_schedule_counts() -> None:
    for single, expected in ((True, [4, 4, 1]), (False, [4, 5])):
        made = loaders(9)
        made.single = single
        assert [len(batch["index"]) for batch in made.train_dataloader()] == expected
        assert made.train_batches(1) == len(expected)
    made.config.train.batch_size = 1
    with pytest.raises(KpnetError, match=r"^train\.batch_size: 1: a batch norm"):
        made.train_batches(1)


@pytest.mark.parametrize(
    ("norm", "side", "expected"), [("BatchNorm2d", 1, False), ("BatchNorm2d", 2, True), ("GroupNorm", 1, True)]
)
def test_a_batch_norm_of_one_value_is_found(norm: str, side: int, expected: bool) -> None:
    """As torch itself decides in training."""
    layer = nn.GroupNorm(1, 3) if norm == "GroupNorm" else getattr(nn, norm)(3)
    network = nn.Sequential(nn.AvgPool2d(4), layer)
    image, before = torch.rand(1, 3, 4 * side, 4 * side), {k: v.clone() for k, v in network.state_dict().items()}
    assert trains_on_one(network, network, image) is expected
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    if expected:
        network(image)
    else:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            network(image)


def test_an_instance_norm_of_one_value_is_told() -> None:
    network = nn.Sequential(nn.AvgPool2d(4), nn.InstanceNorm2d(3))
    with pytest.raises(KpnetError, match="an instance norm has one value"):
        trains_on_one(network, network, torch.rand(1, 3, 4, 4))


def test_a_batch_norm_that_takes_a_single_value_trains_on_one() -> None:
    """The fully connected course network, whose norms fall back to the running statistics."""
    mlp = MLP(1, (8, 8), hidden=32, latent=4)
    assert trains_on_one(mlp, mlp, torch.zeros(1, 1, 8, 8))
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4))
    assert not trains_on_one(plain, plain, torch.zeros(1, 1, 8, 8))


def test_a_process_without_a_validation_sample_has_one_that_counts_nothing() -> None:
    (batch,) = DataLoader(Uncounted(SyntheticFaces(2)))
    assert batch["image"].shape[0] == 1
    assert not batch["visible"].any()
    assert not batch["weight"].any()
    assert UNCOUNTED in batch


def test_a_stream_takes_every_image_once_before_any_again_over_epochs_and_processes() -> None:
    def epoch(number: int, ranks: int, rank: int) -> list[int]:
        sampler = StreamSampler(images=7, count=12 // ranks, ranks=ranks, rank=rank, seed=5)
        sampler.set_epoch(number)
        assert len(sampler) == 12 // ranks
        return list(sampler)

    stream = [index for number in range(4) for index in epoch(number, 1, 0)]
    for turn in range(6):
        assert sorted(stream[7 * turn : 7 * turn + 7]) == list(range(7 * turn, 7 * turn + 7))
    assert [i % 7 for i in stream[:7]] != [i % 7 for i in stream[7:14]]  # in another order
    for number in range(4):  # two processes share what one takes
        shares = zip(epoch(number, 2, 0), epoch(number, 2, 1), strict=True)
        assert [index for pair in shares for index in pair] == epoch(number, 1, 0)

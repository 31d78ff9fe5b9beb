"""Two processes with half of each batch train as one process does, whatever the options; and what they cannot do."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from support.two_ranks import TINY, TWO, train_on_two

from kpnet.config.loading import load_config
from kpnet.config.schema import Config
from kpnet.core.errors import KpnetError
from kpnet.training.supervised import train

OPTIONS: dict[str, tuple[str, ...]] = {
    "hardest": ("model.head={name: regression, loss: {l1: 1}, hardest: 3}",),
    "ema and one_cycle": ("train.average={name: ema, decay: 0.9}", "train.schedule=one_cycle"),
    "swa": ("train.average={name: swa, start: 0.5}",),
    "early stopping": ("train.early_stopping={patience: 1}", "train.optimizer.lr=1e-9", "train.epochs=4"),
    "clip": ("train.clip_norm=0.1", "train.optimizer={name: sgd, lr: 1.0}"),
    "freeze": ("train.freeze={until: 1}", "model.pretrained=false"),
    "accumulate": ("trainer.accumulate_grad_batches=2", "data.train=28"),
    "one validation sample": ("data.val=1",),
}


def tiny(*overrides: str) -> Config:
    return load_config(TINY, overrides)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / "model.safetensors")


def same(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    for name in first:
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=1e-6, msg=name)
    tables = [pd.read_csv(run / "metrics.csv") for run in (one, two)]
    assert len(tables[0]) == len(tables[1])
    for column in ("train_loss", "val_loss", "val_score"):  # each sample counted once
        assert tables[0][column].to_numpy() == pytest.approx(tables[1][column].to_numpy(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_they_train_as_one(tmp_path: Path, option: str) -> None:
    """The ranks have unequal numbers of visible points, as some leave the image."""
    train(tiny(*OPTIONS[option]), out=tmp_path / "one")
    train_on_two(OPTIONS[option], tmp_path / "two")
    same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
def test_they_resume_as_one_and_not_on_another_number(tmp_path: Path) -> None:
    train(tiny(), out=tmp_path / "one")
    train_on_two(("train.epochs=1",), tmp_path / "two")
    with pytest.raises(
        KpnetError,
        match=r"a step of this run has 8 images, and train\.batch_size 4 on 1 device\(s\) makes steps of 4: .* "
        r"or trainer\.accumulate_grad_batches=2$",
    ):
        train(tiny("train.batch_size=4"), out=tmp_path / "two", resume=True)
    train_on_two((), tmp_path / "two", resume=True)
    same(tmp_path / "one", tmp_path / "two")
    # One process that accumulates goes on with the same steps.
    train(tiny("train.epochs=3"), out=tmp_path / "one", resume=True)
    accumulate = ("train.epochs=3", "train.batch_size=4", "trainer.accumulate_grad_batches=2")
    train(tiny(*accumulate), out=tmp_path / "two", resume=True)
    same(tmp_path / "one", tmp_path / "two")


def test_batches_that_are_accumulated_weigh_by_their_points(tmp_path: Path) -> None:
    """The last step of an epoch has one batch alone: it is not divided by two."""
    overrides = ("data.train=20", "model.head={name: regression, loss: {l1: 1}, hardest: 5}")
    train(tiny(*overrides), out=tmp_path / "one")
    train(tiny(*overrides, "train.batch_size=4", "trainer.accumulate_grad_batches=2"), out=tmp_path / "two")
    same(tmp_path / "one", tmp_path / "two")


def test_more_processes_than_samples_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match=r"^trainer\.devices: 2 processes for 1 training sample\(s\)"):
        train(tiny("data.train=1", *TWO), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()

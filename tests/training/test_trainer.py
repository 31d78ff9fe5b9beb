"""The wrapper around Lightning's Trainer: what cannot work is one line before anything is written."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from support.recipes import small
from torch import nn
from torch.multiprocessing import ProcessRaisedException

from kpnet.config.trainer import TrainerConfig
from kpnet.core.errors import KpnetError, NotFiniteError
from kpnet.data import SyntheticFaces
from kpnet.training.loaders import Loaders
from kpnet.training.trainer import (
    allow_unused_parameters,
    check_batches,
    check_devices,
    create_trainer,
    fit,
    lightning_errors,
    trainer_arguments,
)


@pytest.fixture
def _machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A machine of so many GPUs and 4 cores."""
    gpus = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", bool)
    monkeypatch.setattr("os.cpu_count", lambda: 4)


@pytest.mark.usefixtures("_machine")
@pytest.mark.parametrize(
    ("_machine", "settings", "key"),
    [
        (0, {"accelerator": "gpu"}, "accelerator: gpu"),
        (0, {"accelerator": "cuda"}, "accelerator: cuda"),
        (2, {"accelerator": "mps"}, "accelerator: mps"),
        (2, {"devices": 3}, "devices: 3: there are 2 GPUs"),
        (2, {"devices": [1, 2]}, r"devices: \[1, 2\]: there are 2 GPUs"),
        (2, {"accelerator": "cpu", "devices": 5}, "devices: 5 processes on 4 cores"),
        (0, {"devices": [0]}, r"devices: \[0\]: on the CPU"),
        (0, {"devices": -1}, "devices: -1: on the CPU"),
        (0, {"sync_batchnorm": True}, "sync_batchnorm"),
    ],
    indirect=["_machine"],
)
def test_devices_that_the_machine_lacks(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(KpnetError, match=f"^trainer.{key}"):
        check_devices(TrainerConfig(**settings))


@pytest.mark.usefixtures("_machine")
@pytest.mark.parametrize(
    ("_machine", "settings"),
    [
        (0, {}),
        (0, {"devices": 4}),
        (2, {"devices": 2}),
        (2, {"accelerator": "gpu", "devices": [0, 1]}),
        (2, {"devices": -1}),
    ],
    indirect=["_machine"],
)
def test_devices_that_it_has(settings: dict[str, Any]) -> None:
    check_devices(TrainerConfig(**settings))


def batches(settings: dict[str, Any], train: int = 20, val: int | None = 9, ranks: int = 1) -> None:
    config: Any = SimpleNamespace(trainer=TrainerConfig(**settings), train=SimpleNamespace(batch_size=4))
    faces = None if val is None else SyntheticFaces(val)
    trainer: Any = SimpleNamespace(world_size=ranks)
    check_batches(trainer, Loaders(SyntheticFaces(train), faces, config), config)


@pytest.mark.parametrize(
    ("settings", "ranks", "message"),
    [
        ({"limit_train_batches": 0.19}, 1, "limit_train_batches: 0.19 of 5 batches is none: give at least 0.2"),
        ({"limit_train_batches": 0.3}, 2, "limit_train_batches: 0.3 of 3 batches"),
        ({"limit_val_batches": 0.3}, 1, "limit_val_batches: 0.3 of 3 batches"),
        ({"val_check_interval": 6}, 1, "val_check_interval: 6 is more than the 5 batches"),
        ({"val_check_interval": 3, "limit_train_batches": 2}, 1, "val_check_interval: 3 is more than the 2 batches"),
        ({}, 21, r"devices: 21 processes for 20 training sample\(s\)"),
    ],
)
def test_an_epoch_or_a_process_without_a_batch(settings: dict[str, Any], ranks: int, message: str) -> None:
    with pytest.raises(KpnetError, match=f"^trainer.{message}"):
        batches(settings, ranks=ranks)


def test_as_many_batches_as_there_are() -> None:
    batches({"limit_train_batches": 0.2, "limit_val_batches": 0.34, "val_check_interval": 1})
    batches({"limit_train_batches": 99, "val_check_interval": 0.01}, ranks=9)
    batches({"val_check_interval": 99}, val=None)
    batches({"val_check_interval": 99, "limit_val_batches": 0}, ranks=10)
    batches({}, val=1, ranks=10)


@pytest.mark.parametrize(("gpu", "given", "expected"), [(True, None, True), (False, None, False), (True, False, False)])
def test_batch_norms_are_synchronised_on_gpus(
    monkeypatch: pytest.MonkeyPatch, gpu: bool, given: bool | None, expected: bool
) -> None:
    monkeypatch.setattr("kpnet.training.trainer.on_gpu", lambda _: gpu)
    monkeypatch.setattr("kpnet.training.trainer.check_devices", lambda _: None)
    assert trainer_arguments(TrainerConfig(sync_batchnorm=given))["sync_batchnorm"] is expected


def test_what_lightning_refuses_is_one_line_that_names_the_settings() -> None:
    with pytest.raises(KpnetError, match=r"^trainer\.accelerator cpu, trainer\.devices two: [^\n]+$"):
        create_trainer(accelerator="cpu", devices="two", logger=False)
    with pytest.raises(KpnetError, match=r"^trainer: a b$"), lightning_errors():
        raise MisconfigurationException("a\n  b")


@pytest.mark.parametrize("kind", [KpnetError, NotFiniteError])
def test_the_error_of_a_forked_process_is_the_users(kind: type[KpnetError]) -> None:
    text = (
        f"\n-- Process 1 terminated with the following error:\nTraceback …\nkpnet.core.errors.{kind.__name__}: it: so"
    )
    with pytest.raises(KpnetError, match=r"^it: so$") as caught, lightning_errors():
        raise ProcessRaisedException(text, 1, 2)
    assert caught.type is kind
    with pytest.raises(ProcessRaisedException), lightning_errors():
        raise ProcessRaisedException("…\nZeroDivisionError: division by zero", 1, 2)


def test_lightning_takes_the_defaults_and_every_setting() -> None:
    given: dict[str, Any] = {
        "limit_train_batches": 0.5,
        "max_time": "00:00:01:00",
        "deterministic": "warn",
        "max_steps": 3,
    }
    trainer = create_trainer(
        **trainer_arguments(TrainerConfig(accelerator="cpu", **given)), logger=False, enable_checkpointing=False
    )
    assert (trainer.limit_train_batches, trainer.max_steps) == (0.5, 3)
    assert create_trainer(**trainer_arguments(TrainerConfig(accelerator="cpu")), logger=False).max_steps == -1


@pytest.mark.parametrize("unused", [False, True])
def test_several_processes_look_for_unused_parameters_where_there_are_some(unused: bool) -> None:
    model = small(num_keypoints=15)
    if unused:
        model.register_module("extra", nn.Linear(2, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = pl.Trainer(accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False)
    allow_unused_parameters(trainer, model, lambda: model(torch.rand(1, 1, 32, 32)).sum())
    assert trainer.strategy._ddp_kwargs == {"find_unused_parameters": unused}  # type: ignore[attr-defined]
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("fails", [True, False])
def test_a_logger_that_cannot_end_hides_no_error_of_the_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fails: bool
) -> None:
    def train(*_: Any, **__: Any) -> None:
        if fails:
            raise NotFiniteError("the loss is not finite")

    def end(*_: Any) -> None:
        raise KpnetError("trainer.logger: no server")

    trainer: Any = SimpleNamespace(
        fit=train, loggers=[], callbacks=[], interrupted=False, global_rank=0, is_global_zero=True
    )
    monkeypatch.setattr("kpnet.training.loggers.end", end)
    given: Any = None
    with pytest.raises(KpnetError, match="the loss" if fails else "no server"):
        fit(trainer, given, given, None)
    assert caplog.messages == (["trainer.logger: no server"] if fails else [])

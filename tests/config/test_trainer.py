"""The `trainer` section: what it takes, and one line that names the key for everything else."""

from __future__ import annotations

from typing import Any

import pytest

from kpnet.config.loading import load_config, to_yaml
from kpnet.config.pretraining import load_pretrain_config
from kpnet.config.trainer import CSV, MLflow, TensorBoard, TrainerConfig, Wandb
from kpnet.core.errors import KpnetError

MODEL = {"model": {"backbone": "conv_sandwich", "head": "heatmap"}}


def loaded(**values: Any) -> TrainerConfig:
    return load_config({**MODEL, "trainer": values}).trainer


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        *[("precision", given, full) for given, full in ((16, "16-mixed"), ("bf16", "bf16-mixed"), ("64", "64-true"))],
        *[("devices", given, given) for given in (1, -1, "auto", [0], [0, 3])],
        ("devices", "0, 1", [0, 1]),
        *[("limit_train_batches", given, given) for given in (1, 1.0, 0.25)],  # one batch; all of them; a quarter
        ("limit_val_batches", 0, 0),
        ("max_time", "01:12:00:00", "01:12:00:00"),
        ("logger", "wandb", [Wandb()]),
        (
            "logger",
            ["tensorboard", {"name": "mlflow", "experiment": "faces"}],
            [TensorBoard(), MLflow(experiment="faces")],
        ),
        ("logger", "csv", [CSV()]),
        ("logger", None, []),
        ("logger", False, []),
        ("deterministic", "warn", "warn"),
    ],
)
def test_a_value_and_its_round_trip(key: str, given: Any, expected: Any) -> None:
    found = loaded(**{key: given})
    assert (getattr(found, key), type(getattr(found, key))) == (expected, type(expected))
    assert found.model_dump().keys() == {key}, "a run's config holds what was given"
    assert TrainerConfig.model_validate(found.model_dump(mode="json")) == found
    assert f"{key}:" in to_yaml(load_config({**MODEL, "trainer": {key: given}}))


@pytest.mark.parametrize(
    ("key", "values"),
    {
        "accelerator": ["tpu", "hpu", 3, None],
        "devices": [0, -2, True, [], [0, 0], [-1], [0, "a"], "two", "0", 1.5, None, 10**30, [10**30], {}],
        "num_nodes": [0, 10**30],
        "strategy": ["ddp_spawn", "fsdp", "deepspeed", {"find": False}],
        "precision": [12, "fp16", True, "transformer-engine"],
        "logger": ["wnadb", True, 3, {"name": "wandb", "porject": "a"}, {"name": "wandb", "_target_": "os.system"}],
        "max_steps": [0, -1, 2.5, 10**30],
        "max_time": [216000, "1 day", "00:00:00:00", {"days": 1}],
        "limit_train_batches": [0, 0.0, -1, 1.5, float("nan"), "3", None, True, 10**30],
        "limit_val_batches": [-1, 1.5, float("inf")],
        "val_check_interval": [0, -3, 2.5, "01:00:00:00", 10**30],
        "check_val_every_n_epoch": [0, True, None],
        "accumulate_grad_batches": [{0: 1, 1: 2}, 0, 2.5],
        "gradient_clip_algorithm": ["median"],
        "profiler": ["xla", "pytorch", "kpnet.cli.main"],
        "deterministic": ["maybe"],
    }.items(),
)
def test_another_value_is_one_line_that_names_the_key(key: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(KpnetError, match=rf"^config: .*trainer\.{key}\b") as caught:
            loaded(**{key: value})
        assert "\n" not in str(caught.value), value


@pytest.mark.parametrize(
    "key", ["plugins", "callbacks", "_target_", "enable_checkpointing", "model_registry", "barebones"]
)
def test_nothing_in_a_file_reaches_code(key: str) -> None:
    with pytest.raises(KpnetError, match=f'unknown key "trainer.{key}"'):
        loaded(**{key: "os.system"})
    with pytest.raises(KpnetError, match=f'unknown key "trainer.{key}"'):
        load_pretrain_config({"model": {"backbone": "mlp"}, "data": {"images": "a"}, "trainer": {key: "os.system"}})


@pytest.mark.parametrize(("key", "place"), [("max_epochs", "train.epochs"), ("gradient_clip_val", "train.clip_norm")])
def test_what_kpnet_sets_is_set_elsewhere(key: str, place: str) -> None:
    with pytest.raises(KpnetError, match=rf"trainer: {key} is not set here: use {place}"):
        loaded(**{key: 3})

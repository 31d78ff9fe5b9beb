"""The YAML: what it takes, and what it says of what it does not take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError
from support.bad_configs import BASE, fails
from support.paths import ROOT
from support.recipes import loader

from kpnet.config.fields import Recipe
from kpnet.config.loading import config_text, list_configs, load_config, to_yaml
from kpnet.config.optim import SGD, SWA, Adam, AdamW, Cosine
from kpnet.config.pretraining import PretrainConfig
from kpnet.config.schema import Config, TrainConfig, TrainFile
from kpnet.config.sweep import SweepConfig
from kpnet.core.errors import KpnetError

FULL = """
name: full
model:
  backbone: {name: conv_sandwich, channels: [8, 16]}
  head: {name: heatmap, decoder: {name: top_down, width: 8}, stride: 2, loss: {l1: 1.0}}
  input_size: [64, 80]
data: {format: kaggle_csv, transforms: [{HorizontalFlip: {p: 0.5}}, RandomBrightnessContrast]}
train:
  optimizer: {name: sgd, lr: 1e-3, momentum: 0.5}
  schedule: {name: cosine, warmup_epochs: 2}
  average: {name: ema, decay: 0.9}
  overfit: {name: adam, lr: 3e-4}
trainer: {precision: 32, max_steps: 9, logger: [csv, {name: wandb, project: faces}]}
"""


def test_only_the_model_is_needed() -> None:
    config = load_config(BASE)
    assert isinstance(config.train.optimizer, AdamW)
    assert config.model.input_size == (96, 96)
    assert config.model.pretrained is False


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "full.yaml"
    path.write_text(FULL)
    config = load_config(path, ["train.epochs=3"])
    assert load_config(str(path), ["train.epochs=3"]) == config
    assert config.train.epochs == 3
    assert config.model.input_size == (64, 80)
    assert config.model.head["decoder"] == {"name": "top_down", "width": 8}  # type: ignore[index]


@pytest.mark.parametrize(
    "name", ["../../x", "/x", "a/b", "a\\b", "", ".", "..", " ", "a ", "a\nb", "a\0b", "\ud800", "x" * 151, "é" * 76]
)
@pytest.mark.parametrize("schema", [Config, PretrainConfig, SweepConfig])
def test_a_name_is_that_of_one_folder(name: str, schema: type[Recipe]) -> None:
    fields = {"name": name}
    with pytest.raises(ValidationError) as caught:
        schema.model_validate(fields)
    (about_name,) = [error for error in caught.value.errors() if error["loc"] == ("name",)]
    assert about_name["type"] == "folder_name"


@pytest.mark.parametrize("name", ["a (2)", "x" * 150, ".hidden", "visage é", "a.b", "-"])
def test_names_that_a_folder_can_have(name: str) -> None:
    assert load_config({**BASE, "name": name}).name == name


@pytest.mark.parametrize("key", ["data.root", "data.train", "data.val", "model.pretrained", "data.train.file"])
def test_an_empty_path_is_not_the_working_folder(key: str) -> None:
    with pytest.raises(KpnetError, match=key):
        load_config(BASE, [f'{key}=""'])


@pytest.mark.parametrize("name", list_configs())
def test_shipped_recipes_load_by_name_and_by_path(name: str, tmp_path: Path) -> None:
    config = loader(name)(name)
    assert config.name == name
    path = tmp_path / "mine.yaml"
    path.write_text(config_text(name))
    assert loader(name)(path) == config


def test_the_recipes_are_those_of_the_checkout() -> None:
    files = {p.stem for p in (ROOT / "configs").glob("*.yaml")}
    assert set(list_configs()) == files
    assert "facial_heatmap" in files


@pytest.mark.parametrize("name", list_configs())
def test_yaml_round_trip(name: str, tmp_path: Path) -> None:
    path = tmp_path / "again.yaml"
    config = loader(name)(name)
    path.write_text(to_yaml(config))
    assert loader(name)(path) == config


def test_yaml_round_trip_of_everything(tmp_path: Path) -> None:
    first, second = tmp_path / "1.yaml", tmp_path / "2.yaml"
    first.write_text(FULL)
    # Text that looks like a number stays text.
    config = load_config(first, ['name="1e5"', 'data.skeleton=["1e5", "on", "3"]', "train.optimizer.lr=1e-5"])
    assert config.name == "1e5"
    second.write_text(to_yaml(config))
    assert load_config(second) == config


def test_a_typed_config_keeps_its_parts_and_what_was_set_in_it() -> None:
    train = TrainConfig(optimizer=SGD(lr=0.1), schedule=Cosine(), average=SWA())
    config = load_config(BASE).model_copy(update={"train": train})
    config.data.root = "elsewhere"
    for loaded in (load_config(config), load_config(config, ["name=other"])):
        assert loaded.train == train
        assert loaded.data.root == "elsewhere"


def test_a_freeze_beside_plateau_survives_its_yaml(tmp_path: Path) -> None:
    """`warmup`, which plateau does not take, is none that a run's own config would give."""
    config = load_config(BASE, ["train.freeze={until: 2}", "train.schedule=plateau"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    again = load_config(tmp_path / "config.yaml")
    assert again == config
    assert again.train.freeze is not None
    assert "warmup" not in again.train.freeze.model_fields_set


def test_a_config_and_a_mapping_are_left_alone() -> None:
    source = {"model": {"backbone": {"name": "a"}, "head": "b"}}
    config = load_config(source, ["model.backbone.x=1", "model.head.y=2"])
    assert source == {"model": {"backbone": {"name": "a"}, "head": "b"}}
    again = load_config(config, ["model.backbone.x=5"])
    assert (config.model.backbone, again.model.backbone) == ({"name": "a", "x": 1}, {"name": "a", "x": 5})
    assert load_config({"model": config.model}).model == config.model  # typed parts inside a mapping


# Overrides


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.epochs=7", "train.epochs", 7),
        ("train.optimizer.lr=1e-3", "train.optimizer.lr", 0.001),  # YAML 1.1 reads 1e-3 as text
        ("train.optimizer.lr=2E+1", "train.optimizer.lr", 20.0),
        ("train.optimizer.betas=[0.8, 0.9]", "train.optimizer.betas", None),
        ("trainer.limit_val_batches=5e-1", "trainer.limit_val_batches", 0.5),
        ("trainer.logger=false", "trainer.logger", []),
        ("model.input_size=64", "model.input_size", (64, 64)),
        ("model.input_size=[64, 80]", "model.input_size", (64, 80)),
        ("model.backbone=resnet18", "model.backbone", "resnet18"),
        ("model.head.stride=2", "model.head", {"name": "heatmap", "stride": 2}),  # a part given by its name alone
        ("model.head.loss.l1=2", "model.head", {"name": "heatmap", "loss": {"l1": 2}}),
        ("model.pretrained=weights.pt", "model.pretrained", "weights.pt"),
        ("train.schedule.warmup=0.1", "train.schedule.warmup", 0.1),  # of the default schedule
        ("train.average=ema", "train.average.decay", 0.99),
        ("train.average.decay=0.5", "train.average.decay", 0.5),
        ("train.clip_norm=", "train.clip_norm", None),
        ("data.train=100", "data.train", [TrainFile(file=100)]),
        ("data.root=a=b", "data.root", "a=b"),
    ],
)
def test_overrides(override: str, path: str, value: Any) -> None:
    source = {**BASE, "train": {"optimizer": {"name": "adam", "lr": 1}}} if "betas" in override else BASE
    place: Any = load_config(source, [override])
    for part in path.split("."):
        place = getattr(place, part)
    assert place == ((0.8, 0.9) if "betas" in override else value)
    assert type(place) is not int or isinstance(value, int)


def test_an_override_of_one_option_keeps_the_others() -> None:
    source = {**BASE, "train": {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.5}}}
    optimizer = load_config(source, ["train.optimizer.lr=3"]).train.optimizer
    assert optimizer.model_dump() == {"name": "sgd", "lr": 3, "momentum": 0.5, "nesterov": True, "weight_decay": 0}


def test_a_mapping_or_a_name_replaces_the_whole_part() -> None:
    source = {**BASE, "train": {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.5}, "schedule": "cosine"}}
    config = load_config(source, ["train.optimizer={name: adam, lr: 1}", "train.schedule=plateau"])
    assert config.train.optimizer == Adam(lr=1)
    assert (config.train.schedule.name, load_config(source).train.schedule.name) == ("plateau", "cosine")


def test_later_overrides_win() -> None:
    config = load_config(BASE, ["train.epochs=1", "train.epochs=2", "model.head=regression", "model.head.pool=avg"])
    assert config.train.epochs == 2
    assert config.model.head == {"name": "regression", "pool": "avg"}


@pytest.mark.parametrize("text", ["train.epochs", "=3", "train..epochs=3", ".=3", "train.=3"])
def test_malformed_overrides(text: str) -> None:
    assert f'override "{text}": expected key.path=value' in fails(text)


def test_an_override_into_what_is_no_mapping() -> None:
    assert '"epochs" holds 3, not a mapping' in fails("train.epochs=3", "train.epochs.x=1")
    assert ": not YAML: " in fails('name="a: b')


# Unknown keys and wrong types


@pytest.mark.parametrize(
    ("override", "unknown", "near"),
    [
        ("modle.backbone=x", "modle", "model"),
        ("model.bakbone=x", "model.bakbone", "backbone"),
        ("data.fromat=x", "data.fromat", "format"),
        ("train.epoch=3", "train.epoch", "epochs"),
        ("train.optimizer.weight_decy=1", "train.optimizer.weight_decy", "weight_decay"),
        ("train.optimizer={name: sgd, lr: 1, momentun: 1}", "train.optimizer.momentun", "momentum"),
        ("train.overfit={name: adam, lr: 1, bets: 1}", "train.overfit.bets", "betas"),
        ("train.schedule={name: cosine, warmup_epoch: 1}", "train.schedule.warmup_epoch", "warmup_epochs"),
        ("train.average.decy=1", "train.average.decy", "decay"),
        ("train.early_stopping.patienc=1", "train.early_stopping.patienc", "patience"),
    ],
)
def test_unknown_keys_name_the_nearest(override: str, unknown: str, near: str) -> None:
    source = {**BASE, "train": {"optimizer": {"name": "adamw", "lr": 1}}}
    assert f'unknown key "{unknown}" (did you mean "{near}"?); known here: ' in fails(override, source=source)


def test_options_of_another_kind_are_unknown() -> None:
    source = {**BASE, "train": {"optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.5}}}
    message = fails("train.optimizer.name=adam", source=source)
    assert 'unknown key "train.optimizer.momentum"; known here: betas, lr, name, weight_decay' in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.optimizer.lr=fast", "train.optimizer.lr: Input should be a valid number, .*, found 'fast'"),
        ("train.optimizer.lr=-1", "train.optimizer.lr: Input should be greater than 0, found -1"),
        (
            "train.optimizer.name=sgdd",
            'train.optimizer.name: unknown "sgdd" \\(did you mean "sgd"\\?\\); there are: sgd,',
        ),
        ("train.optimizer=sgd", '"train.optimizer.lr" is missing'),
        ("train.overfit=adam", '"train.overfit.lr" is missing'),
        ("train.schedule=cosin", 'train.schedule.name: unknown "cosin" \\(did you mean "cosine"'),
        ("train.schedule=3", "train.schedule: .*found 3"),
        ("train.epochs=1.5", "train.epochs: .*found 1.5"),
        ("train.epochs=0", "train.epochs: Input should be greater than 0, found 0"),
        ("train.average.decay=2", "train.average.decay: .*less than 1, found 2"),
        ("train=", "train: .*found None"),
        ("model.input_size=[64]", '"model.input_size.1" is missing'),
        ("model.input_size=-3", "model.input_size: Input should be greater than 0, found -3"),
        ("model.input_size=true", "model.input_size: .*found True"),
        ("model.std=[0.1, 0]", "model.std.1: Input should be greater than 0, found 0"),
        ("model.backbone=3", "model.backbone: Input should be a valid string, found 3"),
        ("data.skeleton=3", "data.skeleton: Input should be a valid string, found 3"),
        ("data.complete_only=perhaps", "data.complete_only: .*valid boolean.*found 'perhaps'"),
        ("name=5", "name: Input should be a valid string, found 5"),
    ],
)
def test_wrong_values_name_the_users_key(override: str, message: str) -> None:
    with pytest.raises(KpnetError, match=f"^config: {message}"):
        load_config(BASE, [override])
    fails(override)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, '"model" is missing'),
        ({"model": {"head": "x"}}, '"model.backbone" is missing'),
        ({"model": None}, "model: "),
        (dict([*BASE.items(), (1, 2)]), 'unknown key "1"'),
    ],
)
def test_bad_mappings(source: Any, message: str) -> None:
    assert message in fails(source=source)


# Bad files


def test_a_missing_file(tmp_path: Path) -> None:
    gone = tmp_path / "gone.yaml"
    assert f"{gone}: no such config file; kpnet's own are: demo, facial_heatmap" in fails(source=gone)
    assert 'unknown config "facial_heatmp" (did you mean "facial_heatmap"?)' in fails(source="facial_heatmp")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {backbone: [", ": not YAML"),
        ("a: 1\nb: c: d\n", ":2: not YAML"),
        ("- model", "expected a mapping with model: and data:, found list"),
        ("", "found NoneType"),
        ("model", "found str"),
        ("model: {backbone: a, head: b}\ntrain: {epochs: many}", ": train.epochs: "),
        ("model: !!python/object/apply:os.getcwd []", "not YAML"),  # and nothing is executed
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    found = fails(source=path)
    assert found.startswith(str(path))
    assert message in found


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(b"\x89PNG\xff\xfe")
    assert "not a text file" in fails(source=path)


def test_every_section_refuses_unknown_keys() -> None:
    """Also the sections that someone adds later."""

    def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
        return {model}.union(*(sections(sub) for sub in model.__subclasses__()))

    from kpnet.config.fields import StrictModel

    assert Config in sections(StrictModel)
    for section in sections(StrictModel):
        assert section.model_config.get("extra") == "forbid", section


@pytest.mark.parametrize(
    "override",
    [
        *("train.seed=-1", "train.seed=4294967296", "train.batch_size=1e30", f"train.epochs={10**30}"),
        *("train.optimizer={lr: .nan}", "train.optimizer={lr: .inf}", "train.optimizer={lr: 1e308}"),
        *("train.optimizer={lr: 1, weight_decay: .nan}", "train.optimizer={lr: 1, betas: [.nan, 0.9]}"),
        *("train.clip_norm=.inf", "train.freeze={warmup: .inf}", "data.train={file: a.csv, weight: .inf}"),
        *("model.input_size=8193", "model.input_size=[32, .inf]", f"model.in_channels={10**9}"),
        *("model.std=[.nan]", "model.mean=[.inf]", "model.box_scale=.nan", "data.crop={by: box, scale: .nan}"),
        f"model.num_keypoints={10**9}",
    ],
)
def test_numbers_that_nothing_can_compute_with(override: str) -> None:
    key = override.partition("=")[0]
    assert key in fails(override)


def test_paths_with_home_and_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FACES", "faces15")
    monkeypatch.delenv("UNSET", raising=False)
    (tmp_path / "my.yaml").write_text(config_text("facial_heatmap"))
    overrides = ["data.root=~/$FACES", "data.train=${FACES}/a.csv", "data.val=$UNSET/b.csv", "data.skeleton=~/s.yaml"]
    config = load_config("~/my.yaml", [*overrides, "model.pretrained=~/w.pth"])
    assert config.data.root == f"{tmp_path}/faces15"
    assert config.data.train[0].file == "faces15/a.csv"
    assert config.data.val == "$UNSET/b.csv"
    assert config.data.skeleton == f"{tmp_path}/s.yaml"
    assert config.model.pretrained == f"{tmp_path}/w.pth"


def test_a_file_in_utf_16(tmp_path: Path) -> None:
    """As `kpnet config NAME > my.yaml` writes it in PowerShell 5."""
    text = config_text("facial_heatmap")
    (tmp_path / "my.yaml").write_text(text, encoding="utf-16")
    assert load_config(tmp_path / "my.yaml") == load_config("facial_heatmap")

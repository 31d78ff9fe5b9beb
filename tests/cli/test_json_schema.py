"""The JSON schema that editors use: it takes what kpnet takes, and marks what kpnet refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from support.console import Run
from support.paths import ROOT
from support.recipes import TRAINED, loader

from kpnet.cli.json_schema import RECIPES, description, json_schema, option_texts, schema_text
from kpnet.config.loading import config_text, list_configs, load_as
from kpnet.config.sweep import SweepConfig
from kpnet.core.errors import KpnetError
from kpnet.core.registry import split_spec
from kpnet.core.validation import check_options
from kpnet.core.yaml import parse_yaml
from kpnet.data import DATASETS
from kpnet.data.base import COMMON_ARGUMENTS
from kpnet.experiments.sweep_space import load_sweep
from kpnet.heads import HEADS
from kpnet.heads.decoders import DECODERS

VALIDATORS = {command: jsonschema.Draft202012Validator(json_schema(command)) for command in RECIPES}


def read(text: str) -> Any:
    return parse_yaml(text, "YAML", "a config")


def marked(values: Any, command: str = "train") -> bool:
    """Whether the schema refuses it."""
    return not VALIDATORS[command].is_valid(values)


def refused(values: Any, command: str = "train") -> bool:
    """Whether kpnet refuses it: the config is built as far as its parts' options and its transforms."""
    from kpnet.core.skeleton import Skeleton
    from kpnet.data.transforms.augment import Augment
    from kpnet.models.build import build_model

    try:
        config = loader("facial_heatmap" if command == "train" else "pretrain_autoencoder")(values)
        Augment(config.data.transforms, Skeleton.from_names(["left", "right"]))
        if command == "train":
            name, options = split_spec(config.data.format, "data.format")
            check_options(DATASETS.find(name), options, name, COMMON_ARGUMENTS)
            if config.data.skeleton is not None:
                Skeleton.load(config.data.skeleton)
            build_model({**config.model.model_dump(), "num_keypoints": 3, "pretrained": False})
    except KpnetError:
        return True
    return False


def config(**sections: Any) -> dict[str, Any]:
    model = {"backbone": {"name": "conv_sandwich", "channels": [4, 8]}, "head": "heatmap", "input_size": 32}
    return {"model": {**model, **sections.pop("model", {})}, **sections}


@pytest.mark.parametrize("command", RECIPES)
def test_it_is_a_schema_and_the_committed_copy_is_up_to_date(command: str) -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema(command))
    held = (ROOT / "docs" / "reference" / "schema" / f"{command}.json").read_text(encoding="utf-8")
    assert held == schema_text(command), f"kpnet config --schema {command} > docs/reference/schema/{command}.json"


@pytest.mark.parametrize("name", list_configs())
def test_every_recipe_is_valid_and_a_misspelt_key_in_any_section_is_not(name: str) -> None:
    command = "train" if name in TRAINED else "pretrain"
    values = read(config_text(name))
    VALIDATORS[command].validate(values)
    for section in (values, *[values[key] for key in ("model", "data", "train")]):
        section["wrods"] = 1
        assert marked(values, command)
        del section["wrods"]
    assert marked(values, "pretrain" if command == "train" else "train")


SHORT: list[dict[str, Any]] = [
    config(model={"head": "regression"}),
    config(model={"head": {"name": "temporal", "head": {"name": "rle"}, "layer": "gru"}}),
    config(model={"head": {"name": "simcc", "decoder": "deconv"}}),
    config(model={"head": {"name": "heatmap", "decoder": {"name": "unet", "width": 4}, "temperature": "learned"}}),
    config(model={"backbone": "resnet18", "input_size": [32, 64], "pretrained": True}),
    config(model={"backbone": {"name": "resnet18", "drop_path_rate": 0.1}, "pretrained": "weights.pth"}),
    {"model": {"backbone": "conv_sandwich", "heads": {"a": "rle", "b": {"name": "heatmap", "stride": 2}}}},
    *[config(data={"train": given}) for given in ("a.csv", 50, {"file": "a.csv"}, ["a.csv", {"file": 9}], None)],
    config(data={"format": "synthetic", "val": 20, "skeleton": "facial15"}),
    config(data={"format": {"name": "pts", "index_base": 0}, "strict": True}),
    config(data={"train": {"file": "a.json", "format": {"name": "coco", "images": "pictures", "exif": None}}}),
    config(data={"skeleton": ["a", "b"]}),
    config(data={"skeleton": {"names": [1, 2], "pairs": [[1, 2]]}}),
    config(data={"transforms": ["HorizontalFlip", {"Affine": {"rotate": [-3, 3]}}, {"GaussianBlur": None}]}),
    config(data={"transforms": [{"OneOf": [{"GaussianBlur": {}}, "HorizontalFlip"]}]}),
    config(data={"transforms": [{"SomeOf": {"transforms": ["GaussianBlur", "HorizontalFlip"], "n": 1}}]}),
    config(train={"optimizer": {"lr": 1}, "schedule": "constant", "average": "swa", "freeze": True}),
    config(train={"optimizer": {"name": "sgd", "lr": 1, "momentum": 0}, "schedule": {"warmup": 0.1}, "freeze": False}),
    config(train={"schedule": {"name": "plateau"}, "average": {"decay": 0.9}, "freeze": {"until": 3}}),
    config(trainer={"precision": "auto", "logger": ["csv", {"name": "wandb", "project": "a"}], "devices": [0, 1]}),
    config(trainer={"precision": 16, "logger": None, "devices": -1, "limit_val_batches": 0, "val_check_interval": 0.5}),
]

WRONG: list[dict[str, Any]] = [
    config(modle={}),
    config(trainer={"plugins": []}),
    config(trainer={"precision": 12}),
    config(trainer={"logger": {"name": "csv", "folder": "a"}}),
    config(trainer={"accelerator": "tpu"}),
    config(model={"head": "heatmpa"}),
    config(data={"format": {"name": "pts", "index_bse": 0}}),
    config(data={"format": {"name": "pts", "index_base": 2}}),
    config(data={"format": {"name": "pts", "seed": 2}}),
    config(data={"format": {"name": "kaggle_csv", "exif": True}}),
    config(model={"head": {"name": "heatmap", "strid": 4}}),
    config(model={"head": {"name": "heatmap", "decoder": {"name": "unet", "rates": [1]}}}),
    config(model={"head": {"name": "heatmap", "loss": {"crossentropy": 1}}}),
    config(model={"head": {"name": "regression", "loss": {"cross_entropy": 1}}}),
    config(model={"head": "multi"}),
    config(model={"head": {"name": "temporal", "head": {"name": "simcc", "layer": "lstm"}}}),
    config(model={"heads": {"a": "rle"}}),  # head too
    config(model={"backbone": {"name": "conv_sandwich", "chanels": [8]}}),
    config(model={"backbone": {"channels": [8]}}),
    config(model={"input_size": [32, 32, 3]}),
    config(model={"input_size": 0}),
    config(data={"format": "kagle_csv"}),
    config(data={"skeleton": {"nmaes": ["a"]}}),
    config(data={"skeleton": ["a", 3]}),
    config(data={"train": [{"limit": 3}]}),
    config(data={"train": {"file": "a.csv", "wieght": 1}}),
    config(data={"transforms": ["HorizontalFlop"]}),
    config(data={"transforms": [{"HorizontalFlip": {}, "Affine": {}}]}),
    config(data={"transforms": [{"OneOf": ["ElasticTransform"]}]}),
    config(data={"transforms": [{"OneOf": {"transforms": ["GaussianBlur"], "n": 1}}]}),
    config(train={"optimizer": "adamw"}),  # needs lr
    config(train={"optimizer": {"lr": 0.1, "momentum": 0.9}}),  # adamw has none
    config(train={"optimizer": {"name": "sdg", "lr": 0.1}}),
    config(train={"schedule": {"factor": 0.1}}),
    config(train={"average": "emaa"}),
    config(train={"freeze": {"until": 0}}),
]


def test_every_short_form_that_kpnet_takes_is_valid() -> None:
    for values in SHORT:
        assert not refused(values), values
        VALIDATORS["train"].validate(values)


def test_what_kpnet_refuses_is_marked() -> None:
    for values in WRONG:
        assert refused(values), values
        assert marked(values), values


def test_a_pretraining() -> None:
    values = {"model": {"backbone": "mlp", "input_size": 16}, "data": {"images": "faces.npz", "val": None}}
    assert not refused(values, "pretrain")
    VALIDATORS["pretrain"].validate(values)
    bad: list[dict[str, Any]] = [{"train": {"maks": {}}}, {"train": {"mask": {"patch": 3}}}, {"data": {"root": "."}}]
    for wrong in bad:
        assert refused({**values, **wrong}, "pretrain")
        assert marked({**values, **wrong}, "pretrain")


def test_a_sweep(tmp_path: Path) -> None:
    text = (ROOT / "configs" / "sweeps" / "i2dl_grid.yaml").read_text()
    span = {"space": {"train.optimizer.lr": {"low": 1e-4, "high": 0.1, "log": True}}}
    good = [read(text), {"config": "demo", "method": "random", "trials": 3, **span}]
    for number, values in enumerate(good):
        VALIDATORS["sweep"].validate(values)
        (tmp_path / f"{number}.yaml").write_text(yaml.safe_dump(values))
        load_sweep(tmp_path / f"{number}.yaml")
        for wrong in ({"wrods": 1}, {"method": "grit"}, {"space": {"train.optimizer.lr": {"low": 1}}}):
            assert marked({**values, **wrong}, "sweep")
            with pytest.raises(KpnetError):
                load_as(SweepConfig, {**values, **wrong})


def test_every_part_has_its_options() -> None:
    models = json_schema()["$defs"]
    for kind, registry in (("head", HEADS), ("decoder", DECODERS)):
        for name in registry:
            part = models[f"{kind}.{name}"]
            assert part["description"]
            assert part["additionalProperties"] is False
            assert part["properties"]["name"] == {"const": name}


def test_every_key_of_the_yaml_says_what_it_is() -> None:
    for command in RECIPES:
        schema = json_schema(command)
        for name, model in {**schema["$defs"], "": schema}.items():
            if "." in name:
                continue
            for key, value in model.get("properties", {}).items():
                assert value.get("description"), f"{name}.{key}"


def test_the_command(kpnet: Run) -> None:
    assert json.loads(kpnet("config", "--schema").out) == json_schema("train")
    assert kpnet("config", "pretrain", "--schema").out == schema_text("pretrain")
    kpnet("config", "--schema", "pretrian").refused('"pretrian"', '"pretrain"')


class Base:
    """A base class.

    Args:
        loss: Weight of each
            loss term.
    """

    def __init__(self, *, loss: float = 1.0, stride: int = 4) -> None: ...


class Part(Base):
    """A part of one's own.

    It has two paragraphs.

    Args:
        stride (int): Pixels per cell: 4
            of the input's.

            A second paragraph.
        width: Channels.

    Raises:
        KpnetError: If `stride` is odd.
    """

    def __init__(self, *, width: int, **options: Any) -> None:
        """Build it.

        Args:
            width: Not this one, as the class has its own.
        """


def test_options_are_described_by_the_args_of_the_docstrings() -> None:
    texts = {"stride": "Pixels per cell: 4 of the input's.", "width": "Channels.", "loss": "Weight of each loss term."}
    texts["stride"] += " A second paragraph."
    assert option_texts(Part) == texts
    assert description(Part) == "A part of one's own.\n\nIt has two paragraphs."
    assert option_texts(int) == {}

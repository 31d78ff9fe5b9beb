"""`kpnet pretrain`: what it prints, the training that goes on from it; every bad input is one line and exit code 2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from support.console import Run
from support.stripes import CONV, pretraining, stripes

from kpnet.config.loading import load_config
from kpnet.config.pretraining import load_pretrain_config


@pytest.fixture
def values(tmp_path: Path) -> dict[str, Any]:
    return pretraining(tmp_path)


def test_the_command_and_the_training_that_goes_on_from_it(kpnet: Run, values: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    assert kpnet("pretrain", "--help")[0] == 0
    code, out, err = kpnet("pretrain", "mine.yaml", "train.epochs=1")
    assert (code, err) == (0, "")
    assert out.startswith("epoch   1/1  loss ")
    assert "mean squared error of the validation images" in out
    assert "the run is in runs/tiny: reconstructions.png, interpolations.png" in out
    assert "kpnet train CONFIG model.pretrained=runs/tiny" in out
    backbone = f"model.backbone={json.dumps(CONV)}"
    given = ["data.train=4", "data.val=2", "train.epochs=1", "model.input_size=16", "trainer.accelerator=cpu", backbone]
    code, out, err = kpnet("train", "demo", *given, "model.pretrained=runs/tiny", "--out", "next")
    assert (code, err) == (0, "")
    code, out, err = kpnet("train", "demo", *given[:-1], "model.pretrained=runs/tiny", "--out", "other")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "runs/tiny: holds the backbone conv_sandwich {channels: [8, 16], dropout: 0.1, norm: batch}" in err
    assert not (tmp_path / "other").exists()


def test_what_the_command_prints_of_masked_images(kpnet: Run, values: dict[str, Any], tmp_path: Path) -> None:
    values["model"]["method"] = "masked"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    code, out, err = kpnet("pretrain", "mine.yaml", "train.epochs=1")
    assert (code, err) == (0, "")
    measures = json.loads((tmp_path / "runs/tiny/final/training.json").read_text())
    error, mean = (f"{measures[key]:.5f}" for key in ("hidden_l1", "mean_image_l1"))
    assert f"mean absolute error of the validation images' hidden patches {error}, of their mean image {mean}\n" in out
    assert "the run is in runs/tiny: reconstructions.png, curves.png" in out


def test_one_validation_image_has_no_other_to_compare_with(kpnet: Run, values: dict[str, Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "stripes.npz", images=stripes(5))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    code, out, err = kpnet("pretrain", "mine.yaml", "train.epochs=1")
    assert (code, err) == (0, "")
    error = json.loads((tmp_path / "runs/tiny/final/training.json").read_text())["mse"]
    assert f"mean squared error of the validation images {error:.5f}\n" in out
    assert "the run is in runs/tiny: reconstructions.png, curves.png, metrics.csv, final/\n" in out
    assert not (tmp_path / "runs/tiny/interpolations.png").exists()


@pytest.mark.parametrize("name", ["pretrain_autoencoder", "pretrain_masked"])
def test_the_recipes_encoder_is_the_default_models_backbone(name: str) -> None:
    """Or the guide's two commands would not fit together."""
    assert load_pretrain_config(name).model.backbone == load_config("facial_heatmap").model.backbone


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.images=gone"], ["gone: no such file or folder"]),
        (["data.root=nowhere"], ["nowhere/stripes.npz", "no such"]),
        (["data.val=1.5"], ["data.val", "1.5"]),
        (["model.backbone=resnet81"], ['unknown backbone "resnet81"', "did you mean"]),
        (
            ["model.backbone=vit_small_patch14_dinov2", "model.input_size=28"],
            ["stride 14 cannot be brought to stride 1 by doubling"],
        ),
        (["model.backbone=mlp", "model.input_size=[16, 24]"], ["expected a square", "16x24"]),
        (["model.backbone=mlp"], ["model.decoder.width", "its mirror"]),
        (["model.backbone=mlp", "model.method=masked"], ["model.method: masked", "use method autoencoder"]),
        (["model.method=mae"], ["model.method", "autoencoder", "masked"]),
        (["model.head=heatmap"], ["a config of kpnet train, not of kpnet pretrain", "model.head"]),
        (["model.mean=[0.1, 0.2]"], ["model.mean: expected 1 value, found 2"]),
        (["train.mask={ratio: 0.01}"], ["train.mask", "give a smaller patch"]),
        (["train.mask={ratio: 1.0}"], ["train.mask.ratio", "less than 1"]),
        (["train.noise=-1"], ["train.noise", "-1"]),
        (["train.schedule=plateau", "data.val=null"], ["train.schedule", "data.val"]),
        (["train.epoch=3"], ['"train.epoch"', "epochs"]),
        (["trainer.acelerator=cpu"], ["acelerator", "accelerator"]),
        (["data.transforms=[{RandomCrop: {height: 64, width: 64, p: 1}}]"], ['transform "RandomCrop"']),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    kpnet: Run, values: dict[str, Any], tmp_path: Path, overrides: list[str], words: list[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    code, out, err = kpnet("pretrain", "mine.yaml", *overrides)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert all(word in err for word in words), err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_breaks_off_ends_the_training_by_its_name(
    kpnet: Run, values: dict[str, Any], tmp_path: Path, workers: int
) -> None:
    (tmp_path / "pictures").mkdir()
    for i, image in enumerate(stripes(40)):
        cv2.imwrite(str(tmp_path / "pictures" / f"{i:02d}.png"), cv2.resize(image, (64, 64)))
    broken = tmp_path / "pictures" / "39.png"
    broken.write_bytes(broken.read_bytes()[:60])
    values["data"] |= {"images": "pictures", "val": None, "workers": workers}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    code, _, err = kpnet("pretrain", "mine.yaml")
    assert (code, err.count("\n")) == (2, 1), err
    assert "39.png: the image is cut short" in err

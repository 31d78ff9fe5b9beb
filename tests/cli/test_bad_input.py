"""Bad recipes, weights and tables at the command line: one clear line and exit code 2."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import save_file
from support.console import Run
from support.marker import Marker

Tree = Callable[[Path], dict[str, bytes | None]]


# Bad recipes


BAD_OVERRIDES: list[tuple[list[str], list[str]]] = [
    (["train.optimizer.lr=fast"], ["tiny.yaml", "train.optimizer.lr", "'fast'", "number"]),
    (["train.epochs=0"], ["tiny.yaml", "train.epochs", "0"]),
    (["train.epochs=many"], ["tiny.yaml", "train.epochs", "'many'", "integer"]),
    (["train.lr=0.1"], ["tiny.yaml", '"train.lr"', "known here", "optimizer"]),
    (["trian.epochs=3"], ["tiny.yaml", '"trian"', '"train"']),
    (["train.epoch=3"], ["tiny.yaml", '"train.epoch"', '"epochs"']),
    (["train.optimizer.momentm=0.9", "train.optimizer.name=sgd"], ["momentm", '"momentum"']),
    (["train.optimizer={name: sgdd, lr: 1}"], ["train.optimizer", "sgdd", "sgd"]),
    (["train.schedule={name: step}"], ["train.schedule", "step", "one_cycle"]),
    (["train"], ['"train"', "key.path=value"]),
    (["model.head.name=heatmop"], ["unknown head", '"heatmop"', '"heatmap"']),
    (["model.head.strid=2"], ["heatmap", '"strid"', '"stride"']),
    (["model.backbone=resnet81"], ["unknown backbone", '"resnet81"', "resnet18"]),
    (["model.backbone.chanels=[8]"], ["conv_sandwich", '"chanels"', '"channels"']),
    (["model.backbone.norm=bach"], ["conv_sandwich", "norm", "'bach'", "'batch'"]),
    (["model.head.decoder=topdown"], ["unknown decoder", '"topdown"', '"top_down"']),
    (["model.head.loss={crossentropy: 1}"], ["unknown loss", '"crossentropy"', '"cross_entropy"']),
    (["model.head={name: regression, loss: {l3: 1}}"], ["unknown loss", '"l3"', "l1", "regression"]),
    (["data.format=kagle_csv"], ["unknown data format", '"kagle_csv"', '"kaggle_csv"']),
    (["data.transforms=[HorizontalFlop]"], ["data.transforms", '"HorizontalFlop"', '"HorizontalFlip"']),
    (["data.transforms=[{Affine: {rotat: 30}}]"], ["Affine", '"rotat"', '"rotate"']),
    (["data.transforms=[ElasticTransform]"], ["ElasticTransform", "not supported", "Affine"]),
    (["data.skeleton=facial51"], ["unknown skeleton", '"facial51"', '"facial15"']),
    (["model.input_size=[33, 32]"], ["model.input_size", "33x32", "multiples of 2", "32"]),
    (["model.head.stride=3"], ["model.input_size", "multiples of 3"]),
    (["model.head.stride=64"], ["stride 64", "2, 4"]),
    (["model.num_keypoints=5"], ["num_keypoints", "5", "3"]),
    (["model.pretrained=gone.safetensors"], ["gone.safetensors", "no such"]),
    (["model.pretrained=true"], ["conv_sandwich", "no published weights"]),
    (["data.root=gone"], ["gone/train.csv", "no such file"]),
    (["data.val=gone.csv"], ["gone.csv", "no such file"]),
    (["data.train=null"], ["data.train", "missing"]),
    (["trainer.acelerator=cpu"], ['"trainer.acelerator"', '"accelerator"']),
    (["trainer.precision=12"], ["trainer", "12", "32"]),
    (["trainer.max_epochs=3"], ["trainer", "max_epochs", "train.epochs"]),
    (["trainer.plugins=[os.system]"], ['unknown key "trainer.plugins"']),
    (["trainer.accelerator=tpu"], ["trainer.accelerator", "'tpu'", "'cpu'"]),
    (["trainer.check_val_every_n_epoch=0"], ["trainer.check_val_every_n_epoch", "greater than 0"]),
    (["trainer.val_check_interval=100000"], ["trainer.val_check_interval: 100000", "batches of an epoch"]),
    (["trainer.limit_train_batches=0.01"], ["trainer.limit_train_batches: 0.01", "batches is none"]),
    (["trainer={accelerator: cpu, devices: 10000}"], ["trainer.devices: 10000", "cores"]),
    (["trainer.logger=wnadb"], ["trainer.logger", "wnadb", "wandb"]),
]


@pytest.mark.parametrize(("overrides", "expected"), BAD_OVERRIDES, ids=lambda v: v[0] if isinstance(v, list) else None)
def test_bad_recipe(
    overrides: list[str], expected: list[str], kpnet: Run, recipe: Path, tmp_path: Path, tree: Tree
) -> None:
    before = tree(tmp_path)
    kpnet("train", recipe, *overrides).refused(*expected)
    assert tree(tmp_path) == before


def test_a_flip_without_pairs(kpnet: Run, recipe: Path, tmp_path: Path) -> None:
    override = "data.skeleton={names: [left_eye, right_eye, nose]}"
    done = kpnet("train", recipe, override, "data.transforms=[HorizontalFlip]")
    done.refused("HorizontalFlip", "pairs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["mapping"]),
        ("- 1", ["mapping", "list"]),
        ("model: [1, 2\ntrain: 3", ["tiny.yaml:", "not YAML"]),
        ("model: {backbone: conv_sandwich}", ["model.head", "missing"]),
        ("data: {}", ["model", "missing"]),
        ("model: {backbone: 3, head: heatmap}", ["model.backbone", "3"]),
    ],
)
def test_bad_yaml(text: str, expected: list[str], kpnet: Run, recipe: Path) -> None:
    recipe.write_text(text)
    kpnet("train", recipe).refused("tiny.yaml", *expected)


def test_yaml_runs_nothing(kpnet: Run, recipe: Path, tmp_path: Path) -> None:
    recipe.write_text(f"model: !!python/object/apply:os.mkdir ['{tmp_path / 'executed'}']")
    kpnet("train", recipe).refused("tiny.yaml", "not YAML")
    assert not (tmp_path / "executed").exists()


def test_missing_recipe(kpnet: Run) -> None:
    kpnet("train", "gone.yaml").refused("gone.yaml", "no such config file", "facial_heatmap")
    kpnet("train", "facial_heatmop").refused('"facial_heatmop"', '"facial_heatmap"')


def test_binary_recipe(kpnet: Run, recipe: Path) -> None:
    recipe.write_bytes(b"\xff\xfe\x00")
    kpnet("train", recipe).refused("tiny.yaml", "YAML")


# Bad weights


def test_weights_of_other_channels(kpnet: Run, recipe: Path, tmp_path: Path) -> None:
    save_file(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.safetensors")
    arguments = ["model.backbone=resnet18", "model.in_channels=2", "model.pretrained=resnet18.safetensors"]
    kpnet("train", recipe, *arguments).refused("resnet18.safetensors", "(64, 3, 7, 7)", "(64, 2, 7, 7)")
    assert not (tmp_path / "runs").exists()


def test_weights_that_would_execute(kpnet: Run, recipe: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    pickle.loads(pickle.dumps(Marker(marker)))
    marker.rmdir()  # it does
    torch.save({"state_dict": Marker(marker)}, tmp_path / "evil.pth")
    kpnet("train", recipe, "model.pretrained=evil.pth").refused("evil.pth", "refused and not run", "safetensors")
    assert not marker.exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["evaluate", "predict"])
@pytest.mark.parametrize("damage", ["truncated", "corrupt", "evil", "gone", "no config"])
def test_bad_model_files(command: str, damage: str, kpnet: Run, run_copy: Path, data: Path, tmp_path: Path) -> None:
    path = run_copy / "final" / "model.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "corrupt":
        path.write_bytes(b"\0" * 1000)
    elif damage == "evil":
        path.write_bytes(pickle.dumps(Marker(tmp_path / "executed")))
    elif damage == "gone":
        path.unlink()
    else:
        path = run_copy / "final" / "model.yaml"
        path.unlink()
    expected = {"gone": ("runs/tiny", "best"), "no config": ("model.yaml",)}.get(damage, (str(path.name), "corrupt"))
    kpnet(command, "runs/tiny", data / "val.csv").refused(*expected)
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "predictions").exists()


def test_no_run(kpnet: Run, tmp_path: Path, data: Path) -> None:
    for command in ("evaluate", "predict"):
        kpnet(command, "nowhere", data / "val.csv").refused("nowhere", "no such run")
        kpnet(command, data, data / "val.csv").refused("data", "model.safetensors")


# Bad tables


def change(row: int, column: int, value: str) -> Callable[[list[str]], list[str]]:
    """Another cell: rows count from 0 (the header), the last column is the image."""

    def apply(lines: list[str]) -> list[str]:
        cells = lines[row].split(",")
        cells[column] = value
        return [*lines[:row], ",".join(cells), *lines[row + 1 :]]

    return apply


def change_pixels(row: int, edit: Callable[[list[str]], list[str]]) -> Callable[[list[str]], list[str]]:
    def apply(lines: list[str]) -> list[str]:
        head, _, image = lines[row].rpartition(",")
        return [*lines[:row], head + "," + " ".join(edit(image.split())), *lines[row + 1 :]]

    return apply


BAD_TABLES: dict[str, tuple[Callable[[list[str]], list[str]], list[str]]] = {
    "no Image column": (lambda lines: [lines[0].replace("Image", "image"), *lines[1:]], ["no Image column", '"image"']),
    "no Image at all": (lambda lines: [line.rpartition(",")[0] for line in lines], ["no Image column"]),
    "a pixel less": (change_pixels(3, lambda p: p[:-1]), ["line 4", "1023", "1024"]),
    "a pixel less in the first row": (change_pixels(1, lambda p: p[:-1]), ["line 2", "1023", "1024 = 32 × 32"]),
    "a pixel more": (change_pixels(8, lambda p: [*p, "1"]), ["line 9", "1025", "1024"]),
    "no pixels": (change(2, 6, ""), ["line 3", "0", "1024"]),
    "not a number": (change_pixels(2, lambda p: [*p[:4], "x7", *p[5:]]), ["line 3", '"x7"', "0 to 255"]),
    "a fraction": (change_pixels(2, lambda p: [*p[:4], "1.5", *p[5:]]), ["line 3", '"1.5"', "0 to 255"]),
    "over 255": (change_pixels(5, lambda p: ["256", *p[1:]]), ["line 6", '"256"', "0 to 255"]),
    "below 0": (change_pixels(5, lambda p: ["-1", *p[1:]]), ["line 6", '"-1"', "0 to 255"]),
    "x without y": (change(0, 1, "left_eye_why"), ["left_eye_x", "left_eye_y"]),
    "a word for a coordinate": (change(4, 0, "left"), ["line 5", "left_eye_x", '"left"']),
    "infinity for a coordinate": (change(4, 3, "inf"), ["line 5", "right_eye_y", '"inf"']),
    "a cell more": (change(4, 0, "1,2"), ["line 5", "cells: expected 7", "found 8"]),
    "a cell less": (lambda lines: [lines[0], lines[1].partition(",")[2]], ["line 2", "cells: expected 7", "found 6"]),
    "empty": (lambda lines: [], ["empty"]),
    "header alone": (lambda lines: lines[:1], ["no rows"]),
    "a column twice": (change(0, 1, "left_eye_x"), ["left_eye_x", "2 times"]),
    "a misspelt point": (lambda lines: [lines[0].replace("nose", "nase"), *lines[1:]], ['"nose"', '"nase"']),
    "another file": (lambda lines: ["\x89PNG\r\n\x1a\n\0\0"], ["Image"]),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_table(name: str, kpnet: Run, recipe: Path, data: Path, tmp_path: Path) -> None:
    edit, expected = BAD_TABLES[name]
    path = data / "train.csv"
    lines = edit(path.read_text().splitlines())
    path.write_text("".join(line + "\n" for line in lines))
    kpnet("train", recipe).refused("train.csv", *expected)
    assert not (tmp_path / "runs").exists()


def test_bad_table_to_evaluate_and_predict(kpnet: Run, run_copy: Path, data: Path, tmp_path: Path) -> None:
    path = data / "val.csv"
    path.write_text("\n".join(change_pixels(2, lambda p: p[:-1])(path.read_text().splitlines())))
    kpnet("evaluate", "runs/tiny", path).refused("val.csv, line 3", "1023")
    kpnet("predict", "runs/tiny", path).refused("val.csv, line 3", "1023")
    assert not (tmp_path / "predictions").exists()


def test_evaluate_without_labels(kpnet: Run, run_copy: Path, data: Path) -> None:
    lines = (data / "val.csv").read_text().splitlines()
    (data / "test.csv").write_text("\n".join(line.rpartition(",")[2] for line in lines))
    kpnet("evaluate", "runs/tiny", data / "test.csv").refused("no labelled point")
    kpnet("evaluate", "runs/tiny", "gone.csv").refused("gone.csv", "no such file")


def test_nothing_measured_is_null_in_json(kpnet: Run, run_copy: Path, data: Path) -> None:
    """A point that no image has: strict JSON, which knows no NaN."""
    table = pd.read_csv(data / "val.csv")
    table[["nose_x", "nose_y"]] = np.nan
    table.to_csv(data / "noseless.csv", index=False)

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    done = kpnet("evaluate", "runs/tiny", data / "noseless.csv", "--json")
    measures = json.loads(done.out, parse_constant=no_constant)
    assert measures["per_point"]["nose"] == {"rmse_px": None, "mre_px": None, "pck@5%": None, "points": 0}
    assert measures["points"] == 10

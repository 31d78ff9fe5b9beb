"""The command line, in this process: what it prints and writes; every bad input is one clear line and exit code 2."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import timm
import torch
import yaml
from recipes import loader
from safetensors.torch import save_file

from kpnet import cli, load_model
from kpnet.calibration import fit_calibration
from kpnet.config import config_text, list_configs, load_config
from kpnet.data import KaggleCSV
from kpnet.engine.evaluation import answer_dataset

Tree = Callable[[Path], dict[str, bytes | None]]


@dataclass
class Result:
    code: int
    out: str
    err: str

    def refused(self, *expected: str) -> None:
        """Exit code 2 and one line on stderr with all of `expected`."""
        assert self.code == 2, self
        assert self.out == ""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("kpnet: ")
        assert "Traceback" not in self.err
        for word in expected:
            assert word in self.err, f"{word!r} is not in {self.err!r}"


Run = Callable[..., Result]


@pytest.fixture
def kpnet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """`kpnet("train", path, …)` as the console command does it, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["kpnet", *map(str, arguments)])
        capsys.readouterr()
        code: Any = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def recipe(tiny: dict[str, Any], tmp_path: Path) -> Path:
    """tiny.yaml"""
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny, sort_keys=False))
    return path


@pytest.fixture
def run_copy(trained: Path, tmp_path: Path) -> Path:
    """A finished run that a test may change."""
    import shutil

    return Path(shutil.copytree(trained, tmp_path / "runs" / "tiny"))


class Marker:
    """A pickle of it makes a folder when it is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


# The main job


def test_train_evaluate_predict(kpnet: Run, recipe: Path, data: Path, tmp_path: Path) -> None:
    done = kpnet("train", recipe, "train.optimizer.lr=5e-3", "train.average={name: ema, decay: 0.5}", "--out", "run")
    assert (done.code, done.err) == (0, "")
    assert "final model on the validation data: 5 images, 15 points" in done.out
    run = tmp_path / "run"
    files = {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file() and p.parent.name != "tensorboard"}
    model = {"model.safetensors", "model.yaml", "training.json"}
    assert files == {
        *(f"{kind}/{name}" for kind in ("best", "final") for name in model),
        *("config.yaml", "metrics.csv", "last.ckpt", "predictions.png", "curves.png"),
    }
    assert list((run / "tensorboard").glob("events*"))
    assert all(cv2.imread(str(run / name)) is not None for name in ("predictions.png", "curves.png"))
    rows = pd.read_csv(run / "metrics.csv")
    assert list(rows.epoch) == [0, 1]
    assert list(rows.step) == [2, 4]
    assert np.isfinite(rows[["train_loss", "val_loss", "val_score", "val_rmse_px", "lr"]]).all(axis=None)
    resolved = load_config(run / "config.yaml")
    assert resolved.train.optimizer.lr == 5e-3
    assert resolved.model.num_keypoints == 3
    assert resolved == load_config(
        load_config(
            recipe, ["train.optimizer.lr=5e-3", "train.average={name: ema, decay: 0.5}", "model.num_keypoints=3"]
        )
    )

    shown = kpnet("evaluate", "run", "--json")
    assert (shown.code, shown.err) == (0, "")
    measures = json.loads(shown.out)
    assert f"{measures['score']:.2f}" in done.out
    assert measures["score"] == pytest.approx(rows.val_score.iloc[-1], rel=1e-4)
    assert measures["per_point"].keys() == {"left_eye", "right_eye", "nose"}
    same = json.loads(kpnet("evaluate", "run", data / "val.csv", "--json").out)
    assert same == measures
    best = json.loads(kpnet("evaluate", "run/best", "--json").out)
    assert best["score"] == pytest.approx(rows.val_score.max(), rel=1e-4)
    table = kpnet("evaluate", "run")
    assert "right_eye" in table.out
    assert "below the course's 100" in table.out

    assert kpnet("predict", "run", data / "val.csv", "--out", "answer").code == 0
    answer = pd.read_csv(tmp_path / "answer" / "predictions.csv")
    assert list(answer.columns) == ["image", "instance", "name", "x", "y", "confidence"]
    assert len(answer) == 15
    truth = pd.read_csv(data / "val.csv").drop(columns="Image").to_numpy().reshape(15, 2)
    rmse = np.sqrt(((answer[["x", "y"]].to_numpy() - truth) ** 2).mean())
    assert rmse == pytest.approx(measures["rmse_px"], abs=1e-3)


def test_evaluate_with_views_a_second_run_and_a_decoding(kpnet: Run, run_copy: Path, tmp_path: Path) -> None:
    def score(*options: object) -> float:
        done = kpnet("evaluate", run_copy, *options, "--json")
        assert (done.code, done.err) == (0, "")
        return float(json.loads(done.out)["score"])

    plain = score()
    assert score("--with", run_copy) == pytest.approx(plain)  # with itself
    for options in (["--flip-test"], ["--scales", "0.9,1.1"], ["--shift", "2"], ["--decoding", "dark"]):
        assert score(*options) != pytest.approx(plain)
    done = kpnet("evaluate", run_copy, "--plot", tmp_path / "true.png")
    assert done.code == 0
    assert "in the 90 % ellipse" in done.out
    assert cv2.imread(str(tmp_path / "true.png")) is not None
    assert "of the diagonal of the image" in kpnet("evaluate", run_copy, "--nme", "diagonal").out
    assert "left_eye to nose" in kpnet("evaluate", run_copy, "--nme", "left_eye,nose").out
    kpnet("evaluate", run_copy, "--nme", "left_eye,noze").refused('"noze"', "nose")
    kpnet("evaluate", run_copy, "--scales", "big").refused("--scales: expected numbers", '"big"')
    kpnet("evaluate", run_copy, "--scales", "0").refused("scales: expected positive numbers")
    kpnet("evaluate", run_copy, "--shift", "-1").refused("shift: expected a number of pixels of at least 0")
    kpnet("evaluate", run_copy, "--decoding", "darc").refused('head "heatmap": decoding', "'darc'")
    assert kpnet("predict", run_copy, run_copy / "predictions.png", "--flip-test", "--out", tmp_path / "p").code == 0


def test_calibrate(kpnet: Run, run_copy: Path, make_csv: Callable[[int, int], str], tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text(make_csv(40, 5))
    done = kpnet("calibrate", run_copy, tmp_path / "more.csv")
    assert (done.code, done.err) == (0, "")
    assert "calibrated on 120 points" in done.out
    model = load_model(run_copy)
    saved, model.calibration = model.calibration, None
    result = answer_dataset(model, KaggleCSV(tmp_path / "more.csv", skeleton=model.skeleton))
    assert saved == fit_calibration(result.answer, result.target, result.visible, model.config.input_size)
    again = kpnet("calibrate", run_copy, tmp_path / "more.csv")  # of the model's own spread, not of the calibrated
    assert again.out == done.out
    data = Path(load_config(run_copy / "config.yaml").data.root)
    kpnet("calibrate", run_copy, data / "train.csv").refused("train.csv", "was trained on it", "split of its own")
    kpnet("calibrate", run_copy, data / "val.csv").refused("val.csv", "was validated with it")
    (tmp_path / "few.csv").write_text(make_csv(4, 6))
    kpnet("calibrate", run_copy, tmp_path / "few.csv").refused("at least 50 labelled points, found 12")


def test_same_seed_same_weights_and_force(kpnet: Run, recipe: Path, run_copy: Path) -> None:
    """--force starts anew; the same recipe gives the same weights."""
    before = load_model(run_copy).state_dict()
    (run_copy / "old.txt").write_text("of the run before")
    (run_copy / "final" / "model.safetensors").unlink()
    assert kpnet("train", recipe, "--force").code == 0
    assert not (run_copy / "old.txt").exists()
    after = load_model(run_copy).state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_resume_of_a_finished_run_changes_no_weight(kpnet: Run, recipe: Path, run_copy: Path, data: Path) -> None:
    before = load_model(run_copy).state_dict()
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    config["data"]["root"] = str(data)
    (run_copy / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    done = kpnet("train", recipe, "--resume")
    assert done.code == 0, done.err
    after = load_model(run_copy).state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


# Runs that exist


def test_an_existing_run_is_kept(kpnet: Run, recipe: Path, run_copy: Path, tree: Tree) -> None:
    before = tree(run_copy)
    kpnet("train", recipe).refused("runs/tiny", "--force", "--resume")
    assert tree(run_copy) == before


def test_force_deletes_no_folder_that_is_no_run(kpnet: Run, recipe: Path, tmp_path: Path, tree: Tree) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    before = tree(tmp_path)
    kpnet("train", recipe, "--force", "--out", "thesis").refused("thesis", "no run", "--out")
    assert tree(tmp_path) == before


def test_force_with_bad_data_keeps_the_run(kpnet: Run, recipe: Path, run_copy: Path, tree: Tree) -> None:
    before = tree(run_copy)
    kpnet("train", recipe, "--force", "data.train=gone.csv").refused("gone.csv")
    assert tree(run_copy) == before


def test_resume_and_force_together_keep_the_run(kpnet: Run, recipe: Path, run_copy: Path, tree: Tree) -> None:
    before = tree(run_copy)
    kpnet("train", recipe, "--force", "--resume").refused("--force", "--resume")
    assert tree(run_copy) == before


def test_resume_without_a_run(kpnet: Run, recipe: Path, tmp_path: Path) -> None:
    kpnet("train", recipe, "--resume", "--out", "nothing").refused("nothing", "last.ckpt", "without --resume")
    assert not (tmp_path / "nothing").exists()


def test_resume_with_another_recipe(kpnet: Run, recipe: Path, run_copy: Path, tree: Tree) -> None:
    before = tree(run_copy)
    kpnet("train", recipe, "--resume", "train.batch_size=3").refused("config.yaml", "train.batch_size: 4 is now 3")
    assert tree(run_copy) == before


def test_resume_with_the_keys_in_another_order(kpnet: Run, recipe: Path, run_copy: Path, data: Path) -> None:
    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    config["data"]["root"] = str(data)
    (run_copy / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    recipe.write_text(yaml.safe_dump(yaml.safe_load(recipe.read_text()), sort_keys=True))
    assert kpnet("train", recipe, "--resume").code == 0


@pytest.mark.parametrize("kind", ["evil", "text", "half"])
def test_resume_from_a_bad_checkpoint(
    kind: str, kpnet: Run, recipe: Path, run_copy: Path, data: Path, tmp_path: Path
) -> None:
    config = (
        (run_copy / "config.yaml").read_text().replace(str(load_config(run_copy / "config.yaml").data.root), str(data))
    )
    (run_copy / "config.yaml").write_text(config)
    checkpoint, final = run_copy / "last.ckpt", (run_copy / "final" / "model.safetensors").read_bytes()
    if kind == "evil":
        torch.save({"state_dict": Marker(tmp_path / "executed")}, checkpoint)
    else:
        checkpoint.write_bytes(b"not a checkpoint" if kind == "text" else checkpoint.read_bytes()[:5000])
    kpnet("train", recipe, "--resume").refused("last.ckpt", "not a checkpoint")
    assert not (tmp_path / "executed").exists()
    assert (run_copy / "final" / "model.safetensors").read_bytes() == final


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
    (["model.head.stride=3"], ["stride 3"]),
    (["model.head.stride=64"], ["stride 64", "2, 4"]),
    (["model.num_keypoints=5"], ["num_keypoints", "5", "3"]),
    (["model.pretrained=gone.safetensors"], ["gone.safetensors", "no such"]),
    (["model.pretrained=true"], ["conv_sandwich", "no published weights"]),
    (["data.root=gone"], ["gone/train.csv", "no such file"]),
    (["data.val=gone.csv"], ["gone.csv", "no such file"]),
    (["data.train=null"], ["data.train", "missing"]),
    (["trainer.acelerator=cpu"], ['"acelerator"', '"accelerator"']),
    (["trainer.precision=12"], ["trainer", "12", "32"]),
    (["trainer.max_epochs=3"], ["max_epochs", "train.epochs"]),
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
    "a cell more": (change(4, 0, "1,2"), ["line 5", "8 cells", "7"]),
    "a cell less": (lambda lines: [lines[0], lines[1].partition(",")[2]], ["line 2", "6 cells", "7"]),
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


# Full and read-only disks


def test_out_beneath_a_file(kpnet: Run, recipe: Path, trained: Path, data: Path, tmp_path: Path, tree: Tree) -> None:
    before = tree(tmp_path)
    kpnet("train", recipe, "--out", recipe / "run").refused("tiny.yaml", "Not a directory")
    kpnet("predict", trained, data / "val.csv", "--out", recipe / "answer").refused("tiny.yaml", "Not a directory")
    assert tree(tmp_path) == before


class FullDisk:
    """`Path.write_bytes` fills the disk at a file whose name holds `at`, from the nth time on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: str, nth: int = 1) -> None:
        self.at, self.left, self.write = at, nth, Path.write_bytes
        monkeypatch.setattr(Path, "write_bytes", lambda path, content: self(path, content))

    def __call__(self, path: Path, content: bytes) -> int:
        self.left -= self.at in path.name
        if self.left > 0 or self.at not in path.name:
            return self.write(path, content)
        self.write(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")


def test_full_disk_at_the_start(kpnet: Run, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FullDisk(monkeypatch, "")
    kpnet("train", recipe).refused("runs/tiny/config.yaml", "No space left")
    assert not [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]


def test_full_disk_in_the_second_epoch(
    kpnet: Run, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FullDisk(monkeypatch, "metrics.csv", nth=2)
    done = kpnet("train", recipe)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "metrics.csv" in done.err
    assert "No space left" in done.err
    run = tmp_path / "runs" / "tiny"
    assert list(pd.read_csv(run / "metrics.csv").epoch) == [0]
    assert not list(run.rglob("*.part"))
    load_model(run / "best")
    assert kpnet("evaluate", "runs/tiny").code == 2  # it has no final model yet
    monkeypatch.undo()


def test_full_disk_inside_the_checkpoint(
    kpnet: Run, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's own writing; its error does not name a file."""
    from lightning.pytorch import Trainer

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Trainer, "save_checkpoint", full)
    done = kpnet("train", recipe)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "runs/tiny" in done.err
    assert "No space left" in done.err


def test_full_disk_at_predict(
    kpnet: Run, trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FullDisk(monkeypatch, "predictions.csv")
    kpnet("predict", trained, data / "val.csv").refused("predictions/predictions.csv", "No space left")
    assert not [p for p in (tmp_path / "predictions").rglob("*") if p.is_file()]


# Training that goes wrong

DIVERGING = [
    "train.optimizer={name: sgd, lr: 0.3, momentum: 0.0}",
    "train.schedule={name: constant}",
    "model.head={name: regression, activation: none, loss: {mse: 1.0}}",
    "model.backbone.norm=none",
]


def test_a_loss_that_is_not_finite(kpnet: Run, recipe: Path, tmp_path: Path) -> None:
    done = kpnet("train", recipe, *DIVERGING, "train.epochs=60", "train.optimizer.lr=1e12")
    assert done.code == 2
    assert done.err.count("\n") == 1
    for word in ("not finite", "epoch", "step", "train.optimizer.lr", "train.clip_norm"):
        assert word in done.err
    assert not (tmp_path / "runs" / "tiny" / "final").exists()
    assert not list((tmp_path / "runs").rglob("*.part"))


def test_a_late_divergence_keeps_the_best_model(kpnet: Run, recipe: Path, tmp_path: Path) -> None:
    # A warm-up: the first epoch hardly moves, later ones explode.
    schedule = "train.schedule={name: cosine, warmup_epochs: 30}"
    done = kpnet("train", recipe, *DIVERGING, "train.epochs=40", "train.optimizer.lr=1.0", schedule)
    assert done.code == 2, done.err
    assert "not finite" in done.err
    best = json.loads((tmp_path / "runs" / "tiny" / "best" / "training.json").read_text())
    rows = pd.read_csv(tmp_path / "runs" / "tiny" / "metrics.csv")
    assert len(rows) >= 1
    assert best["val_score"] == pytest.approx(rows.val_score.max())
    model = load_model(tmp_path / "runs" / "tiny" / "best")
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert kpnet("train", recipe).code == 2  # it exists
    kpnet("evaluate", "runs/tiny").refused("not ended", "--resume", "best")


def test_a_saturated_run_warns_and_goes_on(kpnet: Run, recipe: Path, tmp_path: Path) -> None:
    settings = [*DIVERGING, "model.head.activation=tanh", "train.optimizer.lr=30", "train.epochs=3"]
    done = kpnet("train", recipe, *settings)
    assert done.code == 0, done.err
    text = " ".join((done.out + done.err).split())
    assert "saturated" in text
    assert "train.optimizer.lr than 30" in text
    assert len(pd.read_csv(tmp_path / "runs" / "tiny" / "metrics.csv")) == 3


def test_a_healthy_run_does_not_warn(kpnet: Run, recipe: Path, data: Path, make_csv: Callable[[int, int], str]) -> None:
    (data / "train.csv").write_text(make_csv(240, 0))
    settings = ["train.optimizer.lr=0.01", "train.schedule={name: constant}", "data.val=null"]
    done = kpnet("train", recipe, *settings, "model.head.loss={cross_entropy: 1.0, l1: 1.0}")
    assert done.code == 0, done.err
    assert "saturated" not in done.out + done.err


def test_momentum_one_is_allowed(kpnet: Run, recipe: Path) -> None:
    settings = "train.optimizer={name: sgd, lr: 1.0e-4, momentum: 1.0}"
    assert kpnet("train", recipe, settings, "train.epochs=1").code == 0
    kpnet("train", recipe, "train.optimizer={name: sgd, lr: 1, momentum: -1}", "--out", "x").refused("momentum", "-1")


# The sanity check


def test_overfit(kpnet: Run, recipe: Path, tmp_path: Path, tree: Tree) -> None:
    before = tree(tmp_path)
    done = kpnet("train", recipe, "--overfit", "1", "train.overfit={name: adam, lr: 0.02}")
    assert (done.code, done.err) == (0, "")
    assert done.out.lstrip().startswith("pass: ")
    failed = kpnet("train", recipe, "--overfit", "2", "train.overfit={name: sgd, lr: 1.0e-9}")
    assert failed.code == 1
    assert failed.out.lstrip().startswith("FAIL: ")
    assert "lr" in failed.out
    assert tree(tmp_path) == before


def test_overfit_of_too_many(kpnet: Run, recipe: Path, tmp_path: Path) -> None:
    kpnet("train", recipe, "--overfit", "9").refused("--overfit 9", "1 to 8")
    assert kpnet("train", recipe, "--overfit", "0").code == 2
    assert not (tmp_path / "runs").exists()


# Pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of four pictures of different sizes, the second of which is none."""
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in {"a.png": (64, 48), "c.jpg": (30, 90), "more/d.png": (32, 32)}.items():
        cv2.imwrite(str(folder / name), rng.integers(0, 255, (*size, 3), dtype=np.uint8))
    (folder / "b.png").write_text("not a picture")
    (folder / "notes.txt").write_text("left alone")
    return folder


def test_a_picture_that_is_none(kpnet: Run, trained: Path, pictures: Path, tmp_path: Path) -> None:
    done = kpnet("predict", trained, "pictures")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("kpnet: pictures/b.png: not a picture")
    assert "Traceback" not in done.err
    assert done.out.startswith("3 image(s)")
    table = pd.read_csv(tmp_path / "predictions" / "predictions.csv")
    assert list(table.image.unique()) == ["pictures/a.png", "pictures/c.jpg", "pictures/more/d.png"]
    assert (table.groupby("image").size() == 3).all()


def test_only_bad_pictures(kpnet: Run, trained: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, expected in (
        (["pictures/b.png"], ["pictures/b.png", "not a picture"]),
        (["pictures/gone.png"], ["pictures/gone.png", "no such file"]),
        (["pictures/a.png", "gone"], ["gone", "no such file"]),
        (["empty"], ["empty", "no pictures"]),
    ):
        kpnet("predict", trained, *arguments, "--draw").refused(*expected)
    assert not (tmp_path / "predictions").exists()


def test_predictions_are_in_pixels_of_the_original(
    kpnet: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bright dot is the oracle, in two sizes and a CSV at once."""
    from kpnet.heads import Keypoints
    from kpnet.model import KeypointModel

    def brightest(self: KeypointModel, images: torch.Tensor, test_time: object = None) -> Keypoints:
        light, (height, width) = images.sum(1), images.shape[-2:]
        x = (light.sum(-2) * (2 * torch.arange(width) + 1)).sum(-1) / light.sum((-2, -1)) / width - 1
        y = (light.sum(-1) * (2 * torch.arange(height) + 1)).sum(-1) / light.sum((-2, -1)) / height - 1
        return Keypoints(torch.stack([x, y], -1)[:, None].expand(-1, 3, 2))

    monkeypatch.setattr(KeypointModel, "infer", brightest)
    places = {"small.png": ((20, 30), (12.0, 9.0), 2.0), "large.png": ((150, 100), (40.0, 90.0), 9.0)}
    for name, (size, (px, py), sigma) in places.items():
        y, x = np.mgrid[: size[0], : size[1]]
        blob = 250 * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2))
        cv2.imwrite(str(tmp_path / name), np.round(blob).astype(np.uint8))
    y, x = np.mgrid[:32, :32]
    pixels = np.round(250 * np.exp(-((x - 20) ** 2 + (y - 11) ** 2) / 8)).astype(int)
    (tmp_path / "test.csv").write_text("ImageId,Image\n7," + " ".join(map(str, pixels.ravel())) + "\n")
    inputs = ["large.png", "test.csv", "small.png", "large.png"]
    assert kpnet("predict", trained, *inputs, "--draw", "--out", "one").code == 0
    table = pd.read_csv(tmp_path / "one" / "predictions.csv")
    images = ["large.png", "test.csv:7", "small.png", "large.png"]
    assert list(table.image) == [image for image in images for _ in range(3)]
    wanted = np.repeat([places["large.png"][1], (20, 11), places["small.png"][1], places["large.png"][1]], 3, axis=0)
    assert np.abs(table[["x", "y"]].to_numpy() - wanted).max() < 0.1
    assert list(table.name[:3]) == ["left_eye", "right_eye", "nose"]
    drawn = {p.name for p in (tmp_path / "one").glob("*.png")}
    assert drawn == {"large.png", "test_7.png", "small.png", "large_2.png"}  # none is lost to another's name
    assert all(cv2.imread(str(tmp_path / "one" / name)) is not None for name in drawn)

    assert kpnet("predict", trained, *inputs, "--json", "--out", "two").code == 0
    records = json.loads((tmp_path / "two" / "predictions.json").read_text())
    assert records[0].keys() == {"image", "instance", "name", "x", "y", "confidence"}
    assert records[0]["confidence"] is None
    assert np.allclose([(r["x"], r["y"]) for r in records], table[["x", "y"]], atol=1e-3)
    assert {p.name for p in (tmp_path / "two").iterdir()} == {"predictions.json"}


def test_predict_a_table_with_other_points(kpnet: Run, trained: Path, data: Path, tmp_path: Path) -> None:
    text = (data / "val.csv").read_text()
    (data / "other.csv").write_text(text.replace("nose_", "chin_"))
    assert kpnet("predict", trained, data / "other.csv").code == 0
    assert set(pd.read_csv(tmp_path / "predictions" / "predictions.csv").name) == {"left_eye", "right_eye", "nose"}


# Recipes and networks


def test_config(kpnet: Run) -> None:
    names = kpnet("config")
    assert (names.code, names.err) == (0, "")
    assert names.out.split() == list_configs()
    assert {"demo", "facial_heatmap", "facial_regression", "facial_regression_i2dl"} <= set(names.out.split())
    text = kpnet("config", "facial_heatmap")
    assert (text.code, text.err) == (0, "")
    assert text.out == config_text("facial_heatmap")
    kpnet("config", "facial_heat").refused('"facial_heat"', '"facial_heatmap"', "demo")


@pytest.mark.parametrize("name", list_configs())
def test_every_recipe_is_commented_and_loads(name: str, kpnet: Run, tmp_path: Path) -> None:
    text = kpnet("config", name).out
    assert text.startswith("#")
    (tmp_path / "my.yaml").write_text(text)
    assert loader(name)(tmp_path / "my.yaml").name == name


def test_info(kpnet: Run, recipe: Path, trained: Path) -> None:
    model = load_model(trained)
    count = f"{sum(p.numel() for p in model.parameters()):,}"
    of_run = kpnet("info", trained)
    assert (of_run.code, of_run.err) == (0, "")
    assert count in of_run.out
    assert count in kpnet("info", recipe, "model.num_keypoints=3").out
    assert kpnet("info", "demo").code == 0
    kpnet("info", trained, "train.epochs=3").refused("overrides")
    kpnet("info", "gone.yaml").refused("gone.yaml")
    kpnet("info", recipe, "model.input_size=33").refused("33x33")


def test_help_is_quick_to_find(kpnet: Run) -> None:
    done = kpnet("--help")
    assert done.code == 0
    for command in ("train", "evaluate", "predict", "info", "config", "demo"):
        assert command in done.out
        assert kpnet(command, "--help").code == 0


def test_as_a_process(tmp_path: Path) -> None:
    """The installed command itself: exit code and one line."""
    command = Path(sys.executable).with_name("kpnet")
    done = subprocess.run([command, "evaluate", "nowhere"], capture_output=True, text=True, cwd=tmp_path)
    Result(done.returncode, done.stdout, done.stderr).refused("nowhere", "no such run")


@pytest.mark.slow
def test_demo(kpnet: Run, tmp_path: Path) -> None:
    done = kpnet("demo", "data.train=16", "data.val=4", "train.epochs=1", "trainer.accelerator=cpu")
    assert done.code == 0, done.err
    assert "kpnet predict runs/demo" in done.out
    again = kpnet("demo", "data.train=16", "data.val=4", "train.epochs=1", "trainer.accelerator=cpu")
    assert again.code == 0, again.err

"""The command line, in this process: training, evaluation and prediction, and runs that exist."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from support.console import Run
from support.marker import Marker

from kpnet import load_model
from kpnet.config.loading import load_config
from kpnet.data import KaggleCSV
from kpnet.evaluation.measurement import predict_dataset
from kpnet.models.calibration import fit_calibration

Tree = Callable[[Path], dict[str, bytes | None]]


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
        *("final/measures.json", "final/skeleton.png"),
        *(
            ".kpnet",
            ".kpnet.lock",
            "config.yaml",
            "images.json",
            "metrics.csv",
            "last.ckpt",
            "predictions.png",
            "curves.png",
        ),
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
    assert "the course's" not in table.out, "the course's pass mark is for facial15"

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
    result = predict_dataset(model, KaggleCSV(tmp_path / "more.csv", skeleton=model.skeleton))
    assert saved == fit_calibration(result.predicted, result.target, result.visible, model.config.input_size)
    again = kpnet("calibrate", run_copy, tmp_path / "more.csv")  # of the model's own spread, not of the calibrated
    assert again.out == done.out
    data = Path(load_config(run_copy / "config.yaml").data.root)
    same = shutil.copy(data / "train.csv", tmp_path / "other.csv")
    kpnet("calibrate", run_copy, same).refused("other.csv", "was trained on it", "images of their own")
    (tmp_path / "few.csv").write_text(make_csv(4, 6))
    kpnet("calibrate", run_copy, data / "val.csv").refused("at least 50 labelled points, found 15")
    kpnet("calibrate", run_copy, tmp_path / "few.csv").refused("at least 50 labelled points, found 12")


def test_same_seed_same_weights_and_force(kpnet: Run, recipe: Path, run_copy: Path) -> None:
    """--force starts anew; the same recipe gives the same weights."""
    before = load_model(run_copy).state_dict()
    (run_copy / "final" / "model.safetensors").unlink()
    assert kpnet("train", recipe, "--force").code == 0
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
    kpnet("train", recipe, "--force", "--out", "thesis").refused("thesis", "not a run folder", "--out")
    kpnet("train", recipe, "--force", "--out", ".").refused("not a run folder", "--out")
    assert tree(tmp_path) == before


def test_force_with_bad_data_keeps_the_run(kpnet: Run, recipe: Path, run_copy: Path, tree: Tree) -> None:
    before = tree(run_copy)
    kpnet("train", recipe, "--force", "data.train=gone.csv").refused("gone.csv")
    assert tree(run_copy) == before


def test_resume_and_force_together_keep_the_run(kpnet: Run, recipe: Path, run_copy: Path, tree: Tree) -> None:
    before = tree(run_copy)
    kpnet("train", recipe, "--force", "--resume").refused("--force", "--resume")
    assert tree(run_copy) == before


def test_resume_without_a_run_starts_it(kpnet: Run, recipe: Path, tmp_path: Path) -> None:
    done = kpnet("train", recipe, "train.epochs=1", "--resume", "--out", "new")
    assert done.code == 0, done
    assert "new: nothing to go on from yet, so the training starts" in done.out
    assert (tmp_path / "new" / "final").is_dir()


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

"""`kpnet guarantee`, and what the commands say and write of radii."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy import stats
from support.console import Run

from kpnet import Predictor, load_model
from kpnet.config.loading import load_config
from kpnet.data.images import letterbox

MakeCsv = Callable[[int, int], str]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "model")


@pytest.fixture
def held_out(make_csv: MakeCsv, tmp_path: Path) -> Path:
    (tmp_path / "held_out.csv").write_text(make_csv(40, 5))
    return tmp_path / "held_out.csv"


def test_radii_are_found_saved_predicted_and_drawn(kpnet: Run, run: Path, held_out: Path, tmp_path: Path) -> None:
    done = kpnet("guarantee", run, held_out, "--at", "0.8")
    assert (done.code, done.err) == (0, "")
    assert "hold 80 %" in done.out
    low, high = 100 * stats.beta(33, 8).ppf([0.025, 0.975])  # ceil(41 * 0.8) is 33
    assert f"{low:.1f} to {high:.1f} %" in done.out
    assert "by size: small" in done.out
    assert "by confidence: confident" in done.out
    assert "measured with the radii of one half" in done.out
    model = load_model(run)
    assert model.guarantee is not None
    assert model.guarantee.at == 0.8
    assert model.guarantee.images == [[40]] * 4
    assert kpnet("guarantee", run, held_out, "--at", "0.8").out == done.out
    image = np.full((50, 64), 90, np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), image)
    assert kpnet("predict", run, tmp_path / "photo.png", "--draw", "--out", tmp_path / "p").code == 0
    table = pd.read_csv(tmp_path / "p" / "predictions.csv")
    prediction = Predictor(run)(tmp_path / "photo.png")
    assert prediction.radius is not None
    assert prediction.joint_radius is not None
    assert table.radius.to_numpy() == pytest.approx(prediction.radius[0], rel=1e-3)
    assert (table.joint_radius >= table.radius - 1e-3).all()
    # The radius is in pixels of the image, which is shown at half of its size.
    inside = model.infer(_input(image)).radius
    assert inside is not None
    assert prediction.radius[0] == pytest.approx(inside[0].numpy() * 64, rel=1e-3)


def _input(image: np.ndarray) -> torch.Tensor:
    """The image as the model takes it."""
    pixels, _ = letterbox(image, (32, 32))
    return torch.from_numpy(pixels)[None, None].float() / 255


def test_groups_views_and_other_decodings(
    kpnet: Run, run: Path, held_out: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = yaml.safe_load((run / "final" / "model.yaml").read_text())
    text["skeleton"]["pairs"] = [["left_eye", "right_eye"]]
    (run / "final" / "model.yaml").write_text(yaml.safe_dump(text))
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((32, 32), 90, np.uint8))
    predict = ("predict", run, tmp_path / "photo.png", "--out", tmp_path / "p")
    done = kpnet("guarantee", run, held_out, "--at", "0.7", "--by", "size", "--flip-test")
    assert (done.code, done.err) == (0, "")
    assert "with the flip test" in done.out
    guarantee = load_model(run).guarantee
    assert guarantee is not None
    assert guarantee.by == "size"
    assert guarantee.test_time.flip
    assert kpnet(*predict, "--flip-test").err == ""
    told = kpnet(*predict).err
    assert "its guarantee held for this model alone and for the test-time views that it was made with" in told
    assert told.count("\n") == 1
    assert kpnet("evaluate", run).err == told
    assert "guarantee" in kpnet(*predict, "--with", run, "--flip-test").err
    assert caplog.text == ""
    assert kpnet(*predict, "--flip-test", "--decoding", "dark").code == 0
    assert "its guarantee, made with the trained decoding, is left out with decoding dark" in caplog.text


def test_bad_input(kpnet: Run, run: Path, held_out: Path, make_csv: MakeCsv, tmp_path: Path) -> None:
    before = (run / "final" / "model.yaml").read_bytes()
    (tmp_path / "few.csv").write_text(make_csv(8, 6))
    kpnet("guarantee", run, tmp_path / "few.csv").refused(
        '"left_eye" is labelled in 8 images, and 90 % needs at least 9'
    )
    kpnet("guarantee", run, held_out, "--by", "size", "--at", "0.95").refused("the third 'small' by size", "least 19")
    kpnet("guarantee", run, held_out, "--at", "90").refused("--at: expected a share between 0 and 1", "found 90")
    kpnet("guarantee", run, held_out, "--by", "colour").refused("--by", "colour")
    kpnet("guarantee", run, tmp_path / "none.csv").refused("none.csv")
    kpnet("guarantee", "hf://me/faces", held_out).refused("hf://me/faces", "save a copy")
    train = Path(load_config(run / "config.yaml").data.root) / "train.csv"
    kpnet("guarantee", run, train).refused("train.csv", "trained", "guarantee on images of their own")
    assert (run / "final" / "model.yaml").read_bytes() == before
    validated = kpnet("guarantee", run, train.with_name("val.csv"), "--at", "0.5")
    assert validated.code == 0
    assert "val.csv" in validated.out.splitlines()[0]
    assert "was validated with it" in validated.out.splitlines()[0]


def test_a_head_without_a_spread_is_said_to_have_constant_radii(
    kpnet: Run, run: Path, held_out: Path, tmp_path: Path
) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["head"] = {"name": "regression"}
    config["train"]["epochs"] = 1
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(config))
    assert kpnet("train", tmp_path / "plain.yaml", "--out", tmp_path / "plain").code == 0
    done = kpnet("guarantee", tmp_path / "plain", held_out)
    assert "predicts no spread: each point's radius is the same in all images" in done.out
    kpnet("guarantee", tmp_path / "plain", held_out, "--by", "confidence").refused("predicts no spread")
    predictor = Predictor(tmp_path / "plain")
    dark, bright = (predictor(np.full((32, 32), value, np.uint8)).radius for value in (10, 200))
    assert dark is not None
    assert bright is not None
    assert np.array_equal(dark, bright)

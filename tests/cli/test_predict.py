"""Images, recipes and networks at the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from support.console import Result, Run
from support.recipes import loader

from kpnet import load_model
from kpnet.config.loading import config_text, list_configs
from kpnet.data.video import write_video

Tree = Callable[[Path], dict[str, bytes | None]]


# Pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of four images of different sizes, the second of which is none."""
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
    assert done.err.splitlines()[-1].startswith("kpnet: pictures/b.png: not a readable image")
    assert "Traceback" not in done.err
    assert done.out.startswith("3 image(s)")
    table = pd.read_csv(tmp_path / "predictions" / "predictions.csv")
    assert list(table.image.unique()) == ["pictures/a.png", "pictures/c.jpg", "pictures/more/d.png"]
    assert (table.groupby("image").size() == 3).all()


def test_only_bad_pictures(kpnet: Run, trained: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, expected in (
        (["pictures/b.png"], ["pictures/b.png", "not a readable image"]),
        (["pictures/gone.png"], ["pictures/gone.png", "no such file"]),
        (["pictures/a.png", "gone"], ["gone", "no such file"]),
        (["empty"], ["empty", "no images"]),
    ):
        kpnet("predict", trained, *arguments, "--draw").refused(*expected)
    assert not (tmp_path / "predictions").exists()


def test_predictions_are_in_pixels_of_the_original(
    kpnet: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bright dot is the oracle, in two sizes and a CSV at once."""
    from kpnet.heads import Keypoints
    from kpnet.models.keypoint_model import KeypointModel

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
    assert {p.name for p in (tmp_path / "two").iterdir()} == {"predictions.json", ".kpnet"}


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
    for command in ("train", "evaluate", "predict", "visualize", "tune", "info", "config", "demo"):
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


def test_options_of_the_other_engine_are_refused(
    trained: Path, pictures: Path, tmp_path: Path, kpnet: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ("--out", tmp_path / "out")
    for option in (["--draw"], ["--json"], ["--pseudo-labels"], ["--smooth", "savgol"]):
        kpnet("predict", trained, pictures, "--engine", "ray", *option, *out).refused("--engine ray writes Parquet")
    kpnet("predict", trained, pictures, "--address", "127.0.0.1:1", *out).refused("--address is for --engine ray")
    kpnet("predict", trained, pictures, "--engine", "dask", *out).refused("dask")
    on_cluster = kpnet("predict", trained, pictures, "--engine", "ray", "--address", "127.0.0.1:1", *out)
    on_cluster.refused("no Ray cluster responds at 127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    kpnet("predict", trained, pictures, "--engine", "ray", *out).refused('pip install "kpnet[ray]"')
    assert not (tmp_path / "out").exists()


# Instances


@pytest.fixture
def finds(tmp_path: Path) -> Path:
    """A saved model that finds instances in any image, as its weights are random."""
    from kpnet import build_model

    torch.manual_seed(0)
    small = {"name": "conv_sandwich", "channels": [4, 8]}
    finder = {"backbone": small, "head": {"name": "centers", "overlap": 1.0}, "input_size": 32}
    model = build_model(
        backbone=small, head={"name": "heatmap", "stride": 2}, input_size=32, num_keypoints=2, instances=finder
    )
    model.save(tmp_path / "finds")
    return tmp_path / "finds"


def test_every_instance_is_in_the_table(kpnet: Run, finds: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "b.png").unlink()
    done = kpnet("predict", finds, "pictures", "--max-instances", 2, "--score-threshold", 0, "--draw")
    assert done.code == 0, done
    assert done.err == ""
    table = pd.read_csv(tmp_path / "predictions" / "predictions.csv")
    assert list(table) == ["image", "instance", "name", "x", "y", "confidence", "score"]
    assert table.groupby("image").instance.nunique().tolist() == [2, 2, 2]
    assert table.groupby("image").score.apply(lambda scores: scores.is_monotonic_decreasing).all()
    assert (tmp_path / "predictions" / "more" / "d.png").exists()
    done = kpnet("predict", finds, "pictures", "--score-threshold", 1, "--json", "--out", "none")
    assert done.out.startswith("3 image(s), 3 without an instance: none/predictions.json")
    assert [each["instances"] for each in json.loads((tmp_path / "none" / "predictions.json").read_text())] == [[]] * 3


def test_a_table_in_parquet(kpnet: Run, finds: Path, trained: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "b.png").unlink()
    some = ("--max-instances", 3, "--score-threshold", 0)
    done = kpnet("predict", finds, "pictures", *some, "--out", "found/all.parquet")
    assert done.out.startswith("3 image(s): found/all.parquet"), done
    kpnet("predict", finds, "pictures", *some)
    table, same = pd.read_parquet("found/all.parquet"), pd.read_csv("predictions/predictions.csv", dtype={"name": str})
    pd.testing.assert_frame_equal(table, same, atol=1e-4, check_dtype=False, check_categorical=False)
    with write_video(tmp_path / "clip.mp4", 10.0) as add:
        for _ in range(3):
            add(np.zeros((32, 48, 3), np.uint8))
    done = kpnet("predict", trained, "clip.mp4", "--no-draw", "--out", "found/clip.parquet")
    assert done.code == 0, done
    assert pd.read_parquet("found/clip.parquet").frame.tolist() == [frame for frame in range(3) for _ in range(3)]
    assert not list((tmp_path / "found").glob("*_tracks.csv"))
    kpnet("predict", trained, "clip.mp4", "pictures", "--out", "x.parquet").refused("x.parquet", "images and 1 video")
    kpnet("predict", trained, "pictures", "--json", "--out", "x.parquet").refused("x.parquet", "--json")


def test_options_of_instances_are_refused_for_a_model_of_one(kpnet: Run, trained: Path, pictures: Path) -> None:
    for option, value in (("--max-instances", 2), ("--score-threshold", 0.5)):
        kpnet("predict", trained, "pictures", option, value).refused("finds no instances")
    for option, value in (("--max-instances", 0), ("--score-threshold", 2)):
        done = kpnet("predict", trained, "pictures", option, value)
        assert done.code == 2
        assert option in done.err
        assert done.err.count("\n") == 1

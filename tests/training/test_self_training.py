"""Self-training on a few synthetic faces: what each half learns from, and what an interruption must not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from support.recipes import TINY_HEATMAP

import kpnet
from kpnet.config.loading import load_config
from kpnet.config.schema import Config
from kpnet.core.errors import KpnetError
from kpnet.data import SyntheticFaces
from kpnet.data.image_sequences import JoinedImages, open_images
from kpnet.data.unlabelled import UnlabelledImages
from kpnet.data.video import write_video
from kpnet.training import self_training
from kpnet.training.callbacks import RunFolderCallback

FACES = 9


class Killed(Exception):
    pass


def config(root: Path, *overrides: str) -> Config:
    values: dict[str, Any] = {
        "model": TINY_HEATMAP,
        "data": {
            "format": "synthetic",
            "root": str(root),
            "train": 8,
            "unlabelled": "faces.npz",
            "transforms": [{"HorizontalFlip": {"p": 0.5}}],
        },
        "train": {"epochs": 2, "batch_size": 4, "self_train": {"min_confidence": 0}},
        "trainer": {"accelerator": "cpu", "logger": False},
    }
    return load_config(values, overrides)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images without labels, larger than the model's input, and a run that learned from them."""
    root = tmp_path_factory.mktemp("self_training")
    faces = SyntheticFaces(FACES, seed=77)
    np.savez(root / "faces.npz", images=np.stack([faces.read(index)[0] for index in range(FACES)]))
    kpnet.train(config(root), out=root / "run")
    return root


def weights(run: Path) -> dict[str, Any]:
    return load_file(run / "final" / "model.safetensors")


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(value.equal(second[name]) for name, value in first.items())


def test_the_first_model_learns_from_the_labels_alone(root: Path, tmp_path: Path) -> None:
    kpnet.train(config(root, "train.self_train=null", "data.unlabelled=null"), out=tmp_path / "plain")
    assert same(weights(root / "run" / "first"), weights(tmp_path / "plain"))


def test_the_table_has_what_the_first_model_finds(root: Path) -> None:
    table = pd.read_csv(root / "run" / "pseudo_labels.csv")
    assert list(table) == ["image", "name", "x", "y", "confidence"]
    predictor = kpnet.Predictor(root / "run" / "first", test_time=kpnet.TestTime(flip=True))
    images = np.load(root / "faces.npz")["images"]
    for image, (_, rows) in zip(images, table.groupby("image", sort=False), strict=True):
        found = predictor(image)
        assert rows.name.tolist() == list(found.names)
        np.testing.assert_allclose(rows[["x", "y"]], found.keypoints[0], atol=1e-2)
        np.testing.assert_allclose(rows.confidence, found.confidence[0], atol=1e-3)


def test_the_second_model_learns_from_both(root: Path) -> None:
    assert pd.read_csv(root / "run" / "first" / "metrics.csv").step.tolist() == [2, 4]
    assert "agreement_px" not in pd.read_csv(root / "run" / "metrics.csv")  # there is no teacher
    assert "teacher" not in torch.load(root / "run" / "last.ckpt", weights_only=True)
    assert pd.read_csv(root / "run" / "metrics.csv").step.tolist() == [4, 8]  # as many images without labels as with
    assert not same(weights(root / "run"), weights(root / "run" / "first"))


@pytest.mark.slow
@pytest.mark.parametrize("at", [("first", 1), ("run", 1)])
def test_an_interrupted_run_goes_on_in_either_half(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: tuple[str, int]
) -> None:
    start = RunFolderCallback.on_train_epoch_start

    def killed(self: RunFolderCallback, trainer: Any, pl_module: Any) -> None:
        if (self.folder.name, trainer.current_epoch) == at:
            raise Killed
        start(self, trainer, pl_module)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolderCallback, "on_train_epoch_start", killed)
        with pytest.raises(Killed):
            kpnet.train(config(root), out=run)
    with pytest.raises(KpnetError, match="exists already"):
        kpnet.train(config(root), out=run)
    if at[0] == "run":  # the first half is not made again
        monkeypatch.setattr(self_training, "predict_images", None)
    kpnet.train(config(root), out=run, resume=True)
    assert same(weights(run), weights(root / "run"))
    assert pd.read_csv(run / "metrics.csv").epoch.tolist() == [0, 1]


@pytest.mark.slow
def test_force_deletes_both_halves_and_nothing_else(root: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    kpnet.train(config(root, "train.epochs=1"), out=run)
    (run / "first" / "notes.txt").write_text("mine")
    kpnet.train(config(root, "train.epochs=1", "train.self_train=null", "data.unlabelled=null"), out=run, force=True)
    assert [path.name for path in (run / "first").iterdir() if not path.name.startswith(".")] == ["notes.txt"]
    assert not (run / "pseudo_labels.csv").exists()
    held = run / "first" / "final"
    given = config(root, f"model.pretrained={root / 'run' / 'first'}")
    with pytest.raises(KpnetError, match="--force would delete it"):
        kpnet.train(given, out=root / "run", force=True)
    assert not held.exists()


@pytest.mark.slow
def test_points_below_the_confidence_do_not_count(root: Path) -> None:
    assert pd.read_csv(root / "run" / "pseudo_labels.csv").confidence.max() < 0.999
    with pytest.raises(KpnetError, match=r"no point has a confidence of 0\.999, the highest is 0\.\d{3}: lower"):
        kpnet.train(config(root, "train.self_train.min_confidence=0.999"), out=root / "strict")
    # the first half stays, and may go on with another confidence
    kpnet.train(config(root), out=root / "strict", resume=True)
    assert same(weights(root / "strict"), weights(root / "run"))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.unlabelled=null"], "give data.unlabelled"),
        (["model.head=regression"], "this head gives no confidence"),
        (["data.crop=points"], "found data.crop"),
        (["train.unlabelled={weight: 1}"], "give one of them"),
        (["model.head=centers"], "found a head of several instances"),
        (["data.unlabelled=nowhere.npz"], r"nowhere\.npz: no such file"),
        (["trainer.devices=2"], r"2 processes would train, .* give trainer\.devices: 1"),
        (["trainer.num_nodes=3"], "3 processes would train"),
    ],
)
def test_what_it_cannot_learn_from(root: Path, tmp_path: Path, overrides: list[str], expected: str) -> None:
    with pytest.raises(KpnetError, match=expected) as caught:
        kpnet.train(config(root, *overrides), out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_table_of_other_images_is_refused(root: Path, tmp_path: Path) -> None:
    table = tmp_path / "pseudo_labels.csv"
    images = UnlabelledImages(np.zeros((2, 8, 8), np.uint8), skeleton=SyntheticFaces(1).skeleton)
    points = np.zeros((2, len(images.skeleton), 2))
    found = self_training.PseudoLabels(images, points, points[..., 0])
    self_training.write_table(table, found)
    back = self_training.read_table(table, images)
    assert (back.keypoints == found.keypoints).all()
    assert (back.confidence == found.confidence).all()
    with pytest.raises(KpnetError, match="30 points, which are not those of the 3 images"):
        self_training.read_table(
            table, UnlabelledImages(np.zeros((3, 8, 8), np.uint8), skeleton=SyntheticFaces(1).skeleton)
        )
    table.write_text("image,name\na,b\n")
    with pytest.raises(KpnetError, match="delete it"):
        self_training.read_table(table, images)


def test_the_table_of_a_video_is_in_pixels_of_its_frames(tmp_path: Path) -> None:
    with write_video(tmp_path / "clip.mp4", 25) as add:
        for _ in range(3):
            add(np.zeros((32, 64, 3), np.uint8))
    images = UnlabelledImages(JoinedImages([open_images(tmp_path / "clip.mp4", (16, 16), 2)], ["clip.mp4"]))
    points = np.array([[[-0.5, 3.5], [15.5, 11.5]]] * 2)  # the corners of a frame within the letterboxed image
    found = self_training.PseudoLabels(images, points, np.ones((2, 2)))
    self_training.write_table(tmp_path / "table.csv", found)
    table = pd.read_csv(tmp_path / "table.csv")
    assert table.image.unique().tolist() == ["clip.mp4#0", "clip.mp4#2"]
    np.testing.assert_allclose(table[["x", "y"]], [[-0.5, -0.5], [63.5, 31.5]] * 2)
    np.testing.assert_allclose(self_training.read_table(tmp_path / "table.csv", images).keypoints, points)

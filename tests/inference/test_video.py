"""Videos at the command line: the same points as in images of the frames, and nothing that is half there."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import NAMES, dot_image
from support.console import Run
from torch import Tensor

from kpnet import KpnetError, Predictor, load_config, load_model, plot
from kpnet.data.build import build_val
from kpnet.heads import Keypoints
from kpnet.inference import tracks
from kpnet.inference.video import Video, write_video
from kpnet.models.keypoint_model import KeypointModel
from kpnet.plot import draw_points

SIZE = (48, 64)
RATE = 20.0


def frames(count: int, seed: int = 0) -> list[np.ndarray]:
    """RGB, with three dots that move, in yellow."""
    draw = np.random.default_rng(seed)
    start, step = draw.uniform((15, 8), (48, 40), (3, 2)), draw.uniform(-0.9, 0.9, (3, 2))
    grey = [dot_image(start + step * t, 64)[: SIZE[0]] for t in range(count)]
    return [np.stack([image, image, image // 3], axis=-1) for image in grey]


def write(path: Path, pictures: list[np.ndarray], codec: str = "FFV1") -> Path:
    """Without loss: what is read is what was written."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), RATE, SIZE[::-1])
    for picture in pictures:
        writer.write(picture[..., ::-1])
    writer.release()
    return path


def cut(path: Path, share: float) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


@pytest.fixture
def seeing(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose model predicts the centre of the light, sooner than a training would."""

    def infer(self: KeypointModel, images: Tensor, test_time: object = None) -> Keypoints:
        light, (height, width) = images.sum(1), images.shape[-2:]
        x = (light.sum(-2) * (2 * torch.arange(width) + 1)).sum(-1) / light.sum((-2, -1)) / width - 1
        y = (light.sum(-1) * (2 * torch.arange(height) + 1)).sum(-1) / light.sum((-2, -1)) / height - 1
        points = torch.stack([x, y], -1)[:, None] + torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1]])
        return Keypoints(points, (points[..., 0] + 1) / 2)

    monkeypatch.setattr(KeypointModel, "infer", infer)
    return trained


def test_a_video_is_predicted_as_its_frames_are(kpnet: Run, seeing: Path, tmp_path: Path) -> None:
    pictures = frames(7)
    write(tmp_path / "clip.avi", pictures)
    for i, picture in enumerate(pictures):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture[..., ::-1])
    done = kpnet("predict", seeing, "clip.avi", "--batch-size", 3, "--out", "video")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("clip.avi, 7 frame(s): video/clip_tracks.csv")
    files = {".kpnet", "clip_annotated.mp4", "clip_deeplabcut.csv", "clip_tracks.csv", "clip_tracks.png"}
    assert {path.name for path in (tmp_path / "video").iterdir()} == files
    kpnet("predict", seeing, *[f"{i}.png" for i in range(7)], "--out", "pictures")

    table = pd.read_csv(tmp_path / "video" / "clip_tracks.csv")
    expected = pd.read_csv(tmp_path / "pictures" / "predictions.csv")
    assert list(table.columns) == ["frame", "time", "instance", "name", "x", "y", "confidence"]
    assert table.frame.tolist() == np.repeat(range(7), 3).tolist()
    np.testing.assert_allclose(table.time, table.frame / RATE, atol=1e-4)
    assert table.name.tolist() == list(NAMES) * 7
    assert set(table.instance) == {0}
    np.testing.assert_allclose(table[["x", "y", "confidence"]], expected[["x", "y", "confidence"]], atol=2e-4)
    assert (table.groupby("name").x.std() > 0.5).all()  # they move

    wide = pd.read_csv(tmp_path / "video" / "clip_deeplabcut.csv", header=[0, 1, 2], index_col=0)
    assert wide.columns.names == ["scorer", "bodyparts", "coords"]
    assert wide.index.tolist() == list(range(7))
    for name in NAMES:
        mine = table[table.name == name]
        for coord, column in (("x", "x"), ("y", "y"), ("likelihood", "confidence")):
            assert wide["kpnet"][name][coord].tolist() == mine[column].tolist()


def test_the_annotated_video_has_the_points_on_every_frame(kpnet: Run, seeing: Path, tmp_path: Path) -> None:
    pictures = frames(6)
    write(tmp_path / "clip.avi", pictures)
    kpnet("predict", seeing, "clip.avi")
    drawn = Video(tmp_path / "predictions" / "clip_annotated.mp4")
    assert drawn.fps == RATE
    predicted = Predictor(seeing)
    shown = list(drawn.frames())
    assert len(shown) == 6
    for picture, frame in zip(pictures, shown, strict=True):
        answer = predicted(picture)
        assert answer.confidence is not None
        expected = draw_points(picture, answer.keypoints[0], answer.confidence[0])
        assert frame.shape == expected.shape  # small pictures are enlarged
        bare = draw_points(picture, np.full((3, 2), np.nan))
        marked = (np.abs(expected.astype(float) - bare) > 60).any(-1)
        assert np.abs(frame[marked].astype(float) - expected[marked]).mean() < 25  # it is compressed
        assert np.abs(frame[marked].astype(float) - bare[marked]).mean() > 50


def test_no_annotated_video_where_none_is_wanted(kpnet: Run, trained: Path, tmp_path: Path) -> None:
    write(tmp_path / "clip.avi", frames(2))
    assert kpnet("predict", trained, "clip.avi", "--no-draw").code == 0
    assert not list((tmp_path / "predictions").glob("*.mp4"))
    assert (tmp_path / "predictions" / "clip_tracks.png").is_file()


def test_a_video_that_ends_early_keeps_its_frames(kpnet: Run, trained: Path, tmp_path: Path) -> None:
    cut(write(tmp_path / "clip.avi", frames(40)), 0.6)
    done = kpnet("predict", trained, "clip.avi")
    assert done.code == 1
    table = pd.read_csv(tmp_path / "predictions" / "clip_tracks.csv")
    found = table.frame.max() + 1
    assert 10 < found < 39
    assert done.err == (f"kpnet: clip.avi: ends after {found} of the 40 frames that its header declares\n")
    assert len(list(Video(tmp_path / "predictions" / "clip_annotated.mp4").frames())) == found


BROKEN = {
    "text.mp4": "not a video that can be decoded",
    "empty.mkv": "not a video that can be decoded",
    "cut.mp4": "cut short",
    "none.avi": "without a frame",
    "gone.mp4": "no such file",
}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "empty.mkv").touch()
    write(tmp_path / "none.avi", [], "MJPG")
    with write_video(tmp_path / "cut.mp4", RATE) as add:
        for picture in frames(3):
            add(picture)
    cut(tmp_path / "cut.mp4", 0.5)  # its index is at its end
    return tmp_path


def test_what_is_no_video_is_one_line_and_leaves_nothing(kpnet: Run, trained: Path, broken: Path) -> None:
    for name, expected in BROKEN.items():
        kpnet("predict", trained, name).refused(name, expected)
        assert not (broken / "predictions").exists()


def test_the_decoder_says_nothing_past_python(broken: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, expected in BROKEN.items():
        with pytest.raises(KpnetError, match=expected):
            Video(broken / name)
    assert capfd.readouterr().err == ""


def test_pictures_and_videos_in_one_call(kpnet: Run, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "folder" / "a").mkdir(parents=True)
    (tmp_path / "videos").mkdir()
    cv2.imwrite(str(tmp_path / "folder" / "still.png"), frames(1)[0])
    write(tmp_path / "folder" / "a" / "clip.avi", frames(3))
    write(tmp_path / "videos" / "clip.avi", frames(2))
    (tmp_path / "bad.mp4").write_text("")
    done = kpnet("predict", trained, "folder", "bad.mp4", "videos", "--draw")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("kpnet: bad.mp4: not a video")
    first, second, third = done.out.splitlines()
    assert first.startswith("1 image(s)")
    assert second.startswith("folder/a/clip.avi, 3 frame(s): predictions/clip_tracks.csv")
    assert third.startswith("videos/clip.avi, 2 frame(s): predictions/clip_2_tracks.csv")
    assert (tmp_path / "predictions" / "still.png").is_file()
    assert len(pd.read_csv(tmp_path / "predictions" / "clip_2_tracks.csv")) == 6
    for option in ("--json", "--pseudo-labels"):
        kpnet("predict", trained, "videos", option).refused(option, "clip.avi")


def test_only_a_batch_of_frames_is_in_memory(trained: Path) -> None:
    seen: list[weakref.ref[np.ndarray]] = []
    most = 0

    def stream() -> Iterator[np.ndarray]:
        nonlocal most
        for frame in frames(2) * 20:
            frame = frame.copy()
            seen.append(weakref.ref(frame))
            most = max(most, sum(each() is not None for each in seen))
            yield frame

    assert sum(1 for _ in Predictor(trained, batch_size=4).track(stream())) == 40
    assert most <= 2 * 4


def test_nothing_is_left_half_written(
    kpnet: Run, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "clip.avi", frames(5))
    drawn = []

    def fail(*given: object) -> np.ndarray:
        drawn.append(given)
        if len(drawn) == 3:
            raise KpnetError("no more")
        return np.zeros((96, 96, 3), np.uint8)

    monkeypatch.setattr("kpnet.plot.points.draw_points", fail)
    kpnet("predict", trained, "clip.avi").refused("no more")
    left = {path.name for path in (tmp_path / "predictions").iterdir()}
    assert left == {".kpnet", "clip_deeplabcut.csv", "clip_tracks.csv", "clip_tracks.png"}


def test_a_disk_that_is_full_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenCV drops frames without a word."""

    def record() -> None:
        with write_video(tmp_path / "out.mp4", RATE) as add:
            for i, frame in enumerate(frames(5)):
                if i == 3:
                    monkeypatch.setattr(cv2, "cvtColor", lambda *_: np.zeros((2, 2, 3), np.uint8))  # of a wrong size
                add(frame)

    with pytest.raises(KpnetError, match=r"out\.mp4: 3 of 5 frames could be written"):
        record()
    assert not list(tmp_path.iterdir())


def test_a_head_without_confidence_leaves_it_empty(tmp_path: Path) -> None:
    xy = np.random.default_rng(0).normal(size=(3, 2, 2))
    nothing = np.full((3, 2), np.nan)
    bare = tracks.Tracks(("a", "b, c"), RATE, xy, nothing, np.full((3, 2, 2), np.nan), np.inf)
    tracks.write_tables(bare, tmp_path / "long.csv", tmp_path / "wide.csv")
    assert pd.read_csv(tmp_path / "long.csv").confidence.isna().all()
    wide = pd.read_csv(tmp_path / "wide.csv", header=[0, 1, 2], index_col=0)
    assert wide["kpnet"]["b, c"]["likelihood"].isna().all()
    np.testing.assert_allclose(wide["kpnet"]["b, c"][["x", "y"]], xy[:, 1], atol=1e-4)
    figure = plot.draw_tracks(bare.names, RATE, xy, nothing, bare.std)
    assert len(figure.axes) == 2
    assert not figure.axes[0].collections


def test_a_temporal_model_is_trained_evaluated_and_follows_a_video(kpnet: Run, tmp_path: Path) -> None:
    head = {"name": "temporal", "head": {"name": "regression", "hidden": []}, "past": 2, "future": 1, "width": 8}
    values = {
        "name": "moving",
        "model": {
            "backbone": {"name": "conv_sandwich", "channels": [4, 8]},
            "head": head,
            "in_channels": 1,
            "input_size": 32,
        },
        "data": {"format": "synthetic_clips", "train": 1, "val": 1},
        "train": {"epochs": 1, "batch_size": 8},
        "trainer": {"accelerator": "cpu"},
    }
    (tmp_path / "moving.yaml").write_text(yaml.safe_dump(values))
    assert kpnet("train", "moving.yaml").code == 0
    run = tmp_path / "runs" / "moving"
    assert (run / "predictions.png").is_file()
    measured = json.loads(kpnet("evaluate", run, "--json").out)
    assert measured["rmse_px"] > 0
    model = load_model(run)
    val = build_val(load_config(run / "config.yaml"), model.skeleton, model.frame_window)
    figure = plot.show_keypoint_predictions(val, model)
    assert len(figure.axes) == 3
    write(tmp_path / "clip.avi", frames(6))
    assert kpnet("predict", run, "clip.avi", "--batch-size", 2).code == 0
    table = pd.read_csv(tmp_path / "predictions" / "clip_tracks.csv")
    assert len(table) == 6 * 15
    assert table.confidence.isna().all()
    cv2.imwrite("still.png", frames(1)[0])
    assert kpnet("predict", run, "still.png").code == 0

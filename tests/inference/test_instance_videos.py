"""Videos with several instances: which files they give, and what the lines say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pandas as pd
import pytest

from kpnet import plot
from kpnet.core.skeleton import Skeleton
from kpnet.data.video import Video, write_video
from kpnet.inference import instance_videos
from kpnet.inference.pipeline import predict_inputs
from kpnet.inference.prediction import Prediction
from kpnet.inference.tables import PredictionTable

SKELETON = Skeleton(("a", "b", "c"), edges=(("a", "b"), ("b", "c")))
SHAPE = np.array([[0.0, -8], [-8, 8], [8, 8]])


class Two:
    """In place of a predictor: two instances pass each other at a distance; none is found in frame 10."""

    max_instances = None

    def __init__(self) -> None:
        self.model: Any = type("Model", (), {"skeleton": SKELETON, "finds_instances": True})

    def track(self, frames: Any) -> Iterator[Prediction]:
        for t, _ in enumerate(frames):
            rows = [[0, 1], [1, 0]][t % 2] if t != 10 else []
            points = np.array([[20.0 + 2 * t, 30], [140 - 2 * t, 70]])[:, None] + SHAPE
            covariance = np.tile(np.eye(2), (len(rows), 3, 1, 1))
            scores = np.array([0.9, 0.8])[: len(rows)]
            yield Prediction("", SKELETON.names, points[rows], np.ones((len(rows), 3)), covariance, scores=scores)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    with write_video(tmp_path / "clip.mp4", 25) as add:
        for _ in range(40):
            add(np.full((96, 160, 3), 90, np.uint8))
    return tmp_path / "clip.mp4"


def predict(clip: Path, out: Path, **options: Any) -> Any:
    two: Any = Two()
    return predict_inputs(two, [], PredictionTable(False), {"clip": clip}, out, None, **options)


def test_a_video_with_identities(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sleap_io")
    drawn: list[tuple[list[int], list[str]]] = []

    def draw(frame: np.ndarray, xy: np.ndarray, confidence: Any, edges: Any, ids: Any, labels: Any) -> np.ndarray:
        assert list(edges) == [(0, 1), (1, 2)]
        drawn.append((ids, labels))
        return plot.points.draw_instances(frame, xy, confidence, edges, ids=ids, labels=labels)

    monkeypatch.setattr(instance_videos.plot, "draw_instances", draw, raising=False)
    outcome = predict(clip, tmp_path / "out", track=True, smooth="savgol")
    names = "clip_tracks.csv", "clip_deeplabcut.csv", "clip_tracks.png", "clip_tracks.slp", "clip_annotated.mp4"
    listed = f"{tmp_path / 'out' / names[0]}, {', '.join(names[1:])}"
    assert outcome.written == [f"{clip}, 40 frame(s), 1 of them without an instance, 2 identities: {listed}"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*names, ".kpnet"}
    table = pd.read_csv(tmp_path / "out" / "clip_tracks.csv")
    ys = table[table.name == "a"].groupby("track").y.unique()
    assert {track: list(values) for track, values in ys.items()} == {"track_0": [22], "track_1": [62]}
    assert (table.uncertain == 0).all()
    assert drawn[3] == ([0, 1], ["0", "1"])
    assert drawn[10] == ([], [])
    assert len(list(Video(tmp_path / "out" / "clip_annotated.mp4").frames())) == 40
    again = predict(clip, tmp_path / "out", track=True)
    assert not again.failures, "its own files are replaced"


def test_a_video_without_identities(clip: Path, tmp_path: Path) -> None:
    outcome = predict(clip, tmp_path / "out", parquet="all.parquet")
    assert outcome.written[0].endswith(f"without an instance: {tmp_path / 'out' / 'all.parquet'}, clip_annotated.mp4")
    table = pd.read_parquet(tmp_path / "out" / "all.parquet")
    assert "uncertain" not in table
    assert table[table.name == "a"].groupby("instance").y.nunique().tolist() == [2, 2], "an order is no identity"


@pytest.mark.parametrize("track", [False, True])
def test_a_video_whose_size_changes_is_told(tmp_path: Path, track: bool) -> None:
    data = b""
    for width, height in ((64, 48), (128, 96)):
        with av.open(str(tmp_path / "part.h264"), "w", format="h264") as container:
            stream: Any = container.add_stream("libx264", rate=10, options={"bf": "0"})
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            for _ in range(3):
                frame = np.full((height, width, 3), 90, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode(None))
        data += (tmp_path / "part.h264").read_bytes()
    (tmp_path / "clip.h264").write_bytes(data)
    line = predict(tmp_path / "clip.h264", tmp_path / "out", track=track).written[0]
    assert "; its frames are 64x48, 128x96 from frame 3, and points are in pixels of their own frame: " in line


def test_a_video_without_an_instance(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(self: Two, frames: Any) -> Iterator[Prediction]:
        for _ in frames:
            yield Prediction("", SKELETON.names, np.zeros((0, 3, 2)), None, None, scores=np.zeros(0))

    monkeypatch.setattr(Two, "track", nothing)
    outcome = predict(clip, tmp_path / "out", track=True, smooth="savgol")
    assert outcome.written[0].startswith(f"{clip}, 40 frame(s), 40 of them without an instance, 0 identities: ")
    assert len(pd.read_csv(tmp_path / "out" / "clip_tracks.csv")) == 0
    assert (tmp_path / "out" / "clip_annotated.mp4").exists()


def test_guesses_and_large_projects_are_named(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sleap_io")

    class Guessing(instance_videos.InstanceTracks):
        def guesses(self) -> list[tuple[int, int]]:
            return [(3, 7), (20, 20)]

    monkeypatch.setattr("kpnet.inference.instance_tracks.InstanceTracks", Guessing)
    monkeypatch.setattr(instance_videos, "MOST_INSTANCES", 10)
    outcome = predict(clip, tmp_path / "out", track=True)
    assert outcome.written[1:] == [
        f"{clip}: no clip_tracks.slp: it would hold more than 10 instances",
        f"{clip}: identities are guesses in frames 3-7, 20: look at them",
    ]
    assert not (tmp_path / "out" / "clip_tracks.slp").exists()


@pytest.mark.parametrize("stage", ["predicting", "drawing"])
def test_ctrl_c_keeps_what_is_done(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    if stage == "drawing":
        monkeypatch.setattr(instance_videos, "write_annotated", stop)
    else:
        original = Two.track

        def track(self: Two, frames: Any) -> Iterator[Prediction]:
            for number, prediction in enumerate(original(self, frames)):
                if number == 5:
                    raise KeyboardInterrupt
                yield prediction

        monkeypatch.setattr(Two, "track", track)
    outcome = predict(clip, tmp_path / "out", track=True)
    frames = pd.read_csv(tmp_path / "out" / "clip_tracks.csv").frame.max()
    assert outcome.stopped
    if stage == "drawing":
        assert frames == 39
        assert outcome.failures == [f"interrupted after the tables of {clip}; there is no clip_annotated.mp4"]
    else:
        assert frames == 4
        assert outcome.failures == [f"interrupted after 5 frames of {clip}"]
    assert not (tmp_path / "out" / "clip_annotated.mp4").exists()

"""A model's points over the frames of a video: kept, smoothed and written, whatever the video's length."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kpnet.core.skeleton import Skeleton
from kpnet.inference import tracks
from kpnet.inference.prediction import Prediction
from kpnet.inference.tracks import Tracks, predict_tracks, smooth_tracks, write_annotated, write_tables

NAMES = ("a", "b")
RATE = 20.0


class Clip:
    """In place of a video: `count` grey frames, each of its number."""

    def __init__(self, count: int) -> None:
        self.count = self.declared_frames = count
        self.fps, self.time_base = RATE, Fraction(1, 20)

    def timed_frames(self) -> Iterator[tuple[float, np.ndarray]]:
        for number in range(self.count):
            yield number / RATE, np.full((32, 40, 3), number, np.uint8)


class Follower:
    """In place of a predictor: point k of frame t is at (t, k), with variances 4 and 9 and confidence t / 10."""

    def __init__(self, *, sure: bool = True) -> None:
        self.sure = sure
        self.model: Any = type("Model", (), {"skeleton": Skeleton(NAMES)})

    def track(self, frames: Any) -> Iterator[Prediction]:
        for frame in frames:
            t = float(frame[0, 0, 0])
            points = np.array([[[t, 0], [t, 1]]])
            covariance = np.broadcast_to(np.array([[4.0, 1], [1, 9]]), (1, 2, 2, 2))
            confidence = np.full((1, 2), t / 10)
            if self.sure:
                yield Prediction("", NAMES, points, confidence, covariance, 7.0)
            else:
                yield Prediction("", NAMES, points, None, None)


def some(count: int = 10, **values: Any) -> Tracks:
    draw = np.random.default_rng(0)
    time, xy = np.arange(count) / RATE, draw.normal(size=(count, 2, 2))
    return Tracks(NAMES, time, xy, draw.random((count, 2)), draw.random((count, 2, 2)), 9, **values)


def test_every_frame_is_kept_and_the_folder_is_left_empty(tmp_path: Path) -> None:
    clip: Any = Clip(5)
    follower: Any = Follower()
    with predict_tracks(follower, clip, tmp_path) as found:
        assert len(found) == 5
        assert (found.names, found.dof, found.interrupted) == (NAMES, 7.0, False)
        assert found.time.tolist() == [0, 0.05, 0.1, 0.15, 0.2]
        assert found.xy[:, 0].tolist() == [[t, 0] for t in range(5)]
        assert found.xy[:, 1].tolist() == [[t, 1] for t in range(5)]
        assert found.confidence[:, 0].tolist() == [t / 10 for t in range(5)]
        deviations = next(v for k, v in vars(found).items() if np.shape(v) == (5, 2, 2) and k not in ("xy", "smooth"))
        assert (np.asarray(deviations) == [2, 3]).all(), "the roots of the variances"
        assert np.array_equal(found.best, found.xy)
    assert not list(tmp_path.iterdir())
    with predict_tracks(Follower(sure=False), clip, tmp_path) as bare:  # type: ignore[arg-type]
        assert np.isnan(bare.confidence).all()
        assert np.isfinite(bare.xy).all()


def test_ctrl_c_keeps_the_frames_that_are_predicted(tmp_path: Path) -> None:
    class Interrupted(Follower):
        def track(self, frames: Any) -> Iterator[Prediction]:
            for number, prediction in enumerate(super().track(frames)):
                if number == self.after:
                    raise KeyboardInterrupt
                yield prediction

        after = 3

    clip: Any = Clip(5)
    follower: Any = Interrupted()
    with predict_tracks(follower, clip, tmp_path) as found:
        assert (len(found), len(found.time), found.interrupted) == (3, 3, True)
    follower.after = 0
    with pytest.raises(KeyboardInterrupt), predict_tracks(follower, clip, tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_smoothed_tracks_are_beside_the_raw_ones(tmp_path: Path) -> None:
    clip: Any = Clip(4)
    follower: Any = Follower()
    with predict_tracks(follower, clip, tmp_path, lambda xy, weight: xy + 100 * weight[..., None]) as found:
        assert found.smooth is not None
        expected = found.xy + 100 * found.confidence[..., None]
        assert np.allclose(found.smooth, expected)
        assert np.array_equal(found.best, found.smooth)
        assert found.xy[:, 0, 0].tolist() == [0, 1, 2, 3]


def test_points_are_smoothed_a_few_at_a_time_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    given, seen = some(), []

    def smoother(xy: np.ndarray, weight: np.ndarray) -> np.ndarray:
        seen.append(xy.shape)
        return xy * weight[..., None]

    for held, shapes in ((1_000_000, [(10, 2, 2)]), (10, [(10, 1, 2)] * 2)):
        monkeypatch.setattr(tracks, "HELD", held)
        seen.clear()
        out = np.empty((10, 2, 2))
        smooth_tracks(given, smoother, out)
        assert seen == shapes
        assert np.array_equal(out, given.xy * given.confidence[..., None])
    given.confidence = np.full((10, 2), np.nan)
    smooth_tracks(given, smoother, out)
    assert np.array_equal(out, given.xy), "all count alike where the head has no confidence"


def test_the_long_table_has_a_row_a_frame_and_point(tmp_path: Path) -> None:
    given = some(3, smooth=np.arange(12.0).reshape(3, 2, 2))
    write_tables(given, tmp_path / "long.csv", tmp_path / "wide.csv")
    with (tmp_path / "long.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["frame"], row["time"], row["instance"], row["name"]) for row in rows] == [
        *[("0", "0.0000", "0", "a"), ("0", "0.0000", "0", "b")],
        *[("1", "0.0500", "0", "a"), ("1", "0.0500", "0", "b")],
        *[("2", "0.1000", "0", "a"), ("2", "0.1000", "0", "b")],
    ]
    numbers = np.array([[float(row[key]) for key in ("x", "y", "confidence", "x_smooth", "y_smooth")] for row in rows])
    np.testing.assert_allclose(numbers[:, :2], given.xy.reshape(-1, 2), atol=5e-5)
    np.testing.assert_allclose(numbers[:, 2], given.confidence.ravel(), atol=5e-5)
    assert numbers[:, 3:].ravel().tolist() == list(range(12))


def test_deeplabcuts_table_has_smoothed_points_under_three_headers(tmp_path: Path) -> None:
    given = some(2, smooth=np.arange(8.0).reshape(2, 2, 2))
    given.confidence = np.array([[0.5, np.nan], [1, 0]])
    write_tables(given, tmp_path / "long.csv", tmp_path / "wide.csv")
    assert (tmp_path / "wide.csv").read_text().splitlines() == [
        "scorer,kpnet,kpnet,kpnet,kpnet,kpnet,kpnet",
        "bodyparts,a,a,a,b,b,b",
        "coords,x,y,likelihood,x,y,likelihood",
        "0,0.0000,1.0000,0.5000,2.0000,3.0000,",
        "1,4.0000,5.0000,1.0000,6.0000,7.0000,0.0000",
    ]


def test_tables_are_written_in_pieces_as_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for size in (1024, 3):
        monkeypatch.setattr(tracks, "CHUNK", size)
        write_tables(some(), tmp_path / "long.csv", tmp_path / "wide.csv")
        written.append(((tmp_path / "long.csv").read_text(), (tmp_path / "wide.csv").read_text()))
    assert written[0] == written[1]


def test_the_annotated_copy_has_the_best_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def draw(frame: np.ndarray, xy: np.ndarray, confidence: np.ndarray | None, edges: Any) -> np.ndarray:
        drawn.append((int(frame[0, 0, 0]), xy.tolist(), confidence is None, list(edges)))
        return frame

    monkeypatch.setattr("kpnet.plot.points.draw_points", draw)
    clip: Any = Clip(3)
    given = some(3, smooth=np.arange(12.0).reshape(3, 2, 2))
    skeleton = Skeleton(NAMES, edges=(("b", "a"),))
    write_annotated(given, clip, skeleton, tmp_path / "out.mp4")
    assert given.smooth is not None
    assert drawn == [(t, given.smooth[t].tolist(), False, [(1, 0)]) for t in range(3)]
    given.confidence = np.full((3, 2), np.nan)
    drawn.clear()
    write_annotated(given, clip, skeleton, tmp_path / "out.mp4")
    assert [bare for _, _, bare, _ in drawn] == [True] * 3
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]

"""Instances of a video's frames: kept, smoothed by identity, and written."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kpnet.core.skeleton import Skeleton
from kpnet.inference import instance_tracks
from kpnet.inference.instance_tracks import (
    InstanceTracks,
    predict_instances,
    smooth_identities,
    write_deeplabcut,
    write_instances,
)
from kpnet.inference.prediction import Prediction

NAMES = ("a", "b")


class Clip:
    """In place of a video: `count` grey frames, each of its number."""

    def __init__(self, count: int) -> None:
        self.count = self.declared_frames = count
        self.fps, self.time_base = 20.0, Fraction(1, 20)

    def timed_frames(self) -> Iterator[tuple[float, np.ndarray]]:
        for number in range(self.count):
            yield number / 20, np.full((32, 40, 3), number, np.uint8)


class Pair:
    """In place of a predictor: two instances that stand 100 px apart, the better one first in even frames only.

    Frame 3 has none, and frame 4 the second alone. Point k of instance i is at (100 i + t, 20 k).
    """

    max_instances = 2

    def __init__(self, stop: int | None = None) -> None:
        self.model: Any = type("Model", (), {"skeleton": Skeleton(NAMES), "finds_instances": True})
        self.stop = stop

    def track(self, frames: Any) -> Iterator[Prediction]:
        for frame in frames:
            t = int(frame[0, 0, 0])
            if t == self.stop:
                raise KeyboardInterrupt
            which = {3: [], 4: [1]}.get(t, [0, 1] if t % 2 == 0 else [1, 0])
            points = np.array([[[100 * i + t, 20 * k] for k in range(2)] for i in which], float).reshape(-1, 2, 2)
            count = len(which)
            confidence = np.array([[0.5 + i / 4, 1] for i in which]).reshape(-1, 2)
            scores = np.linspace(0.9, 0.8, 2)[:count]
            yield Prediction("", NAMES, points, confidence, np.tile(np.eye(2), (count, 2, 1, 1)), scores=scores)


def found(folder: Path, frames: int = 8, **options: Any) -> Any:
    return predict_instances(Pair(options.pop("stop", None)), Clip(frames), folder, **options)  # type: ignore[arg-type]


def test_identities_are_kept_in_the_order_of_the_frames(tmp_path: Path) -> None:
    with found(tmp_path) as tracks:
        assert (len(tracks), len(tracks.rows)) == (8, 13)
        assert tracks.frame.tolist() == [0, 0, 1, 1, 2, 2, 4, 5, 5, 6, 6, 7, 7]
        assert tracks.number.tolist() == [0, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1]
        assert tracks.xy[:, 0, 0].tolist() == [100 * n + t for n, t in zip(tracks.number, tracks.frame, strict=True)]
        assert tracks.confidence[:, 0].tolist() == [0.5 + n / 4 for n in tracks.number]
        assert tracks.of_frame(4) == slice(6, 7)
        assert tracks.of_frame(3) == slice(6, 6)
        assert {number: len(rows) for number, rows in tracks.identities()} == {0: 6, 1: 7}
        assert tracks.guesses() == []
    assert not list(tmp_path.iterdir())
    with found(tmp_path, track=False) as tracks:
        assert tracks.number.tolist() == [0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1]
        assert tracks.xy[2:4, 0, 0].tolist() == [101, 1], "the better one first"


def test_ctrl_c_keeps_the_frames_that_are_predicted(tmp_path: Path) -> None:
    with found(tmp_path, stop=4) as tracks:
        assert (len(tracks), len(tracks.rows), tracks.interrupted) == (4, 6, True)
    with pytest.raises(KeyboardInterrupt), found(tmp_path, stop=0):
        pass
    assert not list(tmp_path.iterdir())


def test_identities_are_smoothed_by_themselves(tmp_path: Path) -> None:
    seen = []

    def smoother(xy: np.ndarray, weight: np.ndarray) -> np.ndarray:
        seen.append((xy[:, 0, 0].tolist(), weight[:, 0].tolist()))
        return xy + 1000

    with found(tmp_path, smoother=smoother) as tracks:
        assert np.array_equal(tracks.best, tracks.xy + 1000)
        one, other = seen
        np.testing.assert_equal(one[0], [0, 1, 2, np.nan, np.nan, 5, 6, 7])
        assert one[1] == [0.5, 0.5, 0.5, 0, 0, 0.5, 0.5, 0.5]
        np.testing.assert_equal(other[0], [100, 101, 102, np.nan, 104, 105, 106, 107])
        whole = np.array(tracks.smooth)
        instance_tracks_held = instance_tracks.HELD
        try:
            instance_tracks.HELD = 8  # a point at a time
            part = np.empty_like(whole)
            smooth_identities(tracks, lambda xy, weight: xy + 1000, part)
        finally:
            instance_tracks.HELD = instance_tracks_held
        assert np.array_equal(whole, part)


@pytest.mark.parametrize("chunk", [4096, 2])
def test_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(instance_tracks, "CHUNK", chunk)
    monkeypatch.setattr(instance_tracks, "CELLS", 12 * chunk)
    with found(tmp_path) as tracks:
        tracks.rows[7, 2] = 1  # of track_0 in frame 5
        assert tracks.guesses() == [(5, 5)]
        write_instances(tracks, tmp_path / "long.csv")
        write_instances(tracks, tmp_path / "long.parquet")
        write_deeplabcut(tracks, tmp_path / "wide.csv")
    with (tmp_path / "long.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["frame", "time", "track", "name", "x", "y", "confidence", "score", "uncertain"]
    assert len(rows) == 1 + 13 * 2
    assert rows[1] == ["0", "0.0000", "track_0", "a", "0.0000", "0.0000", "0.5000", "0.9000", "0"]
    assert rows[16] == ["5", "0.2500", "track_0", "b", "5.0000", "20.0000", "1.0000", "0.8000", "1"]
    same = pd.read_parquet(tmp_path / "long.parquet")
    table = pd.read_csv(tmp_path / "long.csv")
    assert list(same.columns) == list(table.columns)
    assert same[["frame", "track", "name", "uncertain"]].equals(
        table[["frame", "track", "name", "uncertain"]].astype(same[["frame", "track", "name", "uncertain"]].dtypes)
    )
    np.testing.assert_allclose(same[["x", "y", "score"]], table[["x", "y", "score"]], atol=5e-5)
    wide = pd.read_csv(tmp_path / "wide.csv", header=[0, 1, 2, 3], index_col=0)  # as DeepLabCut reads it
    assert wide.columns.names == ["scorer", "individuals", "bodyparts", "coords"]
    assert list(wide.index) == list(range(8))
    assert wide["kpnet", "track_1", "b", "x"].tolist()[4:] == [104, 105, 106, 107]
    assert wide["kpnet", "track_0", "a", "likelihood"].isna().tolist() == [False] * 3 + [True] * 2 + [False] * 3


def test_a_video_without_an_instance_has_tables_all_the_same(tmp_path: Path) -> None:
    none = InstanceTracks(NAMES, np.arange(3) / 20, np.zeros((0, 10)), ("score",))
    write_instances(none, tmp_path / "long.csv")
    write_deeplabcut(none, tmp_path / "wide.csv")
    assert (tmp_path / "long.csv").read_text() == "frame,time,track,name,x,y,confidence,score,uncertain\n"
    assert len((tmp_path / "wide.csv").read_text().splitlines()) == 4 + 3
    assert none.guesses() == []


def test_guesses_are_stretches_of_frames() -> None:
    frames = np.array([3, 4, 7, 20, 40, 41])
    rows = np.column_stack([frames, np.zeros(6), [1, 1, 1, 0, 1, 1], np.zeros((6, 6))])
    assert InstanceTracks(NAMES, np.arange(50.0), rows).guesses() == [(3, 7), (40, 41)]

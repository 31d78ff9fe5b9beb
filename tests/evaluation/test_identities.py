"""Measures of identities, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.evaluation.identities import IdentityMeasures, TrueTracks, read_tracks

SKELETON = Skeleton(("a", "b"))
SHAPE = np.array([[0.0, 0], [50, 40]])


def measured(ids: list[list[int]], places: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Two tracks stand at x = 0 and 500 in ten frames, each frame's instances are at `places` and have `ids`."""
    pytest.importorskip("trackeval")
    truth = np.array([SHAPE, SHAPE + np.array([500, 0])])
    measures = IdentityMeasures(TrueTracks(["p", "q"], np.arange(5, 15), np.tile(truth, (10, 1, 1, 1))), SKELETON)
    for t, (own, xs) in enumerate(zip(ids, places, strict=True)):
        measures.add(t + 5, np.array(own, int), np.array([SHAPE + np.array([x, 0]) for x in xs]).reshape(-1, 2, 2))
    measures.add(99, np.array([7]), SHAPE[None])  # a frame that is not labelled
    return measures.compute()


def test_perfect_identities() -> None:
    found = measured([[3, 8]] * 10, [[500, 0]] * 10)
    assert (found["frames"], found["tracks"], found["identities"], found["switches"]) == (10, 2, 2, 0)
    assert [found[name] for name in ("idf1", "id_precision", "id_recall", "hota", "deta", "assa")] == [1] * 6


def test_identities_that_change_places() -> None:
    """From the sixth frame on they are swapped: half of the points of each track have the right identity."""
    found = measured([[0, 1]] * 5 + [[1, 0]] * 5, [[0, 500]] * 10)
    assert (found["switches"], found["idf1"], found["deta"]) == (2, 0.5, 1)
    # Each match has 5 frames in common of 15 in which either is seen.
    assert found["assa"] == pytest.approx(1 / 3)
    assert found["hota"] == pytest.approx(3**-0.5)


def test_missed_and_false_instances() -> None:
    """The second track is missed in five frames; in two others there is a third instance; -1 counts for nothing."""
    ids = [[0, 1]] * 3 + [[0]] * 5 + [[0, 1, 2]] * 2
    found = measured(ids, [[0, 500]] * 3 + [[0]] * 5 + [[0, 500, 900]] * 2)
    assert found["switches"] == 0
    assert found["id_recall"] == pytest.approx(15 / 20)
    assert found["id_precision"] == pytest.approx(15 / 17)
    assert found["deta"] == pytest.approx(15 / 22)
    assert measured([[0, -1]] * 10, [[0, 900]] * 10)["id_precision"] == 1


def test_a_track_is_not_labelled_in_every_frame() -> None:
    pytest.importorskip("trackeval")
    points = np.tile(np.array([SHAPE, SHAPE + np.array([500, 0])]), (10, 1, 1, 1))
    points[4:, 0] = np.nan
    measures = IdentityMeasures(TrueTracks(["p", "q"], np.arange(10), points), SKELETON)
    for t in range(10):
        measures.add(t, np.array([0, 1])[t // 4 > 0 :], points[t][t // 4 > 0 :])
    found = measures.compute()
    assert (found["idf1"], found["switches"], found["hota"]) == (1, 0, 1)


def test_the_threshold_is_an_oks_of_a_half() -> None:
    """At 0.05 and the area of 50 x 40, OKS is exp(-d² / 40)."""
    near, far = (float(np.sqrt(40 * np.log(2))) + step for step in (-0.01, 0.01))
    assert measured([[0, 1]] * 10, [[near, 500]] * 10)["idf1"] == 1
    assert measured([[0, 1]] * 10, [[far, 500]] * 10)["idf1"] == 0.5


def test_tracks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "tracks.csv"
    path.write_text("frame,time,track,name,x,y\n7,0,m,b,1.5,2\n3,0,m,a,3,4\n3,0,n,a,,\n3,0,n,b,5,6\n")
    tracks = read_tracks(path, SKELETON)
    assert (tracks.names, tracks.frames.tolist()) == (["m", "n"], [3, 7])
    nan = [np.nan, np.nan]
    np.testing.assert_equal(tracks.points, [[[[3, 4], nan], [nan, [5, 6]]], [[nan, [1.5, 2]], [nan, nan]]])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("frame,track,x,y\n0,m,1,2\n", "no column name; expected a CSV with the columns frame, track, name, x, y"),
        ("frame,track,name,x,y\n", "no row"),
        ("", "expected a CSV"),
        ("frame,track,name,x,y\n0,m,a,1,2\n0.5,m,b,1,2\n", 'row 3: frame: expected a number, found "0.5"'),
        ("frame,track,name,x,y\n0,m,a,left,2\n", 'row 2: x: expected a number, found "left"'),
        ("frame,track,name,x,y\n0,m,c,1,2\n", 'no point "c"'),
        ("frame,track,name,x,y\n0,m,a,1,2\n0,m,a,1,2\n", "row 3: this point of the track has a row before"),
    ],
)
def test_bad_tracks(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "tracks.csv"
    path.write_text(text)
    with pytest.raises(KpnetError) as caught:
        read_tracks(path, SKELETON)
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(KpnetError, match="No such file"):
        read_tracks(tmp_path / "none.csv", SKELETON)

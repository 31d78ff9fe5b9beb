"""Arrays in an npz, read as they were saved."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.format_files import NAMES

from kpnet.core.errors import KpnetError
from kpnet.data import NPZ
from kpnet.data.formats.npz import write_npz

IMAGES, POINTS = np.zeros((2, 8, 9), np.uint8), np.ones((2, 3, 2))


ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no points": ({"images": IMAGES, "keypoint": POINTS}, r'no array "keypoints" in it \(did you mean "keypoint"\?\)'),
    "other length": ({"images": IMAGES, "keypoints": POINTS[:1]}, r'"keypoints": expected numbers \(2, K, 2\), found'),
    "flat": (
        {"images": IMAGES, "keypoints": POINTS.reshape(2, 6)},
        r"expected numbers \(2, K, 2\), found float64 \(2, 6\)",
    ),
    "objects": ({"images": IMAGES, "keypoints": np.array([{}, {}])}, "not a readable npz file of plain arrays"),
    "float images": ({"images": IMAGES / 255, "keypoints": POINTS}, '"images": expected uint8'),
    "names": ({"images": IMAGES, "keypoints": POINTS, "names": ["a"]}, r'"names": expected text \(3\), found'),
    "boxes": ({"images": IMAGES, "keypoints": POINTS, "boxes": POINTS}, r'"boxes": expected numbers \(2, 4\)'),
    "nothing": ({"images": IMAGES[:0], "keypoints": POINTS[:0]}, '"images": expected uint8'),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_no_npz(tmp_path: Path, name: str) -> None:
    arrays, message = ARRAYS[name]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(KpnetError, match=message) as caught:
        NPZ(tmp_path / "a.npz")
    assert "\n" not in str(caught.value)


def test_npz_with_all_it_may_have(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    points = np.array([[[1, 2], [np.nan, 3]], [[4, 5], [6, 7]], [[8, np.inf], [1, 1]]])
    given: dict[str, Any] = {
        "visibility": [[1, 2], [2, 1], [2, 2]],
        "boxes": [[0, 0, 3, 3], [np.nan] * 4, [0, 0, 1, 1]],
    }
    images = np.arange(3 * 8 * 9, dtype=np.uint8).reshape(3, 8, 9)
    np.savez(tmp_path / "a.npz", images=images, keypoints=points, names=NAMES[:2], image_names=["b", "a", "a"], **given)
    data = NPZ(tmp_path / "a.npz")
    assert [data.image_name(i) for i in range(len(data))] == ["b", "a"]
    assert data.visibility(0).tolist() == [1, 0]
    assert data.visibility(1).tolist() == [2, 1]
    assert data.box(0).tolist() == [0, 0, 3, 3]  # type: ignore[union-attr]
    assert data.box(1) is None
    assert np.array_equal(data.read(1)[0], images[1])
    assert "row 2: left_ear" not in caplog.text
    assert "row 2: nose is at 8, inf" in caplog.text


def test_npz_points_that_are_told_to_be_absent(tmp_path: Path) -> None:
    given: dict[str, Any] = {"visibility": np.array([[0, 1], [2, 3], [np.nan, 2]])}
    points = np.arange(12.0).reshape(3, 2, 2)
    images = np.repeat(np.arange(3, dtype=np.uint8), 8 * 9).reshape(3, 8, 9)
    np.savez(tmp_path / "a.npz", images=images, keypoints=points, names=NAMES[:2], **given)
    data = NPZ(tmp_path / "a.npz")
    assert data.skipped.notes == ["row 1: left_ear has visibility 3; expected 0, 1 or 2; the point is left out"]
    assert [data.visibility(i).tolist() for i in range(3)] == [[0, 1], [2, 0], [2, 2]]
    assert np.array_equal(data.read(0)[1], np.array([[np.nan, np.nan], [2, 3]]), equal_nan=True)
    with pytest.raises(KpnetError, match="row 1: left_ear has visibility 3"):
        NPZ(tmp_path / "a.npz", strict=True)


def test_what_is_written_are_plain_arrays_by_their_names(tmp_path: Path) -> None:
    """Read by numpy alone, from a file in which one box and one point are missing."""
    images = np.tile(np.arange(4 * 5 * 3, dtype=np.uint8).reshape(1, 4, 5, 3), (2, 1, 1, 1))
    xy = np.array([[[1.0, 2.5], [np.nan, np.nan]], [[0.0, 1.0], [2.0, 3.0]]])
    boxes = np.array([[0.0, 1, 3, 4], [np.nan] * 4])
    given: dict[str, Any] = {
        "images": images,
        "keypoints": xy,
        "names": NAMES[:2],
        "boxes": boxes,
        "image_names": ["a", "a"],
    }
    np.savez(tmp_path / "a.npz", visibility=[[1, 0], [2, 2]], **given)
    file = io.BytesIO()
    write_npz(NPZ(tmp_path / "a.npz"), file)
    file.seek(0)
    with np.load(file, allow_pickle=False) as written:
        arrays = dict(written)
    assert arrays["visibility"].tolist() == [[1, 0], [2, 2]]
    for key, values in given.items():
        np.testing.assert_array_equal(arrays[key], np.asarray(values))

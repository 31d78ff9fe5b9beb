"""300-W folders: faces with 68 points, and what is wrong with a .pts file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.format_files import write_pts
from support.paths import SHARED

from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import PTS, KaggleCSV
from kpnet.data.wrappers.concat import ConcatDataset, ConcatPart

HELEN = SHARED / "data" / "helen68" / "val"
real_data = pytest.mark.skipif(not HELEN.is_dir(), reason=f"no {HELEN} (set KPNET_SHARED)")


@real_data
def test_real_faces_hold_the_fifteen_points_of_another_file() -> None:
    """helen68 and faces15 are the same faces, cropped and scaled: one affine mapping a face takes all 15 points, by
    name and with the eye centres as means, onto those of the other file."""
    faces = PTS(HELEN, index_base=0)
    assert len(faces) == 200
    assert faces.skeleton == Skeleton.load("ibug68")
    ours = ConcatDataset(Skeleton.load("facial15"), [ConcatPart("helen", faces)])
    assert ours.labels().all()
    theirs = KaggleCSV(SHARED / "data" / "faces15" / "val.csv").keypoints
    points = [np.column_stack([ours.read(i)[1], np.ones(15)]) for i in range(0, 200, 25)]
    for each in points:
        rest = [np.abs(each @ np.linalg.lstsq(each, other, rcond=None)[0] - other).max() for other in theirs]
        assert min(rest) < 0.01
        assert sorted(rest)[1] > 0.3  # no other face fits


@real_data
def test_one_based_is_the_default(tmp_path: Path) -> None:
    assert np.allclose(PTS(HELEN, index_base=0).keypoints(3) - PTS(HELEN).keypoints(3), 1)


def test_sixty_eight_points_mirror_onto_each_other() -> None:
    """The pairs by 300-W's own numbers, from 1 to 68."""
    flip = Skeleton.load("ibug68").flip_permutation
    published = {1: 17, 2: 16, 8: 10, 9: 9, 18: 27, 22: 23, 31: 31, 32: 36, 33: 35, 34: 34, 37: 46, 38: 45, 39: 44,
                 40: 43, 41: 48, 42: 47, 49: 55, 50: 54, 51: 53, 52: 52, 56: 60, 57: 59, 58: 58, 61: 65, 62: 64, 63: 63,
                 66: 68, 67: 67}  # fmt: skip
    for one, other in published.items():
        assert flip[one - 1] == other - 1
        assert flip[other - 1] == one - 1


def test_subfolders_and_names(tmp_path: Path) -> None:
    write_pts(tmp_path / "x")
    write_pts(tmp_path / "y")
    data = PTS(tmp_path)
    assert [data.image_name(i) for i in range(6)] == [f"{folder}/{name}.png" for folder in "xy" for name in "abc"]
    assert data.skeleton.names == ("0", "1", "2")


def test_whose_points_sixty_eight_are(tmp_path: Path) -> None:
    """The asked-for skeleton's, if it has as many; ibug68's without one, or with one of another number."""
    write_pts(tmp_path)
    points = "\n".join(f"{k % 40 + 1} {k // 40 + 1}" for k in range(68))
    for path in tmp_path.glob("*.pts"):
        path.write_text(f"version: 1\nn_points: 68\n{points}\n")
    mine = Skeleton.load([f"p{k}" for k in range(68)])
    assert PTS(tmp_path, skeleton=mine).skeleton == mine
    assert PTS(tmp_path, skeleton=Skeleton.load("facial15")).skeleton == Skeleton.load("ibug68")
    assert PTS(tmp_path).skeleton == Skeleton.load("ibug68")


BAD: dict[str, tuple[str, str]] = {
    "cut short": ("version: 1\nn_points: 3\n{\n1 2\n3 4\n", "b.pts: points: expected 3, found 2; is it cut short?"),
    "words": ("n_points: 3\n{\n1 2\nleft eye\n3 4\n}", 'b.pts: line 4: "left eye"; expected x y of a point'),
    "three numbers": ("n_points: 1\n{\n1 2 3\n}", 'b.pts: line 3: "1 2 3"; expected x y'),
    "empty": ("", "b.pts: points: expected at least 1, found 0"),
    "other number": ("n_points: 2\n{\n1 2\n3 4\n}", "b.pts: points: expected 3 as in most of the folder, found 2"),
    "infinite": ("1 2\n3 4\ninf 5", "b.pts: 2 is at inf, 4; expected pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_left_out_and_named(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    text, message = BAD[name]
    (write_pts(tmp_path) / "b.pts").write_text(text)
    data = PTS(tmp_path)
    assert [data.image_name(i) for i in range(2)] == ["a.png", "c.png"]
    (record,) = caplog.records
    assert record.getMessage() == f"{tmp_path}: 1 skipped, 2 kept: {data.skipped.messages[0]}"
    assert message in data.skipped.messages[0]
    with pytest.raises(KpnetError, match=r"b\.pts"):
        PTS(tmp_path, strict=True)


def test_missing_doubled_and_damaged_pictures(tmp_path: Path) -> None:
    write_pts(tmp_path)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "b.png").unlink()
    data = PTS(tmp_path)
    assert data.skipped.messages == [
        "a.pts: 2 images of that name: a.jpg, a.png",
        "b.pts: no image of that name beside it",
    ]
    whole = (tmp_path / "c.png").read_bytes()
    (tmp_path / "c.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(KpnetError, match=r"no usable labelled instances; 3 skipped: a\.pts"):
        PTS(tmp_path)


def test_nan_is_a_missing_point(tmp_path: Path) -> None:
    write_pts(tmp_path)
    assert PTS(tmp_path).labels().tolist() == [[True] * 3, [True] * 3, [True, False, True]]


@pytest.mark.parametrize("make", ["nothing", "file", "empty"])
def test_no_folder_of_faces(tmp_path: Path, make: str) -> None:
    path = tmp_path / "x"
    if make == "empty":
        path.mkdir()
    elif make == "file":
        path.write_text("a")
    with pytest.raises(KpnetError, match=r"no such folder|found no \.pts file"):
        PTS(path)

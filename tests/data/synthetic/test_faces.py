"""The image is the oracle: what is drawn must lie where the keypoint says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kpnet.config.schema import DataConfig
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import DATASETS, SyntheticFaces
from kpnet.data.synthetic.face_model import DEFORMATIONS, Canvas, Face, Tones, draw_face, rotation
from kpnet.data.synthetic.faces import random_face

NAMES = Skeleton.load("facial15").names
PLAIN = np.full((1, 1), 100, np.uint8)
POSES: dict[str, tuple[np.ndarray, tuple[float, float]]] = {
    "frontal": (np.zeros(3), (0, 0)),
    "half a pixel on": (np.zeros(3), (0.5, 0.25)),
    "turned": (np.radians([20, -8, 15]), (-3.3, 1.7)),
}


def face_at(pose: str, size: int = 96, scale: float = 0.4) -> Face:
    angles, shift = POSES[pose]
    return Face(size, np.zeros(len(DEFORMATIONS)), rotation(*angles), scale * size, shift)


def changed(face: Face, size: int, **tones: float) -> np.ndarray:
    """Coverage (size, size), 0 to 1, of what changes in the image with one tone."""
    pictures = []
    every: list[dict[str, float]] = [{}, tones]
    for values in every:
        canvas = Canvas(size, PLAIN)
        draw_face(canvas, face, Tones(**values), fringe=False)
        pictures.append(canvas.image().astype(float))
    difference = np.abs(pictures[1] - pictures[0])
    return difference / difference.max()


def centroid(weights: np.ndarray) -> np.ndarray:
    rows, columns = np.indices(weights.shape)
    return np.array([(columns * weights).sum(), (rows * weights).sum()]) / weights.sum()


@pytest.mark.parametrize("size", [96, 64, 160])
@pytest.mark.parametrize("pose", POSES)
def test_pupils_and_nose_tip_are_centred_on_their_points(size: int, pose: str) -> None:
    face = face_at(pose, size)
    left, right = face.keypoints[0], face.keypoints[1]
    pupils = changed(face, size, pupil=255)
    on_the_left = np.arange(size) > (left[0] + right[0]) / 2  # the subject's left is the image's right
    assert np.abs(centroid(pupils * on_the_left) - left).max() < 0.1
    assert np.abs(centroid(pupils * ~on_the_left) - right).max() < 0.1
    tip = face.keypoints[NAMES.index("nose_tip")]
    assert np.abs(centroid(changed(face, size, nose_tip=20)) - tip).max() < 0.1


def test_the_lips_end_at_their_points() -> None:
    face = face_at("half a pixel on")
    lips = changed(face, 96, lips=20)
    left, right, top, bottom = face.keypoints[11:]
    columns = np.flatnonzero((lips > 0.25).any(0))  # the corners are thin
    rows = np.flatnonzero((lips > 0.5).any(1))
    assert np.abs([columns[-1] - left[0], columns[0] - right[0]]).max() < 1
    assert (
        np.abs([rows[0] - 0.5 - top[1], rows[-1] + 0.5 - bottom[1]]).max() < 0.65
    )  # half a pixel of rounding, and the pen


def test_the_eyebrows_end_at_their_points() -> None:
    face = face_at("frontal")
    inner, outer = face.keypoints[6], face.keypoints[7]
    brow = changed(face, 96, hair=10) > 0.25
    rows, columns = np.indices(brow.shape)
    brow &= (abs(rows - inner[1]) < 4) & (columns > 48) & (columns < outer[0] + 3)  # not the hair
    found = np.flatnonzero(brow.any(0))
    assert np.abs([found[0] - 0.5 - inner[0], found[-1] + 0.5 - outer[0]]).max() < 0.75


def test_left_and_right_are_the_subjects() -> None:
    xy = face_at("frontal").keypoints
    for left, right in Skeleton.load("facial15").pairs:
        assert xy[NAMES.index(left), 0] > xy[NAMES.index(right), 0] + 5
    assert np.abs(xy[NAMES.index("nose_tip"), 0] - 47.5) < 1e-9


def test_deterministic_by_seed_and_index() -> None:
    a, b = SyntheticFaces(9, seed=4), SyntheticFaces(5, seed=4)
    b.read(0)
    assert np.array_equal(a.read(3)[0], b.read(3)[0])
    assert np.array_equal(a.read(3)[1], b.read(3)[1])
    other = SyntheticFaces(9, seed=5).read(3)
    for read in (a.read(4), other):
        assert not np.array_equal(a.read(3)[0], read[0])
        assert not np.array_equal(a.read(3)[1], read[1])


@pytest.mark.parametrize("size", [32, 96])
def test_items(size: int) -> None:
    data = SyntheticFaces(100, seed=1, size=size)
    assert data.skeleton.name == "facial15"
    for index in range(len(data)):
        image, xy = data.read(index)
        assert (image.dtype, image.shape, xy.shape) == (np.uint8, (size, size), (15, 2))
        assert (xy > 0).all()
        assert (xy < size - 1).all()
        assert image.std() > 5
    assert data[0]["visible"].all()


def test_the_points_vary() -> None:
    xy = np.stack([random_face(np.random.default_rng(i), 96).keypoints for i in range(300)])
    assert (xy.std(0) > 3).all()
    eyes = np.linalg.norm(xy[:, 0] - xy[:, 1], axis=-1)
    assert eyes.max() > 1.4 * eyes.min()


def test_indices_end() -> None:
    data = SyntheticFaces(2)
    items: Any = data
    assert sum(1 for _ in items) == 2, "a loop ends by the IndexError"
    with pytest.raises(IndexError):
        data.read(2)


def test_open_from_a_config() -> None:
    open_ = DATASETS.find("synthetic").open
    assert len(open_(DataConfig(), "30", Skeleton.load("facial15"), seed=2)) == 30
    assert len(open_(DataConfig(), 30, None)) == 30
    with pytest.raises(KpnetError, match=r'found "train\.csv", expected their number'):
        open_(DataConfig(), "train.csv", None)
    assert open_(DataConfig(), 30, Skeleton(("a",))).skeleton.names == NAMES  # the caller matches them
    with pytest.raises(KpnetError, match="at least 1"):
        SyntheticFaces(0)

"""Examining a dataset with predictions for it, and the copy in which the proposals are the labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.format_files import coco_values, write_coco, write_points_csv

from kpnet import KpnetError, coordinates
from kpnet.core.skeleton import Skeleton
from kpnet.data import COCO, KeypointDataset, PointsCSV, SyntheticFaces
from kpnet.data.formats.writing import sample_sources
from kpnet.evaluation.doctor import examine, mend
from kpnet.evaluation.measurement import Predictions
from kpnet.evaluation.suspicions import EXCHANGED, MISSING, SIDES, Suspicion
from kpnet.heads import Keypoints

FACES = SyntheticFaces(60)
TRUTH = np.stack([FACES.read(index)[1] for index in range(len(FACES))])
SHIFT, SCALE = np.array([5.0, 3.0]), 0.5  # of the model's input


class Spoilt(KeypointDataset):
    """The drawn faces with other labels, and without an image."""

    def __init__(self, xy: np.ndarray, skeleton: Skeleton) -> None:
        super().__init__()
        self.xy, self.skeleton = xy, skeleton

    def __len__(self) -> int:
        return len(self.xy)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((96, 96), np.uint8), self.xy[index].copy()


def oracle(labels: np.ndarray) -> Predictions:
    """Predictions half a pixel off, for an input of 64 by 48 that shows the image at half its size."""
    size = (48, 64)
    seen = (TRUTH + np.random.default_rng(0).normal(0, 0.5, TRUTH.shape)) * SCALE + SHIFT
    target = coordinates.pixel_to_normalized(labels * SCALE + SHIFT, size)
    visible = np.isfinite(labels).all(-1)
    matrix = torch.tensor([[SCALE, 0, SHIFT[0]], [0, SCALE, SHIFT[1]]]).expand(len(TRUTH), 2, 3)
    predicted = torch.from_numpy(coordinates.pixel_to_normalized(seen, size)).float()
    points = torch.from_numpy(np.nan_to_num(target)).float()
    return Predictions(Keypoints(predicted), points, torch.from_numpy(visible), matrix, images=np.arange(len(TRUTH)))


def test_labels_are_compared_in_pixels_of_the_image_and_by_name() -> None:
    labels = TRUTH.copy()
    labels[3] = labels[3, FACES.skeleton.flip_permutation]
    labels[8, 10] += 20
    order = list(range(14, -1, -1))  # the dataset has the points in another order
    names = tuple(FACES.skeleton.names[k] for k in order)
    data = Spoilt(labels[:, order], Skeleton(names))
    found = examine(data, oracle(labels), FACES.skeleton, (48, 64))
    assert [(each.index, each.kind) for each in found.suspicions] == [(3, SIDES), (8, "off")]
    assert np.abs(found.predicted - TRUTH).max() < 3
    assert np.array_equal(found.suspicions[0].proposal, TRUTH[3])


def test_points_that_the_data_do_not_have_are_not_missing() -> None:
    data = Spoilt(TRUTH[:, :10], Skeleton(FACES.skeleton.names[:10]))
    labels = TRUTH.copy()
    labels[:, 10:] = np.nan
    assert not examine(data, oracle(labels), FACES.skeleton, (48, 64)).suspicions


def test_few_labels_are_refused() -> None:
    labels = np.full_like(TRUTH, np.nan)
    labels[:49, 0] = TRUTH[:49, 0]
    with pytest.raises(KpnetError, match=r"^49 labelled points; expected at least 50, from which"):
        examine(Spoilt(labels, FACES.skeleton), oracle(labels), FACES.skeleton, (48, 64))


def suspicion(index: int, kind: str, points: tuple[int, ...], proposal: np.ndarray) -> Suspicion:
    return Suspicion(index, kind, points, 9.0, 9.0, proposal, True, "")


def test_a_mended_copy_keeps_visibility_boxes_and_the_original(tmp_path: Path) -> None:
    values = coco_values()
    values["annotations"][0]["keypoints"][2::3] = [2, 1, 2]
    data = COCO(write_coco(tmp_path, values))
    before = [data.read(index)[1] for index in range(len(data))]
    exchanged = before[0][[1, 0, 2]]
    lacking = next(index for index, xy in enumerate(before) if np.isnan(xy).any())
    added = before[lacking].copy()
    k = int(np.isnan(added).any(-1).argmax())
    added[k] = 7, 9
    found = [suspicion(0, EXCHANGED, (0, 1), exchanged), suspicion(lacking, MISSING, (k,), added)]
    mended = mend(data, found, data.skeleton)
    assert np.array_equal(mended.read(0)[1], exchanged)
    assert np.array_equal(mended.read(lacking)[1], added)
    assert mended.visibility(0).tolist() == data.visibility(0)[[1, 0, 2]].tolist()
    assert mended.visibility(lacking)[k] == 2
    for index in range(len(data)):
        assert np.array_equal(data.read(index)[1], before[index], equal_nan=True)
        np.testing.assert_equal(mended.box(index), data.box(index))
        if index not in (0, lacking):
            assert np.array_equal(mended.read(index)[1], before[index], equal_nan=True)


def test_a_mended_copy_says_who_made_each_point(tmp_path: Path) -> None:
    """A label takes its source and its visibility along; the model's points are proposed, and hidden if theirs were."""
    values = coco_values()
    values["annotations"] = values["annotations"][:1]
    values["annotations"][0]["keypoints"][2::3] = [2, 1, 2]
    values["annotations"][0]["kpnet"] = {"sources": ["person", "proposed", None]}
    data = COCO(write_coco(tmp_path, values))
    xy = data.read(0)[1]

    def mended(kind: str, points: tuple[int, ...], proposal: np.ndarray) -> tuple[list[int], list[int]]:
        other = mend(data, [suspicion(0, kind, points, proposal)], data.skeleton)
        sources = sample_sources(other, 0)
        assert sources is not None
        return sources.tolist(), other.visibility(0).tolist()

    assert mended(EXCHANGED, (0, 1), xy[[1, 0, 2]]) == ([2, 1, 0], [1, 2, 2])
    assert mended("off", (0, 1, 2), xy + 1) == ([2, 2, 2], [2, 1, 2])
    assert mended("wrong order", (0, 1), np.array([xy[1], [np.nan, np.nan], xy[2]])) == ([2, 0, 0], [1, 0, 2])
    stated = data.point_sources(0)
    assert stated is not None
    assert stated.tolist() == [1, 2, 0]


def test_only_the_points_concerned_are_mended(tmp_path: Path) -> None:
    """Two suspicions of one sample do not undo each other."""
    data = PointsCSV(write_points_csv(tmp_path))
    xy = data.read(0)[1]
    one, two = xy.copy(), xy.copy()
    one[0] += 1
    two[1] += 2
    mended = mend(data, [suspicion(0, "off", (0,), one), suspicion(0, "off", (1,), two)], data.skeleton)
    assert np.allclose(mended.read(0)[1] - xy, [[1, 1], [2, 2], [0, 0]])


def test_drawn_labels_cannot_be_mended() -> None:
    with pytest.raises(KpnetError, match="SyntheticFaces: its labels cannot be replaced"):
        mend(FACES, [], FACES.skeleton)

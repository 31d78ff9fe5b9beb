"""Suspected labels of a session: what is shown, and what would mend it."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.suspected_labels import IMAGES, WRONG, write_suspected

from kpnet import coordinates
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.data import KeypointDataset, SyntheticFaces
from kpnet.evaluation.doctor import Examination, examine
from kpnet.evaluation.measurement import Predictions
from kpnet.heads import Keypoints
from kpnet.labelling import suspicions
from kpnet.labelling.label_rows import Instance, Point
from kpnet.labelling.labels import LabelFile
from kpnet.labelling.source import Source, open_labels, open_source
from kpnet.labelling.suspicions import examine_labels

SIZE = (96, 96)


def test_labels_that_do_not_fit_are_the_models_points_once_mended(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted = write_suspected(tmp_path / "images", trained)
    source = open_source(tmp_path / "images")
    labels = open_labels(source, source.labels)
    (given,) = labels.instances(WRONG)
    hidden = tuple(None if point is None else point._replace(visibility=1) for point in given.points[:1])
    labels.put(WRONG, (Instance((*hidden, *given.points[1:])),), labels.revision)
    read: list[int] = []
    read_one = Source.read

    def read_and_note(self: Source, index: int) -> np.ndarray:
        read.append(index)
        return read_one(self, index)

    monkeypatch.setattr(Source, "read", read_and_note)
    found = examine_labels(trained, source, labels)
    assert next(iter(found)) == WRONG
    assert sorted(read) == list(range(IMAGES)), "each image once"
    (suspected,) = found[WRONG]
    assert (suspected.instance, suspected.kind) == (0, "another instance")  # one of three points: which, is not sure
    assert [k for k, _, _ in suspected.changes] == [0, 1, 2]
    assert tuple(before for _, before, _ in suspected.changes) == labels.instances(WRONG)[0].points
    mended = [after for _, _, after in suspected.changes if after is not None]
    assert {point.source for point in mended} == {"proposed"}
    assert [point.visibility for point in mended] == [1, 2, 2]
    np.testing.assert_allclose(np.array([point[:2] for point in mended], float), predicted[WRONG], atol=1)


def test_images_that_cannot_be_read_are_skipped(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_suspected(tmp_path / "images", trained)
    (tmp_path / "images" / "03.png").write_bytes(b"damaged")
    source = open_source(tmp_path / "images")
    with caplog.at_level(logging.WARNING):
        found = examine_labels(trained, source, open_labels(source, source.labels))
    assert next(iter(found)) == WRONG
    assert f"1 skipped, {IMAGES - 1} kept: 03.png" in caplog.text


def test_points_that_the_run_lacks_are_none_of_the_fifty(trained: Path, tmp_path: Path) -> None:
    """Of 180 labelled points, the run predicts 20."""
    write_suspected(tmp_path / "images", trained)
    names = [f"{k:02d}.png" for k in range(IMAGES)]
    points = tuple(Point(float(k), 2.0, 2, "person") for k in range(9))
    skeleton = Skeleton(("nose", *map(str, range(8))))
    labels = LabelFile(tmp_path / "other.csv", names, skeleton, dict.fromkeys(range(IMAGES), (Instance(points),)))
    source = open_source(tmp_path / "images")
    with pytest.raises(KpnetError, match=f"^{IMAGES} labelled points of those that .* predicts; expected at least 50,"):
        examine_labels(trained, source, labels)


def test_no_label_is_examined(trained: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
    labels = LabelFile(tmp_path / "labels.csv", ["a.png"], Skeleton(("nose",)))
    with pytest.raises(KpnetError, match=r"labels\.csv: no labelled point in it; expected labels to examine: place"):
        examine_labels(trained, Source([tmp_path / "a.png"], labels.path), labels)


def test_labels_that_are_exchanged_keep_who_made_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session has other points, in another order, and the second instance of each image is the face."""
    faces = SyntheticFaces(30)
    names = ("tail", *reversed(faces.skeleton.names))
    truth = np.stack([faces.read(index)[1] for index in range(len(faces))])
    wrong = truth.copy()
    wrong[4] = wrong[4, faces.skeleton.flip_permutation]

    def points(xy: np.ndarray) -> tuple[Point | None, ...]:
        return (None, *(Point(x, y, 1 + k % 2, "person") for k, (x, y) in enumerate(xy[::-1].tolist())))

    def predict(run: str | Path, dataset: KeypointDataset) -> Examination:
        seen = truth + np.random.default_rng(0).normal(0, 0.5, truth.shape)
        given, target = (torch.from_numpy(coordinates.pixel_to_normalized(xy, SIZE)).float() for xy in (seen, wrong))
        visible = torch.ones(wrong.shape[:2], dtype=torch.bool)
        matrix = torch.eye(2, 3).expand(len(seen), 2, 3)
        found = Predictions(Keypoints(given), target, visible, matrix, images=np.arange(len(seen)))
        return examine(dataset, found, faces.skeleton, SIZE)

    images = [tmp_path / f"{k}.png" for k in range(len(faces))]
    for path in images:
        cv2.imwrite(str(path), np.zeros((96, 96), np.uint8))
    nothing = Instance((None,) * len(names), (1.0, 2.0, 3.0, 4.0))
    start = {k: (nothing, Instance(points(xy))) for k, xy in enumerate(wrong)}
    labels = LabelFile(tmp_path / "labels.csv", [path.name for path in images], Skeleton(names), start)
    monkeypatch.setattr(suspicions, "examine_with_run", predict)
    found = examine_labels(tmp_path, Source(images, labels.path), labels)
    assert list(found) == [4]
    (suspected,) = found[4]
    assert (suspected.instance, suspected.kind, suspected.note) == (1, "sides swapped", "swap left and right")
    mended = list(labels.instances(4)[1].points)
    for k, before, after in suspected.changes:
        assert before == mended[k]
        mended[k] = after
    expected = np.array([(point.x, point.y) for point in mended[1:] if point is not None])
    np.testing.assert_array_equal(expected[::-1], truth[4])
    mirror = {(p.x, p.y): p.visibility for p in labels.instances(4)[1].points if p is not None}
    assert all(p.source == "person" and p.visibility == mirror[p.x, p.y] for p in mended[1:] if p is not None)

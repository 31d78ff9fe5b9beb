"""Wrong labels, planted on drawn faces beside the predictions of an oracle: each is found, named and mended."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from kpnet.core.skeleton import Skeleton
from kpnet.data import SyntheticFaces
from kpnet.evaluation.suspicions import (
    EXCHANGED,
    INSTANCE,
    MISSING,
    OFF,
    ORDER,
    SIDES,
    Suspicion,
    find_suspicions,
)

FACES = SyntheticFaces(80)
TRUTH = np.stack([FACES.read(index)[1] for index in range(len(FACES))])
SKELETON = FACES.skeleton
MIRROR = SKELETON.flip_permutation
EYES = [SKELETON.names.index(name) for name in ("left_eye_center", "right_eye_center")]
NOSE = SKELETON.names.index("nose_tip")


def examine(labels: np.ndarray, dof: float | None = 8.0, **options: object) -> list[Suspicion]:
    """Compare with predictions that are a pixel off in each direction, and say so."""
    predicted = TRUTH + np.random.default_rng(1).normal(size=TRUTH.shape)
    covariance = np.broadcast_to(np.eye(2), (*TRUTH.shape, 2))
    return find_suspicions(labels, predicted, covariance, dof, SKELETON, **options)  # type: ignore[arg-type]


def spoil(index: int, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    labels = TRUTH.copy()
    labels[index] = change(labels[index].copy())
    return labels


def exchange_eyes(xy: np.ndarray) -> np.ndarray:
    xy[EYES] = xy[EYES[::-1]]
    return xy


@pytest.mark.parametrize("dof", [None, 4.0])
def test_right_labels_are_not_suspicious(dof: float | None) -> None:
    assert not examine(TRUTH, dof, confidence=np.full(TRUTH.shape[:2], 0.999), images=[str(i // 2) for i in range(80)])


@pytest.mark.parametrize(
    ("kind", "change", "points"),
    [
        (SIDES, lambda xy: xy[MIRROR], [k for k, other in enumerate(MIRROR) if k != other]),
        (EXCHANGED, exchange_eyes, EYES),
        (ORDER, lambda xy: np.roll(xy, 1, axis=0), range(15)),
        (ORDER, lambda xy: np.roll(xy, -4, axis=0), range(15)),
        (ORDER, lambda xy: xy[[3, 4, 0, 2, 1, *range(5, 15)]], [0, 1, 2, 3, 4]),
    ],
    ids=["sides", "exchanged", "shifted", "shifted back", "five points"],
)
def test_a_wrong_order_is_put_right_to_the_last_digit(
    kind: str, change: Callable[[np.ndarray], np.ndarray], points: list[int]
) -> None:
    (found,) = examine(spoil(7, change))
    assert (found.index, found.kind, found.certain) == (7, kind, True)
    assert sorted(found.points) == sorted(points)
    assert np.array_equal(found.proposal, TRUTH[7])


def test_a_shift_is_said_in_numbers() -> None:
    (found,) = examine(spoil(7, lambda xy: np.roll(xy, -4, axis=0)))
    assert found.note == "shift the points by 4"


def test_an_order_with_a_missing_point() -> None:
    """Of the exchanged eyes one is not labelled: the label of the other goes to its place."""

    def change(xy: np.ndarray) -> np.ndarray:
        xy[EYES] = xy[EYES[1]], [np.nan, np.nan]
        return xy

    (found,) = examine(spoil(3, change))
    assert found.kind == ORDER
    assert found.note == "left_eye_center is right_eye_center"
    assert np.array_equal(found.proposal[EYES[1]], TRUTH[3, EYES[1]])
    assert np.isnan(found.proposal[EYES[0]]).all()


def test_a_point_that_is_off_moves_to_the_prediction() -> None:
    def change(xy: np.ndarray) -> np.ndarray:
        xy[NOSE] += (12, -9)
        return xy

    (found,) = examine(spoil(20, change))
    assert (found.index, found.kind, found.points, found.certain) == (20, OFF, (NOSE,), True)
    assert np.linalg.norm(found.proposal[NOSE] - TRUTH[20, NOSE]) < 4
    assert np.array_equal(np.delete(found.proposal, NOSE, 0), np.delete(TRUTH[20], NOSE, 0))
    assert found.z > 8


def test_labels_of_another_face_are_only_pointed_at() -> None:
    (found,) = examine(spoil(5, lambda xy: TRUTH[40]))
    assert (found.index, found.kind, found.certain) == (5, INSTANCE, False)
    assert np.linalg.norm(found.proposal - TRUTH[5], axis=-1).max() < 5


def test_exchanged_instances_of_an_image() -> None:
    labels, images = TRUTH.copy(), [str(index // 2) for index in range(len(TRUTH))]
    labels[[10, 11]] = labels[[11, 10]]
    found = examine(labels, images=images)
    assert sorted(each.index for each in found) == [10, 11]
    for each in found:
        assert (each.kind, each.certain) == (INSTANCE, True)
        assert np.array_equal(each.proposal, TRUTH[each.index])
    assert {each.kind for each in examine(labels)} == {INSTANCE}  # of one image or not, they are strange


def test_a_missing_point_that_is_clearly_there() -> None:
    labels = TRUTH.copy()
    labels[4, NOSE] = labels[9, NOSE] = np.nan
    confidence = np.full(TRUTH.shape[:2], 0.995)
    confidence[9, NOSE] = 0.5
    (found,) = examine(labels, confidence=confidence)
    assert (found.index, found.kind, found.points, found.certain) == (4, MISSING, (NOSE,), True)
    assert np.linalg.norm(found.proposal[NOSE] - TRUTH[4, NOSE]) < 5
    labels[: len(labels) // 2 + 1, NOSE] = np.nan  # a point that most lack is not missed
    assert not examine(labels, confidence=confidence)


def test_the_worst_come_first() -> None:
    labels = TRUTH.copy()
    labels[1] = labels[1, MIRROR]
    labels[2] = exchange_eyes(labels[2])
    labels[3, NOSE] += 7
    assert [each.index for each in examine(labels)] == [1, 2, 3]


def test_one_label_a_sample_is_enough() -> None:
    labels = np.full_like(TRUTH, np.nan)
    labels[:, NOSE] = TRUTH[:, NOSE]
    labels[6, NOSE] += 30
    labels[8] = np.nan
    (found,) = examine(labels)
    assert found.index == 6


def test_a_skeleton_without_pairs_has_no_sides() -> None:
    labels = spoil(7, lambda xy: xy[MIRROR])
    covariance = np.broadcast_to(np.eye(2), (*TRUTH.shape, 2))
    (found,) = find_suspicions(labels, TRUTH + 0.5, covariance, 5.0, Skeleton(SKELETON.names))
    assert found.kind == ORDER
    assert np.array_equal(found.proposal, TRUTH[7])

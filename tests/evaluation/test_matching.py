"""Matches of found and true instances, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.scenes import SIGMAS, Found, Truth, found_at, truth_at

from kpnet.evaluation.matching import match_instances, rank_scores, region_similarities, similarities
from kpnet.oks import oks


def test_the_better_of_two_detections_takes_the_instance() -> None:
    """The second one on the same instance is false, even though it is nearer."""
    matches = match_instances([found_at([(50, 50), (50.5, 50)], [0.6, 0.9])], [truth_at([(50, 50)])], SIGMAS)
    assert matches.score.tolist() == [0.9, 0.6]
    assert matches.row.tolist() == [1, 0]
    assert matches.target.tolist() == [0, -1]
    assert matches.right.tolist() == [True, False]
    assert matches.counted.all()
    assert matches.oks[1] == 0
    assert not len(matches.missed(0.0))


def test_detections_prefer_the_nearest_instance_that_is_left() -> None:
    truth = truth_at([(50, 50), (53, 50)])
    matches = match_instances([found_at([(51, 50), (51.2, 50)], [0.9, 0.8])], [truth], SIGMAS)
    assert matches.target.tolist() == [0, 1]
    assert matches.missed(0.85).tolist() == [[0, 1]]


def test_images_are_apart() -> None:
    found = [found_at([(20, 20)], [0.7]), found_at([], []), found_at([(80, 80)], [0.8])]
    truth = [truth_at([(20, 20)]), truth_at([(80, 80)]), truth_at([])]
    matches = match_instances(found, truth, SIGMAS)
    assert matches.image.tolist() == [0, 2]
    assert matches.right.tolist() == [True, False]
    assert matches.instances.tolist() == [[0, 0], [1, 0]]
    assert matches.missed(0.5).tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("truth", "counted"),
    [
        (truth_at([(20, 20)]), True),
        (truth_at([(20, 20)], ignored=[(70, 70, 90, 90)]), False),
        (truth_at([(20, 20)], ignored=[(150, 150, 170, 170)]), True),
        (truth_at([(20, 20)], partial=True), False),
        (truth_at([(20, 20), (80, 80)], hidden=[1]), False),
    ],
    ids=["nothing there", "ignored region", "another region", "partly labelled", "instance without points"],
)
def test_what_is_neither_right_nor_wrong(truth: Truth, counted: bool) -> None:
    matches = match_instances([found_at([(20, 20), (80, 80)], [0.9, 0.8])], [truth], SIGMAS)
    assert matches.right.tolist() == [True, False]
    assert matches.counted.tolist() == [True, counted]
    assert matches.instances.tolist() == [[0, 0]]


def test_similarities_are_those_of_each_pair() -> None:
    rng = np.random.default_rng(0)
    points, target = rng.uniform(0, 50, (4, 3, 2)), rng.uniform(0, 50, (2, 3, 2))
    visible, areas = np.array([[True, True, False], [True, True, True]]), np.array([900.0, 2500.0])
    found = similarities(points, target, visible, areas, SIGMAS)
    for n in range(4):
        for g in range(2):
            true, seen, area = (torch.from_numpy(x[g : g + 1]) for x in (target, visible, areas))
            expected = oks(torch.from_numpy(points[n : n + 1]), true, seen, area, SIGMAS)
            assert found[n, g] == pytest.approx(float(expected))


def test_a_region_reaches_its_own_size_further() -> None:
    """Within twice the box to each side a detection belongs to it entirely; beyond, by its distance."""
    inside, outside = found_at([(35, 20), (80, 20)], [1, 1]).keypoints
    similar = region_similarities(np.stack([inside, outside]), np.array([[10.0, 10, 30, 30], [np.nan] * 4]), SIGMAS)
    assert similar.shape == (2, 1)
    assert similar[0, 0] == pytest.approx(1)
    assert similar[1, 0] < 0.1


def test_a_confidence_is_the_mean_of_the_points() -> None:
    found = Found(np.zeros((1, 3, 2)), np.array([0.3]), np.array([[0.2, 0.4, 0.9]]))
    assert match_instances([found], [truth_at([])], SIGMAS).confidence.tolist() == pytest.approx([0.5])
    assert np.isnan(match_instances([found_at([(1, 1)], [0.3])], [truth_at([])], SIGMAS).confidence).all()


def test_instances_are_ranked_by_their_points_too() -> None:
    found = found_at([(50, 50), (80, 80)], [0.8, 0.9])
    assert rank_scores(found).tolist() == [0.8, 0.9]
    found.confidence = np.repeat([[0.9], [0.5]], found.keypoints.shape[1], axis=1)
    assert np.allclose(rank_scores(found), [0.72, 0.45])
    found.expected_oks = np.array([0.3, 0.4])
    assert rank_scores(found).tolist() == [0.3, 0.4]

"""Instances that a model finds, in pixels of the image: the blobs that were drawn are the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.found_instances import blobs, two_stage

from kpnet import KpnetError, Predictor

PLACES = [(30.3, 40.6), (100.4, 52.2), (60.0, 90.9)]  # on 140 x 120, brightest first


def test_boxes_and_points_are_in_pixels_of_the_image_best_first() -> None:
    model = two_stage()
    found = Predictor(model)(blobs((120, 140), *PLACES))
    assert found.keypoints.shape == (3, 2, 2)
    assert np.abs(found.keypoints[:, 0] - PLACES).max() < 0.3
    assert found.scores is not None
    assert found.boxes is not None
    assert (np.diff(found.scores) < 0).all()
    assert found.scores.min() > 0.7
    # The finder's boxes are 0.3 of its 64 pixels, which are 140 pixels of the image, wide.
    assert np.abs((found.boxes[:, :2] + found.boxes[:, 2:]) / 2 - PLACES).max() < 0.7
    assert found.boxes[:, 2:] - found.boxes[:, :2] == pytest.approx(np.full((3, 2), 0.15 * 140), abs=0.1)


def test_an_image_without_instances_costs_the_finders_pass_alone() -> None:
    model = two_stage()
    found = Predictor(model)(np.zeros((50, 80), np.uint8))
    assert found.keypoints.shape == (0, 2, 2)
    assert found.confidence is not None
    assert found.confidence.shape == (0, 2)
    assert found.covariance is not None
    assert found.covariance.shape == (0, 2, 2, 2)
    assert found.boxes is not None
    assert found.boxes.shape == (0, 4)
    assert found.scores is not None
    assert found.scores.shape == (0,)
    assert list(found.to_frame().columns) == ["image", "instance", "name", "x", "y", "confidence", "score"]
    assert model.finder.batches == [(1, 1, 64, 64)]  # type: ignore[union-attr]
    assert model.crops == []


def test_a_hundred_instances_pass_in_batches() -> None:
    places = [(40.0 + 80 * column, 40.0 + 80 * row) for row in range(10) for column in range(10)]
    model = two_stage(finder_size=(320, 320))
    model.finder.side = 0.1  # type: ignore[union-attr]
    found = Predictor(model, batch_size=16)(np.maximum(blobs((800, 800)), _grid(places)))
    assert len(found.keypoints) == 100
    crops: Any = model.crops
    assert sorted(crops, reverse=True) == [16] * 6 + [4]
    nearest = np.abs(found.keypoints[:, None, 0] - np.array(places)).max(-1).min(0)
    assert nearest.max() < 0.5
    few = Predictor(model, batch_size=16, max_instances=7)(_grid(places))
    assert few.keypoints == pytest.approx(found.keypoints[:7])


def _grid(places: list[tuple[float, float]]) -> np.ndarray:
    """An image of 800 x 800 with a small blob at each place."""
    image = np.zeros((800, 800), np.uint8)
    for number, (x, y) in enumerate(places):
        corner = (int(y) - 20, int(x) - 20)
        patch = blobs((41, 41), (20.0, 20.0), light=250 - number, sigma=6)
        image[corner[0] : corner[0] + 41, corner[1] : corner[1] + 41] = patch
    return image


def test_images_of_a_batch_keep_their_own() -> None:
    model = two_stage()
    images = [blobs((90, 60), *PLACES[:0]), blobs((60, 90), (20, 30)), blobs((120, 140), *PLACES)]
    predictor = Predictor(model, batch_size=2)
    together = predictor(images)
    assert [len(each.keypoints) for each in together] == [0, 1, 3]
    for image, each in zip(images, together, strict=True):
        alone = predictor(image)
        assert alone.keypoints == pytest.approx(each.keypoints, abs=1e-4)
        assert alone.boxes == pytest.approx(each.boxes, abs=1e-4)


def test_given_boxes_are_used_as_they_are() -> None:
    model = two_stage()
    boxes = [(x - 12, y - 12, x + 12, y + 12) for x, y in PLACES[1:]]
    images = [blobs((120, 140), *PLACES)] * 2
    given, found = Predictor(model)(images, [boxes, None])
    assert np.abs(given.keypoints[:, 0] - PLACES[1:]).max() < 0.3
    assert given.scores is None
    assert given.boxes is None
    assert len(found.keypoints) == 3
    assert model.finder.batches == [(1, 1, 64, 64)]  # type: ignore[union-attr]


def test_a_repeated_instance_is_kept_once_and_one_beside_the_image_not_at_all() -> None:
    model = two_stage()
    model.finder.repeats, model.finder.outside = 3, True  # type: ignore[union-attr]
    found = Predictor(model)(blobs((120, 140), *PLACES))
    assert np.abs(found.keypoints[:, 0] - PLACES).max() < 0.3


def test_threshold_and_most_instances() -> None:
    model = two_stage()
    image = blobs((120, 140), *PLACES)
    scores = Predictor(model)(image).scores
    assert scores is not None
    assert Predictor(model, threshold=float(scores[1]))(image).scores == pytest.approx(scores[:2])
    assert Predictor(model, max_instances=1)(image).scores == pytest.approx(scores[:1])
    model.finder.max_instances = 1  # type: ignore[union-attr]
    assert Predictor(model)(image).scores == pytest.approx(scores[:1])
    assert Predictor(model, max_instances=3)(image).scores == pytest.approx(scores), "more than the model's own limit"
    for settings, text in (
        ({"max_instances": 0}, "max_instances: expected a positive number of instances, found 0"),
        ({"threshold": 1.5}, "threshold: expected a score from 0 to 1, found 1.5"),
    ):
        with pytest.raises(KpnetError, match=text):
            Predictor(model, **settings)
    model.finder = None
    with pytest.raises(KpnetError, match="max_instances: the model finds no instances"):
        Predictor(model, max_instances=2)


def test_frames_of_a_video_may_change_their_size() -> None:
    frames = [blobs((60, 90), (20, 30)), blobs((120, 140), *PLACES), blobs((40, 40))]
    found = list(Predictor(two_stage(), batch_size=2).track(frames))
    assert [len(each.keypoints) for each in found] == [1, 3, 0]
    assert np.abs(found[0].keypoints[0, 0] - (20, 30)).max() < 0.3

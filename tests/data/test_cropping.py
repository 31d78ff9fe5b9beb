"""Top-down crops: the image is the oracle, and the way back is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kpnet import KpnetError, build_model, coordinates
from kpnet.core.skeleton import Skeleton
from kpnet.data import KeypointDataset
from kpnet.data.croppers import build_cropper, median_side
from kpnet.data.cropping import Cropper, instance_box
from kpnet.data.images import crop, model_inputs


def blob(size: tuple[int, int], point: Any, sigma: float = 4.0) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    return np.round(250 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * sigma**2))).astype(np.uint8)


def centroid(image: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(x * image).sum(), (y * image).sum()]) / image.sum()


class Given(KeypointDataset):
    """One image with its points and box, several times."""

    def __init__(self, image: np.ndarray, points: Any, box: Any = None, **common: Any) -> None:
        super().__init__(**common)
        self.image, self.points = image, np.asarray(points, float)
        self.given = None if box is None else np.asarray(box, float)
        self.skeleton = Skeleton.from_names([f"p{k}" for k in range(len(self.points))])

    def __len__(self) -> int:
        return 6

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.image, self.points

    def box(self, index: int) -> np.ndarray | None:
        return self.given


@pytest.mark.parametrize("target", [(32, 32), (64, 48), (96, 96)])
@pytest.mark.parametrize("box", [(30, 20, 80, 90), (-40, 10, 60, 70), (20, 15, 150, 140), (44.3, 39.8, 71.9, 60.2)])
def test_points_move_with_the_picture_and_come_back(box: Any, target: tuple[int, int]) -> None:
    """Also where the box reaches beyond the image, in training with its jitter, and whatever is resized."""
    point = (52.3, 48.6)
    data = Given(blob((100, 120), point, 2.0), [point], box, image_size=target)
    data.cropper = Cropper("box", 1.25, shift=0.1, scale=0.2)
    seen = set()
    for draws in (None, np.random.default_rng(0), np.random.default_rng(1)):
        image, xy, matrix = data.sample_pixels(0, draws)
        assert image.shape == target
        assert np.abs(centroid(image.astype(float)) - xy[0]).max() < 0.1
        assert np.abs(coordinates.transform(xy, coordinates.invert(matrix)) - point).max() < 1e-3
        seen.add(tuple(xy[0]))
    assert len(seen) == 3


def test_what_lies_beyond_the_image_is_black() -> None:
    image = np.full((10, 12), 200, np.uint8)
    pixels, matrix = crop(image, (-3, -2, 15, 14), (16, 18))
    assert matrix.tolist() == [[1, 0, 3], [0, 1, 2]]
    assert (pixels[2:12, 3:15] == 200).all()
    assert pixels.sum() == 200 * 120


def test_jitter_is_of_seed_epoch_and_index_and_of_training_alone() -> None:
    def views(seed: int, epoch: int, jitter: float = 0.2) -> list[list[float]]:
        data = Given(blob((60, 60), (30, 30)), [(30, 30)], (15, 15, 45, 45), image_size=(32, 32), seed=seed)
        data.cropper = Cropper("box", 1.25, shift=jitter, scale=jitter)
        data.set_epoch(epoch)
        return [data[i]["keypoints"][0].tolist() for i in range(6)]

    assert views(0, 0) == views(0, 0)
    assert len({str(v) for v in (views(0, 0), views(0, 1), views(1, 0))}) == 3
    assert len({str(v) for v in views(0, 0)}) == 6
    assert len({str(v) for v in views(0, 0, jitter=0)}) == 1


def test_the_jitter_reaches_the_factors_of_its_scale_and_not_beyond() -> None:
    box, draws = np.array([0, 0, 999, 999.0]), np.random.default_rng(0)
    cropper = Cropper("box", 1.0, shift=0.0, scale=0.25)
    regions = [cropper.region(box, np.empty((0, 2)), (1000, 1000), (64, 64), draws) for _ in range(500)]
    factors = np.array([right - left for left, _, right, _ in regions]) / 999
    assert 1 / 1.25 - 1e-3 <= factors.min() < 0.81
    assert 1.24 < factors.max() <= 1.25 + 1e-3


@pytest.mark.parametrize("low", [30.0, 33.5])
def test_the_box_about_the_points(low: float) -> None:
    points = [(20.0, low), (60.0, 34.0), (np.nan, np.nan)]
    by_points, by_box = (
        Given(blob((80, 90), (40, 30)), points, box, image_size=(40, 40)) for box in (None, (20, low, 60, 34))
    )
    by_points.cropper, by_box.cropper = Cropper("points"), Cropper("box")
    assert np.array_equal(by_points.sample_pixels(0)[2], by_box.sample_pixels(0)[2])
    one = Given(blob((80, 80), (40, 30)), [(40, 30)], image_size=(40, 40))
    one.cropper = Cropper("points", 1.0)
    assert np.allclose(one.sample_pixels(0)[2], [[0.5, 0, -0.25], [0, 0.5, -0.25]]), "one point: the whole image"


@pytest.mark.parametrize(
    ("box", "message"),
    [(None, "0: data.crop is box, but the sample has none"), ((90, 10, 95, 20), "no area on an image of 80x60")],
)
def test_a_box_that_cannot_be(box: Any, message: str) -> None:
    data = Given(blob((60, 80), (40, 30)), [(40, 30)], box, image_size=(40, 40))
    data.cropper = Cropper("box")
    with pytest.raises(KpnetError, match=message):
        data[0]


def test_a_prediction_sees_what_the_training_saw() -> None:
    box = (14.2, 10.9, 61.3, 40.1)
    data = Given(blob((60, 80), (40, 30)), [(40, 30)], box, image_size=(48, 32))
    data.cropper = Cropper("box", 1.5)
    model = build_model(
        backbone={"name": "conv_sandwich", "channels": [4]},
        head={"name": "heatmap", "stride": 2},
        num_keypoints=1,
        in_channels=1,
        input_size=(48, 32),
        box_scale=1.5,
    )
    ((pixels, matrix),) = model_inputs(data.image, [box], model.config)
    assert np.array_equal(pixels, data.sample_pixels(0)[0])
    assert np.array_equal(matrix, data.sample_pixels(0)[2])


def test_the_box_of_an_instance() -> None:
    """The data's, that of the points, or a square of the usual size where they span no area."""
    box, nan = np.array([1.0, 2.0, 30.0, 40.0]), [np.nan, np.nan]
    spread, single, line = (
        np.array(p, float) for p in ([[5, 6], [9, 8], nan], [nan, [7, 9], nan], [[4, 5], [24, 5], nan])
    )
    assert instance_box(box, spread, 10) is box
    assert instance_box(None, spread, 10).tolist() == [5, 6, 9, 8]  # type: ignore[union-attr]
    assert instance_box(None, single, 10).tolist() == [2, 4, 12, 14]  # type: ignore[union-attr]
    assert instance_box(None, line, 10).tolist() == [4, -5, 24, 15]  # type: ignore[union-attr]
    assert instance_box(None, single, None) is None
    assert instance_box(None, np.array([nan, nan, nan]), 10) is None
    assert instance_box(box, np.array([nan, nan, nan]), 10) is box


def test_crops_by_instance_are_about_that_box(caplog: pytest.LogCaptureFixture) -> None:
    image = blob((100, 120), (50, 40))
    wide = Given(image, [(30, 20), (70, 60)], None, image_size=(32, 32))
    wide.cropper = build_cropper(wide, "instance", 1.25)
    assert wide.cropper is not None
    assert wide.cropper.fallback_side == 40
    by_points = Cropper("points", 1.25).region(None, wide.points, image.shape, (32, 32))
    assert wide.cropper.region(None, wide.points, image.shape, (32, 32)) == by_points
    single = np.array([(50.0, 40.0), (np.nan, np.nan)])
    assert wide.cropper.region(None, single, image.shape, (32, 32)) == (26, 16, 76, 66)
    box = np.array([9.5, 9.5, 29.5, 29.5])
    assert wide.cropper.region(box, single, image.shape, (32, 32)) == (8, 8, 33, 33)
    assert not caplog.text
    assert median_side(Given(image, [(50, 40)])) == 15
    assert "no instance has a box or points that span one: each is taken to be 15 px wide and high" in caplog.text

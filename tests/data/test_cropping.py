"""Top-down crops: the image is the oracle, and the way back is exact."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpnet import KpnetError, build_model, coordinates
from kpnet.core.skeleton import Skeleton
from kpnet.data import KeypointDataset
from kpnet.data.cropping import Cropper
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


@given(
    box=st.tuples(*[st.floats(-30, 150)] * 2, *[st.floats(2, 200)] * 2),
    scale=st.floats(0.8, 2),
    source=st.tuples(st.integers(20, 120), st.integers(20, 120)),
    target=st.sampled_from([(32, 32), (64, 48), (24, 40)]),
)
@settings(deadline=None)
def test_the_region_is_about_the_box_and_of_the_inputs_aspect(box: Any, scale: float, source: Any, target: Any) -> None:
    x0, y0, width, height = box
    edges = np.array([x0, y0, x0 + width, y0 + height])
    on = np.clip(edges.reshape(2, 2), -0.5, (source[1] - 0.5, source[0] - 0.5))
    sides = on[1] - on[0]
    if not (sides > 0).all():
        with pytest.raises(ValueError, match="no area on an image"):
            coordinates.crop_region(edges, scale, source, target)
        return
    left, top, right, bottom = coordinates.crop_region(edges, scale, source, target)
    middle = np.array([left + right - 1, top + bottom - 1]) / 2
    assert np.abs(middle - on.mean(0)).max() <= 0.5 + 1e-6, "its centre is the box's, to half a pixel"
    assert right - left + 0.5 >= scale * sides[0] - 1e-9
    assert bottom - top + 0.5 >= scale * sides[1] - 1e-9
    wide, high = (right - left) / target[1], (bottom - top) / target[0]
    assert abs(wide - high) <= 0.5 / target[1] + 0.5 / target[0] + 1e-9, "pixels stay square, but for the rounding"
    tight = max(scale * sides[0] / target[1], scale * sides[1] / target[0])
    assert abs(wide - tight) <= 1 / target[1] + 1e-9, "and it is no larger than needed"


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


def test_the_box_about_the_points() -> None:
    points = [(20.0, 30.0), (60.0, 34.0), (np.nan, np.nan)]
    by_points, by_box = (
        Given(blob((80, 90), (40, 30)), points, box, image_size=(40, 40)) for box in (None, (20, 30, 60, 34))
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

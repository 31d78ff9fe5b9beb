"""Every mapping against the image itself, and against its inverse."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from kpnet import coordinates as co

SIZES = st.tuples(st.integers(1, 4096), st.integers(1, 4096))
UNIT = st.floats(0, 1)


def blob(size: tuple[int, int], xy: tuple[float, float] | np.ndarray, sigma: float = 3.0) -> np.ndarray:
    """A Gaussian about a continuous pixel position, in float64."""
    y, x = np.mgrid[: size[0], : size[1]]
    return np.exp(-((x - xy[0]) ** 2 + (y - xy[1]) ** 2) / (2 * sigma**2))


def centroid(image: np.ndarray) -> np.ndarray:
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(image * x).sum(), (image * y).sum()]) / image.sum()


def tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image)[None, None]


# The picture as the oracle


@pytest.mark.parametrize("target", [(224, 224), (160, 130), (96, 96), (48, 48), (37, 50), (61, 192)])
def test_resize_moves_a_point_as_the_picture_moves(target: tuple[int, int]) -> None:
    source, point = (96, 80), np.array([37.3, 52.8])
    resized = F.interpolate(tensor(blob(source, point)), size=target, mode="bilinear", antialias=True)[0, 0].numpy()
    np.testing.assert_allclose(centroid(resized), co.transform(point, co.resize_matrix(source, target)), atol=1e-2)


@pytest.mark.parametrize(("factor", "mode"), [(2, cv2.INTER_LINEAR), (3, cv2.INTER_CUBIC), (0.5, cv2.INTER_AREA)])
def test_resize_agrees_with_opencv(factor: float, mode: int) -> None:
    source, point = (96, 80), np.array([37.3, 52.8])
    target = (int(96 * factor), int(80 * factor))
    resized = cv2.resize(blob(source, point), target[::-1], interpolation=mode)
    np.testing.assert_allclose(centroid(resized), co.transform(point, co.resize_matrix(source, target)), atol=1e-3)


@pytest.mark.parametrize("target", [(96, 96), (24, 40), (200, 120)])
def test_normalised_coordinates_are_grid_samples(target: tuple[int, int]) -> None:
    """A normalised point stays what it is through any resize; sampling there finds the peak."""
    source, point = (96, 80), np.array([37.3, 52.8])
    unit = co.pixel_to_normalized(point, source)
    resized = F.interpolate(tensor(blob(source, point)), size=target, mode="bilinear", antialias=True)
    there = co.normalized_to_pixel(unit, target)
    np.testing.assert_allclose(centroid(resized[0, 0].numpy()), there, atol=5e-3)
    # An image that holds its own x (or y) says where grid_sample looks.
    y, x = np.mgrid[: target[0], : target[1]].astype(np.float64)
    looked = [
        F.grid_sample(tensor(axis), torch.tensor(unit)[None, None, None], align_corners=False).item() for axis in (x, y)
    ]
    np.testing.assert_allclose(looked, there, atol=1e-9)


@pytest.mark.parametrize(
    ("source", "target"), [((60, 100), (96, 96)), ((100, 60), (96, 96)), ((97, 51), (64, 128)), ((33, 70), (130, 50))]
)
def test_letterbox_moves_a_point_as_the_picture_moves(source: tuple[int, int], target: tuple[int, int]) -> None:
    point = np.array([source[1] * 0.45, source[0] * 0.55])
    matrix, size = co.letterbox_matrix(source, target)
    inner = F.interpolate(tensor(blob(source, point)), size=size, mode="bilinear", antialias=True)[0, 0].numpy()
    top, left = (target[0] - size[0]) // 2, (target[1] - size[1]) // 2
    canvas = np.zeros(target)
    canvas[top : top + size[0], left : left + size[1]] = inner
    np.testing.assert_allclose(centroid(canvas), co.transform(point, matrix), atol=1e-2)


@pytest.mark.parametrize(("left", "top"), [(0, 0), (10, 20), (31, 7)])
def test_a_crop_and_its_resize_move_a_point_as_the_picture_moves(left: int, top: int) -> None:
    point, target = np.array([47.3, 42.8]), (140, 90)
    crop = blob((96, 80), point)[top : top + 70, left:75]
    resized = F.interpolate(tensor(crop), target, mode="bicubic", align_corners=False)[0, 0].numpy()
    matrix = co.after_crop(co.resize_matrix(crop.shape, target), left, top)
    np.testing.assert_allclose(centroid(resized), co.transform(point, matrix), atol=1e-2)
    np.testing.assert_allclose(co.transform(co.transform(point, matrix), co.invert(matrix)), point, atol=1e-9)


def test_a_matrix_means_what_opencv_means_by_it() -> None:
    matrix, point = np.asarray(cv2.getRotationMatrix2D((40, 50), 25, 1.2), float), np.array([37.3, 52.8])
    matrix[:, 2] += np.array([3.4, -2.7])
    warped = cv2.warpAffine(blob((110, 100), point), matrix, (100, 110), flags=cv2.INTER_LINEAR)
    # warpAffine rounds its positions to 1/32 pixel.
    np.testing.assert_allclose(centroid(warped), co.transform(point, matrix), atol=1e-2)


@pytest.mark.parametrize("width", [80, 81])
def test_flip_moves_a_point_as_the_picture_moves(width: int) -> None:
    points = np.array([[37.3, 52.8], [50.0, 40.5]])
    mirrored = np.stack([centroid(blob((96, width), tuple(p))[:, ::-1]) for p in points])
    unit = co.flip_normalized(co.pixel_to_normalized(points, (96, width)), [1, 0])
    np.testing.assert_allclose(co.normalized_to_pixel(unit, (96, width)), mirrored[[1, 0]], atol=1e-4)


def test_cell_centers_are_pixels_of_a_one_row_map() -> None:
    for cells in (1, 5, 24):
        expected = co.pixel_to_normalized(
            torch.stack([torch.arange(cells), torch.zeros(cells)], -1).double(), (1, cells)
        )
        torch.testing.assert_close(co.cell_centers(cells, dtype=torch.float64), expected[:, 0], rtol=0, atol=1e-15)


def test_the_landmarks_of_the_convention() -> None:
    """Edges are -1 and 1, the centre is 0, and the course's (x - 48) / 48 differs by 1 / W."""
    corners = np.array([[-0.5, -0.5], [79.5, 95.5], [39.5, 47.5]])
    np.testing.assert_allclose(co.pixel_to_normalized(corners, (96, 80)), [[-1, -1], [1, 1], [0, 0]], atol=1e-15)
    x = np.random.default_rng(0).uniform(0, 95, (5, 2))
    np.testing.assert_allclose(co.pixel_to_normalized(x, (96, 96)) - (x - 48) / 48, 1 / 96, atol=1e-12)


def test_distances_scale_without_an_offset() -> None:
    a, b = np.array([0.1, -0.4]), np.array([0.35, 0.7])
    apart = co.normalized_to_pixel(b, (33, 71)) - co.normalized_to_pixel(a, (33, 71))
    np.testing.assert_allclose(co.normalized_distance_to_pixel(b - a, (33, 71)), apart, atol=1e-12)
    np.testing.assert_allclose(co.pixel_distance_to_normalized(apart, (33, 71)), b - a, atol=1e-12)


def test_inside_is_the_image_up_to_its_edges() -> None:
    xy = np.array([[-0.5, -0.5], [79.5, 95.5], [79.6, 0], [0, 95.6], [-0.6, 0], [0, -0.6], [np.nan, 3]])
    expected = [True, True, False, False, False, False, False]
    assert co.inside(xy, (96, 80)).tolist() == expected
    assert co.inside(torch.tensor(xy), (96, 80)).tolist() == expected


# Laws


@given(SIZES, UNIT, UNIT)
def test_normalising_and_back(size: tuple[int, int], u: float, v: float) -> None:
    xy = np.array([u * size[1] - 0.5, v * size[0] - 0.5])  # edge to edge, borders included
    every: list[Any] = [xy, xy.astype(np.float32), torch.tensor(xy), torch.tensor(xy).float()]
    for points in every:
        unit = co.pixel_to_normalized(points, size)
        assert type(unit) is type(points)
        assert unit.dtype == points.dtype
        back = co.normalized_to_pixel(unit, size)
        assert np.abs(np.asarray(back, np.float64) - xy).max() <= 1e-3
        assert np.abs(np.asarray(unit)).max() <= 1 + 1e-6


@given(SIZES, SIZES, UNIT, UNIT)
def test_resize_and_letterbox_have_inverses(a: tuple[int, int], b: tuple[int, int], u: float, v: float) -> None:
    xy = np.array([u * a[1] - 0.5, v * a[0] - 0.5])
    for matrix in (co.resize_matrix(a, b), co.letterbox_matrix(a, b)[0]):
        back = co.transform(co.transform(xy, matrix), co.invert(matrix))
        assert np.abs(back - xy).max() <= 1e-3
    # The two directions of a resize are each other's inverse.
    np.testing.assert_allclose(co.invert(co.resize_matrix(a, b)), co.resize_matrix(b, a), rtol=1e-9, atol=1e-6)


@given(SIZES, SIZES)
def test_letterbox_keeps_aspect_and_centre(source: tuple[int, int], target: tuple[int, int]) -> None:
    matrix, size = co.letterbox_matrix(source, target)
    scale = min(target[0] / source[0], target[1] / source[1])
    assert size[0] == target[0] or size[1] == target[1]
    for inner, outer, whole in zip(size, source, target, strict=True):
        assert 1 <= inner <= whole
        assert abs(inner - outer * scale) <= 0.5 or inner == 1
    middle = co.transform(np.array([(source[1] - 1) / 2, (source[0] - 1) / 2]), matrix)
    assert np.abs(middle - ((target[1] - 1) / 2, (target[0] - 1) / 2)).max() <= 0.5 + 1e-9
    corners = co.transform(np.array([(-0.5, -0.5), (source[1] - 0.5, source[0] - 0.5)]), matrix)
    assert corners.min() >= -0.5 - 1e-6
    assert (corners[1] <= np.array(target[::-1]) - 0.5 + 1e-6).all()
    # On whole pixels: the edges of the image are edges of pixels.
    np.testing.assert_allclose(corners % 1, 0.5, atol=1e-6)


@given(SIZES, st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=3, max_size=3))
def test_flipping_twice_changes_nothing(size: tuple[int, int], points: list[tuple[float, float]]) -> None:
    permutation = [1, 0, 2]
    unit = np.array(points)
    assert np.array_equal(co.flip_normalized(co.flip_normalized(unit, permutation), permutation), unit)
    pixels = co.normalized_to_pixel(unit, size)
    # In pixels x becomes W - 1 - x.
    flipped = co.normalized_to_pixel(co.flip_normalized(unit, permutation), size)
    expected = np.stack([size[1] - 1 - pixels[permutation, 0], pixels[permutation, 1]], -1)
    np.testing.assert_allclose(flipped, expected, rtol=0, atol=1e-9)


def test_flip_keeps_leading_axes_and_gradients() -> None:
    xy = torch.rand(2, 5, 3, 2, dtype=torch.float64, requires_grad=True)
    flipped = co.flip_normalized(xy, [2, 1, 0])
    assert flipped.shape == xy.shape
    assert torch.equal(flipped[:, :, 0, 0], -xy[:, :, 2, 0])
    assert torch.equal(flipped[:, :, 0, 1], xy[:, :, 2, 1])
    assert torch.autograd.gradcheck(lambda p: co.flip_normalized(p, [2, 1, 0]), xy)


def test_cocos_boxes_as_edges() -> None:
    """The box of all of an image begins at its left edge, and that of one pixel has the pixel in its middle."""
    whole, pixel = co.corner_size_to_box(np.array([[0, 0, 640, 480], [7, 3, 1, 1]]))
    assert whole.tolist() == [-0.5, -0.5, 639.5, 479.5]
    assert pixel.reshape(2, 2).mean(0).tolist() == [7, 3]
    boxes = np.random.default_rng(0).uniform(0, 500, (20, 4))
    assert np.allclose(co.box_to_corner_size(co.corner_size_to_box(boxes)), boxes, atol=1e-9)


@given(
    box=st.tuples(*[st.floats(-30, 150)] * 2, *[st.floats(2, 200)] * 2),
    scale=st.floats(0.8, 2),
    source=st.tuples(st.integers(20, 120), st.integers(20, 120)),
    target=st.sampled_from([(32, 32), (64, 48), (24, 40)]),
)
def test_the_region_is_about_the_box_and_of_the_inputs_aspect(box: Any, scale: float, source: Any, target: Any) -> None:
    x0, y0, width, height = box
    edges = np.array([x0, y0, x0 + width, y0 + height])
    on = np.clip(edges.reshape(2, 2), -0.5, (source[1] - 0.5, source[0] - 0.5))
    sides = on[1] - on[0]
    if not (sides > 0).all():
        with pytest.raises(ValueError, match="no area on an image"):
            co.crop_region(edges, scale, source, target)
        return
    left, top, right, bottom = co.crop_region(edges, scale, source, target)
    middle = np.array([left + right - 1, top + bottom - 1]) / 2
    assert np.abs(middle - on.mean(0)).max() <= 0.5 + 1e-6, "its centre is the box's, to half a pixel"
    assert right - left + 0.5 >= scale * sides[0] - 1e-9
    assert bottom - top + 0.5 >= scale * sides[1] - 1e-9
    wide, high = (right - left) / target[1], (bottom - top) / target[0]
    assert abs(wide - high) <= 0.5 / target[1] + 0.5 / target[0] + 1e-9, "pixels stay square, but for the rounding"
    tight = max(scale * sides[0] / target[1], scale * sides[1] / target[0])
    assert abs(wide - tight) <= 1 / target[1] + 1e-9, "and it is no larger than needed"


@pytest.mark.parametrize("box", [(10, 10, 10, 20), (10, 10, 20, 10), (20, 10, 10, 20)])
def test_a_region_needs_an_area(box: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="no area on an image of 40x30"):
        co.crop_region(box, 1.0, (30, 40), (32, 32))


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_points_and_covariances_return_from_inputs(seed: int) -> None:
    """Against numpy's inverse, and the covariance of points that were moved."""
    rng = np.random.default_rng(seed)
    angle, scale = rng.uniform(-np.pi, np.pi), rng.uniform(0.1, 4, 2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.hstack([turn * scale, rng.uniform(-50, 50, (2, 1))])
    xy = rng.uniform(-100, 400, (200, 2))
    seen = co.transform(xy, matrix)
    moved = torch.from_numpy(np.cov(seen.T))[None, None]
    points, covariance = co.from_inputs(torch.from_numpy(seen)[None], moved, torch.from_numpy(matrix)[None])
    np.testing.assert_allclose(points[0], xy, atol=1e-8)
    assert covariance is not None
    np.testing.assert_allclose(covariance[0, 0], np.cov(xy.T), rtol=1e-8)
    stretch = np.linalg.norm(np.linalg.inv(matrix[:, :2]), 2)
    np.testing.assert_allclose(co.largest_stretch(torch.from_numpy(matrix)[None])[0], stretch, rtol=1e-8)


@pytest.mark.parametrize("torched", [False, True])
def test_points_inside_of_a_box_are_the_pixels_of_its_rectangle(torched: bool) -> None:
    """Against a picture: each pixel's centre, and each corner, which is of the pixel to its right and below."""
    picture = np.zeros((9, 12), bool)
    picture[2:5, 3:9] = True
    box = np.array([3, 2, 9, 5]) - 0.5
    rows, columns = np.indices(picture.shape)
    for offset in (0.0, -0.5):
        xy = np.stack([columns + offset, rows + offset], -1)
        found = co.inside_box(torch.from_numpy(xy), torch.from_numpy(box)) if torched else co.inside_box(xy, box)
        np.testing.assert_array_equal(np.asarray(found), picture)
    assert not co.inside_box(np.array([[np.nan, 3.0]]), box).any()


def test_the_box_of_points_holds_their_pixels_and_no_more() -> None:
    mask = np.zeros((20, 30), bool)
    points = np.array([[4, 7], [11, 9], [6, 15]])
    mask[points[:, 1], points[:, 0]] = True
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    x0, y0, x1, y1 = co.pixel_to_edge(co.box_of_points(points))  # in edges, as a slice counts
    assert (y0, y1, x0, x1) == (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)

"""Where the decodings about a peak find a Gaussian, against closed forms and DARK by the book."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.blobs import DECODERS, Decoder, in_cells, log_gaussian, round_blob

from kpnet import decoding
from kpnet.coordinates import normalized_distance_to_pixel, normalized_to_pixel

SIZE = (40, 48)
inside = st.floats(12, 27)
anywhere_x, anywhere_y = st.floats(-0.5, SIZE[1] - 0.5), st.floats(-0.5, SIZE[0] - 0.5)
sigmas = st.floats(0.7, 3.0)


def error(decode: Decoder, x: float, y: float, sigma: float, dtype: torch.dtype = torch.float32) -> float:
    """The larger of the two axes' distances from a Gaussian's centre, in cells."""
    found = in_cells(decode(round_blob(SIZE, (x, y), sigma).to(dtype)), SIZE)
    return max(abs(found[0] - x), abs(found[1] - y))


@given(anywhere_x, anywhere_y, sigmas, st.floats(0, math.pi), st.floats(0.5, 1))
@settings(max_examples=200)
def test_dark_is_exact_for_any_gaussian(x: float, y: float, sigma: float, angle: float, ratio: float) -> None:
    """Turned and stretched, up to the outer edge of the outermost cell."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    log = log_gaussian(SIZE, (x, y), turn @ np.diag([sigma**2, (sigma * ratio) ** 2]) @ turn.T)
    assert in_cells(decoding.dark_decode2d(log), SIZE) == pytest.approx([x, y], abs=1e-6)
    # Distances from a Gaussian's centre reach 80 sigma: float32 logs of thousands.
    assert in_cells(decoding.dark_decode2d(log.float()), SIZE) == pytest.approx([x, y], abs=0.01)


@given(inside, inside, sigmas, st.floats(0.8, 2.5))
@settings(max_examples=100)
def test_dark_with_a_blur(x: float, y: float, sigma: float, blur: float) -> None:
    assert error(lambda maps: decoding.dark_decode2d(maps, blur), x, y, sigma) < 0.01


@given(inside, inside, sigmas)
@settings(max_examples=100)
def test_local_soft_argmax_in_a_window_of_several_sigma(x: float, y: float, sigma: float) -> None:
    radius = math.ceil(3.5 * sigma + 0.5)
    assert error(lambda maps: decoding.local_soft_argmax2d(maps, radius), x, y, sigma) < 0.01


@given(anywhere_x, anywhere_y, sigmas)
@settings(max_examples=100)
def test_the_bounds_of_argmax_and_of_the_quarter_offset(x: float, y: float, sigma: float) -> None:
    assert error(decoding.argmax2d, x, y, sigma) <= 0.5 + 1e-5
    assert error(decoding.quarter_offset2d, x, y, sigma) <= 0.5 + 1e-5
    xy = min(max(x, 0.6), SIZE[1] - 1.6), min(max(y, 0.6), SIZE[0] - 1.6)
    assert error(decoding.quarter_offset2d, *xy, sigma) <= 0.25 + 1e-5


def test_what_the_border_costs() -> None:
    """The numbers of the docstrings, at the outermost cell."""
    for sigma, decode, cost in (
        (1.5, decoding.soft_argmax2d, 0.9),
        (1.5, DECODERS["local_soft_argmax2d"], 0.9),
        (2.0, lambda maps: decoding.dark_decode2d(maps, 2.0), 1.1),
    ):
        assert error(decode, 0, 20, sigma) == pytest.approx(cost, abs=0.06)
        assert error(decode, SIZE[1] - 1, 20, sigma) == pytest.approx(cost, abs=0.06)


def test_far_clutter_has_no_say_in_the_local_soft_argmax() -> None:
    maps = torch.logaddexp(round_blob(SIZE, (12.3, 20.6), 1.2), round_blob(SIZE, (40, 5), 1.2) - 0.5)
    assert in_cells(decoding.local_soft_argmax2d(maps, 5), SIZE) == pytest.approx([12.3, 20.6], abs=0.01)
    assert in_cells(decoding.soft_argmax2d(maps), SIZE) != pytest.approx([12.3, 20.6], abs=1)
    wide = decoding.local_soft_argmax2d(maps, 60)
    torch.testing.assert_close(wide, decoding.soft_argmax2d(maps))


@given(st.integers(0, 2**32), st.integers(0, 4))
@settings(max_examples=50)
def test_the_window_of_the_local_soft_argmax(seed: int, radius: int) -> None:
    """Its cells and no others, wherever the border cuts it."""
    maps = torch.randn(1, 1, 9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x, y = (round(c) for c in in_cells(decoding.argmax2d(maps), (9, 7)))
    rows, columns = torch.arange(9)[:, None], torch.arange(7)
    near = ((rows - y).abs() <= radius) & ((columns - x).abs() <= radius)
    expected = decoding.soft_argmax2d(torch.where(near, maps, -math.inf))
    torch.testing.assert_close(decoding.local_soft_argmax2d(maps, radius), expected)


def test_the_quarter_offset_leaves_border_cells_alone() -> None:
    for x, expected in ((0.3, 0), (-0.4, 0), (0.6, 0.75), (46.4, 46.25), (46.9, 47)):
        found = in_cells(decoding.quarter_offset2d(round_blob(SIZE, (x, 20.2), 2.0)), SIZE)
        assert found == pytest.approx([expected, 20.25], abs=1e-5)


def dense_dark(p: np.ndarray, blur: float) -> tuple[float, float]:
    """DARK by the book in cells: blur all of the map, log, and the paraboloid about the peak of what was given."""
    reach = math.ceil(2.5 * blur)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / blur) ** 2)
    log = torch.nn.functional.conv2d(torch.tensor(p)[None, None], torch.outer(taps, taps)[None, None], padding=reach)
    z = log[0, 0].log().numpy()
    i, j = np.unravel_index(p.argmax(), p.shape)
    y, x = np.clip(i, 1, p.shape[0] - 2), np.clip(j, 1, p.shape[1] - 2)
    slope = np.array([z[y, x + 1] - z[y, x - 1], z[y + 1, x] - z[y - 1, x]]) / 2
    cross = (z[y + 1, x + 1] + z[y - 1, x - 1] - z[y - 1, x + 1] - z[y + 1, x - 1]) / 4
    bend_x, bend_y = z[y, x + 1] + z[y, x - 1] - 2 * z[y, x], z[y + 1, x] + z[y - 1, x] - 2 * z[y, x]
    hessian = np.array([[bend_x, cross], [cross, bend_y]])
    if np.linalg.eigvalsh(hessian).max() >= 0:
        return float(j), float(i)
    step = np.array([x - j, y - i]) - np.linalg.solve(hessian, slope)
    return tuple((np.array([j, i]) + step.clip(-1.5, 1.5)).tolist())


@given(st.integers(0, 2**32), st.sampled_from([0.4, 1.0, 2.0]), st.sampled_from([(9, 7), (24, 20), (5, 40)]))
@settings(max_examples=50)
def test_the_blur_about_the_peak_is_that_of_the_map(seed: int, blur: float, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    blob = round_blob(size, (rng.uniform(0, size[1] - 1), rng.uniform(0, size[0] - 1)), 1.5).numpy()[0, 0]
    p = np.exp(blob) + 0.3 * rng.random(size)
    found = in_cells(decoding.dark_decode2d(torch.tensor(p).log()[None, None], blur), size)
    assert found == pytest.approx(dense_dark(p, blur), abs=1e-6)


def test_dark_stays_near_the_peak() -> None:
    maps = torch.randn(50, 20, 12, 12)
    for blur in (0.0, 1.0):
        off = normalized_distance_to_pixel(decoding.dark_decode2d(maps, blur) - decoding.argmax2d(maps), (12, 12))
        assert off.abs().max() <= 1.5 + 1e-4
    # A border peak over a valley, a ridge across, and a flat map: no paraboloid has its peak there.
    ridge = -(torch.arange(5.0) - torch.arange(5.0)[:, None]).square().expand(1, 1, 5, 5)
    assert in_cells(decoding.dark_decode2d(ridge), (5, 5)) == pytest.approx([0, 0], abs=1e-6)
    valley = torch.tensor([0.0, -5, -6, -6, -6]).expand(1, 1, 5, 5)
    assert in_cells(decoding.dark_decode2d(valley), (5, 5)) == pytest.approx([0, 0], abs=1e-6)
    assert in_cells(decoding.dark_decode2d(torch.zeros(1, 1, 5, 5)), (5, 5)) == pytest.approx([0, 0], abs=1e-6)


def test_the_peak_is_the_first_of_equals_on_maps_of_any_size() -> None:
    for size in [(64, 48), (24, 24), (13, 11), (1, 200), (67, 67), (8, 16)]:
        maps = torch.randint(0, 50, (3, 2, *size)).float()
        index = maps.flatten(2).argmax(-1)
        expected = torch.stack([index % size[1], index // size[1]], -1).float()
        torch.testing.assert_close(normalized_to_pixel(decoding.argmax2d(maps), size), expected, atol=1e-4, rtol=0)

"""Maps of several peaks: where the peaks are, and what lies near each of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from kpnet import decoding
from kpnet.coordinates import normalized_distance_to_pixel, normalized_to_pixel, pixel_to_normalized
from kpnet.rendering import render_gaussian2d

SIZE = (24, 32)


def flooded(values: np.ndarray) -> list[tuple[float, int, int]]:
    """Value, x and y of the peaks of a map, highest first, by filling each plateau from its first cell."""
    height, width = values.shape

    def neighbours(y: int, x: int) -> list[tuple[int, int]]:
        rows, columns = range(max(y - 1, 0), min(y + 2, height)), range(max(x - 1, 0), min(x + 2, width))
        return [(j, i) for j in rows for i in columns if (j, i) != (y, x)]

    tops = {c for c in np.ndindex(height, width) if all(values[n] <= values[c] for n in neighbours(*c))}
    peaks, seen = [], set()
    for cell in sorted(tops):
        if cell in seen:
            continue
        peaks.append((float(values[cell]), cell[1], cell[0]))
        open_cells = [cell]
        while open_cells:
            now = open_cells.pop()
            seen.add(now)
            open_cells += [n for n in neighbours(*now) if n in tops and n not in seen]
    return sorted(peaks, key=lambda peak: -peak[0])


@given(arrays(np.float64, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 2)))
def test_peaks_are_those_of_a_flood(values: np.ndarray) -> None:
    """Maps of three values are made of plateaus of every form."""
    found, cells = decoding.peaks2d(torch.from_numpy(values)[None, None], values.size)
    kept = found[0, 0] > -math.inf
    got = sorted((v, *xy) for v, xy in zip(found[kept[None, None]].tolist(), cells[0, 0][kept].tolist(), strict=True))
    assert got == sorted(flooded(values))
    assert (found.diff(dim=-1)[0, 0][kept[1:]] <= 0).all()


def test_each_map_has_its_own_peaks() -> None:
    maps = torch.randn(2, 3, 9, 11)
    value, cells = decoding.peaks2d(maps, 4)
    assert value.shape == (2, 3, 4)
    for b, k in np.ndindex(2, 3):
        expected = flooded(maps[b, k].numpy())[:4]
        assert [(v, *xy) for v, xy in zip(value[b, k].tolist(), cells[b, k].tolist(), strict=True)] == expected


def test_peaks_of_hardly_any_map() -> None:
    value, cells = decoding.peaks2d(torch.zeros(1, 1, 2, 2), 6)
    assert value[0, 0].tolist() == [0, *[-math.inf] * 5]
    assert cells.shape == (1, 1, 6, 2)
    maps = torch.full((1, 2, 3, 3), -math.inf)
    maps[0, 1, 2, 2], maps[0, 1, 0, 0] = 1.0, math.nan
    value, cells = decoding.peaks2d(maps, 2)
    assert value.tolist() == [[[-math.inf, -math.inf], [1.0, -math.inf]]]
    assert cells[0, 1, 0].tolist() == [2, 2]
    assert decoding.peaks2d(torch.zeros(0, 1, 3, 3), 2)[0].shape == (0, 1, 2)
    with pytest.raises(ValueError, match="a count of at least 1, got 0"):
        decoding.peaks2d(maps, 0)
    with pytest.raises(ValueError, match=r"\(B, K, h, w\), got \(3, 3\)"):
        decoding.peaks2d(torch.zeros(3, 3), 1)


# The softmax near points


def logits_at(cells: list[tuple[float, float]], sigma: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """A map (1, 1, h, w) of which each peak is the logarithm of a Gaussian."""
    xy = pixel_to_normalized(torch.tensor(cells, dtype=dtype), SIZE)[None]
    return render_gaussian2d(xy, SIZE, sigma).amax(1, keepdim=True).log().clamp(min=-1e4)


def near(logits: Tensor, cells: list[tuple[float, float]], radius: int = 6, sigma: float = 3.0) -> decoding.LocalMaps:
    around = pixel_to_normalized(torch.tensor(cells, dtype=logits.dtype), SIZE)[:, None]
    image = torch.zeros(len(cells), dtype=torch.long)
    return decoding.local_softmax2d(logits, around, image, radius, torch.full((len(cells),), sigma))


def test_the_mean_and_covariance_of_two_gaussians_multiplied() -> None:
    """The map's Gaussian of sigma 1 and that about the point, of sigma 3: precisions add, means are weighted."""
    local = near(logits_at([(15.0, 12.0)], 1.0), [(16.0, 11.0)])
    found = normalized_to_pixel(local.mean(), SIZE)[0, 0]
    expected = torch.tensor([(15 + 16 / 9) / (1 + 1 / 9), (12 + 11 / 9) / (1 + 1 / 9)]).double()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    scale = normalized_distance_to_pixel(torch.ones(2).double(), SIZE)
    covariance = local.covariance(local.mean())[0, 0] * scale[:, None] * scale
    torch.testing.assert_close(covariance, 0.9 * torch.eye(2).double(), atol=5e-3, rtol=0)


def test_each_of_two_peaks_is_read_by_the_point_near_it() -> None:
    peaks = [(12.0, 12.0), (17.0, 13.0)]
    found = near(logits_at(peaks, 0.5), [(11.5, 12.5), (17.5, 12.5)], sigma=1.5).mean()
    torch.testing.assert_close(normalized_to_pixel(found, SIZE)[:, 0], torch.tensor(peaks).double(), atol=0.15, rtol=0)


def test_the_window_is_the_whole_map_where_that_is_small() -> None:
    """Moments are then those of the softmax of the map times the Gaussian, computed densely."""
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    around = torch.rand(2, 3, 2, dtype=torch.float64) - 0.5
    local = decoding.local_softmax2d(logits, around, torch.tensor([1, 0]), 9, torch.tensor([4.5, 2.0]))
    cells = normalized_to_pixel(around, (4, 5))
    rows, columns = torch.arange(4).double(), torch.arange(5).double()
    prior = (rows - cells[..., 1:])[..., :, None] ** 2 + (columns - cells[..., :1])[..., None, :] ** 2
    sigma = torch.tensor([4.5, 2.0])[:, None, None, None]
    p = decoding.spatial_softmax2d(logits[[1, 0]] - prior / (2 * sigma**2))
    torch.testing.assert_close(local.probabilities, p)
    true = torch.rand(2, 3, 2, dtype=torch.float64) - 0.5
    log_gaussian = render_gaussian2d(true, (4, 5), 1.5).log().flatten(2).log_softmax(-1)
    expected = -(log_gaussian.exp() * p.log().flatten(2)).sum(-1)
    torch.testing.assert_close(local.cross_entropy(true, 1.5), expected)
    xy = decoding.expected_xy2d(p)
    torch.testing.assert_close(local.mean(), xy)
    torch.testing.assert_close(local.covariance(xy), decoding.covariance2d(p, xy))
    torch.testing.assert_close(local.mass_within(xy, 0.3), decoding.mass_within2d(p, xy, 0.3))


def test_gradients_in_the_maps_and_in_the_points() -> None:
    logits = torch.randn(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    around = (torch.rand(3, 2, 2, dtype=torch.float64) * 1.6 - 0.8).requires_grad_()
    image = torch.tensor([1, 0, 1])
    assert torch.autograd.gradcheck(
        lambda z, a: decoding.local_softmax2d(z, a, image, 2, torch.ones(3)).mean(), (logits, around), eps=1e-7
    )


@pytest.mark.parametrize("cell", [(-40.0, 3.0), (31.4, 23.4), (1e6, -1e6), (math.nan, 3.0)])
def test_points_off_the_map_are_read_at_its_border(cell: tuple[float, float]) -> None:
    local = near(torch.zeros(1, 1, *SIZE), [cell], 3)
    assert local.probabilities.shape == (1, 1, 7, 7)
    if not math.isnan(cell[0]):
        assert local.mean().abs().max() <= 1
        torch.testing.assert_close(local.probabilities.sum(), torch.tensor(1.0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_in_float32(dtype: torch.dtype) -> None:
    local = near(logits_at([(15.0, 12.0)], 1.0, torch.float32).to(dtype), [(15.0, 12.0)])
    assert local.mean().dtype == torch.float32


def test_shapes_that_do_not_fit() -> None:
    logits, image, ones = torch.zeros(1, 2, *SIZE), torch.zeros(3, dtype=torch.long), torch.ones(3)
    for wrong in (
        (torch.zeros(3, 1, 2), image, 2, ones),
        (torch.zeros(3, 2, 2), image[:2], 2, ones),
        (torch.zeros(3, 2, 2), image, 2, ones[:2]),
        (torch.zeros(3, 2, 2), image, 0, ones),
    ):
        with pytest.raises(
            ValueError, match=r"expected points \(N, 2, 2\), images and sigmas \(N,\) and a radius >= 1"
        ):
            decoding.local_softmax2d(logits, *wrong)
    empty = decoding.local_softmax2d(logits, torch.zeros(0, 2, 2), image[:0], 2, ones[:0])
    assert empty.mean().shape == (0, 2, 2)

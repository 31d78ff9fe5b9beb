"""Gaussian maps about continuous points, against their closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kpnet.coordinates import cell_centers, normalized_to_pixel, pixel_to_normalized
from kpnet.decoding import dark_decode2d
from kpnet.rendering import log_gaussian_profiles, render_gaussian2d, render_highest2d


def dense(xy: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """One exponential a cell."""
    height, width = size
    dx = (cell_centers(width, dtype=xy.dtype) - xy[..., :1]) * (width / 2)
    dy = (cell_centers(height, dtype=xy.dtype) - xy[..., 1:]) * (height / 2)
    return (-(dx[..., None, :] ** 2 + dy[..., None] ** 2) / (2 * sigma**2)).exp()


@given(st.integers(0, 2**32), st.floats(0.5, 4), st.sampled_from([(24, 24), (17, 32), (1, 9), (9, 1), (1, 1)]))
@settings(max_examples=50)
def test_a_gaussian_wherever_it_lies(seed: int, sigma: float, size: tuple[int, int]) -> None:
    """Off the map too, and never rounded to a cell."""
    xy = 2.4 * torch.rand(2, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) - 1.2
    torch.testing.assert_close(render_gaussian2d(xy, size, sigma), dense(xy, size, sigma), atol=1e-15, rtol=1e-12)
    as_float = render_gaussian2d(xy.float(), size, sigma)
    assert as_float.dtype == torch.float32
    torch.testing.assert_close(as_float.double(), dense(xy, size, sigma), atol=1e-5, rtol=0)
    rows, columns = log_gaussian_profiles(xy, size, sigma)
    torch.testing.assert_close((rows[..., None] + columns[..., None, :]).exp(), dense(xy, size, sigma))


def test_the_peak_is_1_at_a_cells_centre_and_sigma_is_in_cells() -> None:
    size = (20, 30)
    maps = render_gaussian2d(pixel_to_normalized(torch.tensor([[[7.0, 11.0]]]), size), size, 2.0)[0, 0]
    assert maps[11, 7].item() == maps.max().item() == pytest.approx(1, abs=1e-6)
    side = math.exp(-0.5)
    for cell in (maps[11, 9], maps[11, 5], maps[13, 7], maps[9, 7]):
        assert cell.item() == pytest.approx(side, abs=1e-5)


@given(st.floats(-0.5, 29.5), st.floats(-0.5, 19.5), st.floats(0.8, 3))
@settings(max_examples=50)
def test_what_is_rendered_is_found_again(x: float, y: float, sigma: float) -> None:
    size = (20, 30)
    xy = pixel_to_normalized(torch.tensor([[[x, y]]]), size)
    found = normalized_to_pixel(dark_decode2d(render_gaussian2d(xy, size, sigma).log()), size)
    assert found.flatten().tolist() == pytest.approx([x, y], abs=0.01)


def test_no_cell_is_denormal_and_far_ones_are_zero() -> None:
    maps = render_gaussian2d(torch.rand(8, 50, 2) * 2 - 1, (64, 48), 1.0)
    assert (maps == 0).any()
    assert maps[maps > 0].min() >= torch.finfo(torch.float32).tiny


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("axis", [0, 1])
def test_points_that_are_not_finite_give_zero_maps_and_no_gradient(bad: float, axis: int) -> None:
    xy = torch.zeros(2, 3, 2)
    expected = render_gaussian2d(xy, (9, 8), 2.0)
    xy[1, 2, axis] = bad
    xy[0, 0, axis] = 3e38  # finite, but not its square
    xy.requires_grad_()
    maps = render_gaussian2d(xy, (9, 8), 2.0)
    expected[1, 2] = expected[0, 0] = 0
    torch.testing.assert_close(maps, expected)
    maps.square().sum().backward()
    assert xy.grad is not None
    assert xy.grad.isfinite().all()
    assert not xy.grad[1, 2].any()


def test_gradients() -> None:
    xy = (torch.rand(2, 2, 2, dtype=torch.float64) - 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: render_gaussian2d(p, (5, 4), 1.3), xy)


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2)])
def test_no_points(shape: tuple[int, ...]) -> None:
    assert render_gaussian2d(torch.zeros(shape), (5, 6), 1.0).shape == (*shape[:2], 5, 6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_points_are_rendered_in_float32(dtype: torch.dtype) -> None:
    xy = (torch.rand(2, 3, 2) * 2 - 1).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = render_gaussian2d(xy, (96, 96), 2.0)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, render_gaussian2d(xy.float(), (96, 96), 2.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: render_gaussian2d(torch.zeros(3, 2), (5, 6), 1.0), r"\(B, K, 2\), got \(3, 2\)"),
        (lambda: render_gaussian2d(torch.zeros(1, 3, 3), (5, 6), 1.0), r"\(B, K, 2\), got \(1, 3, 3\)"),
        (lambda: render_gaussian2d(torch.zeros(1, 3, 2), (5, 6), 0.0), "sigma > 0"),
    ],
)
def test_nonsense_is_refused(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_compiles_into_one_graph_and_exports() -> None:
    class Render(torch.nn.Module):
        def forward(self, xy: Tensor) -> Tensor:
            return render_gaussian2d(xy, (12, 9), 1.5)

    xy = torch.rand(2, 3, 2)
    torch._dynamo.reset()
    compiled = torch.compile(Render(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(xy), Render()(xy))
    program = torch.export.export(Render(), (xy,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    more = torch.rand(5, 3, 2)
    torch.testing.assert_close(program.module()(more), Render()(more))


def test_the_highest_of_several_gaussians() -> None:
    """Each of its own sigmas along x and y; those that are not finite are skipped."""
    g = torch.Generator().manual_seed(0)
    xy = torch.rand(2, 3, 2, 2, generator=g, dtype=torch.float64) * 2 - 1
    sigma = torch.rand(2, 3, 1, 2, generator=g, dtype=torch.float64) + 0.5
    x, y = torch.arange(9).double(), torch.arange(7).double()
    expected = torch.zeros(2, 2, 7, 9).double()
    for b, m, k in [(b, m, k) for b in range(2) for m in range(3) for k in range(2) if (b, m, k) != (1, 2, 0)]:
        cx, cy = normalized_to_pixel(xy[b, m, k], (7, 9)).tolist()
        sx, sy = sigma[b, m, 0].tolist()
        drawn = (-(((y - cy) / sy) ** 2)[:, None] / 2 - ((x - cx) / sx) ** 2 / 2).exp()
        expected[b, k] = torch.maximum(expected[b, k], drawn)
    xy[1, 2, 0] = math.nan
    torch.testing.assert_close(render_highest2d(xy, (7, 9), sigma), expected, atol=1e-12, rtol=1e-9)
    assert render_highest2d(xy[:, :0], (7, 9), sigma[:, :0]).shape == (2, 2, 7, 9)

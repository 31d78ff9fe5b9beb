"""Maps to coordinates, against closed forms and dense counting."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kpnet import decoding
from kpnet.coordinates import normalized_distance_to_pixel, normalized_to_pixel, pixel_to_normalized


def log_gaussian(size: tuple[int, int], xy: tuple[float, float], covariance: np.ndarray) -> Tensor:
    """Log of a Gaussian (1, 1, h, w) about a continuous cell, float64."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    d = np.stack([x - xy[0], y - xy[1]], -1)
    return torch.tensor(-0.5 * np.einsum("hwi,ij,hwj->hw", d, np.linalg.inv(covariance), d))[None, None]


def round_blob(size: tuple[int, int], xy: tuple[float, float], sigma: float) -> Tensor:
    return log_gaussian(size, xy, sigma**2 * np.eye(2))


Decoder = Callable[[Tensor], Tensor]
DECODERS: dict[str, Decoder] = {
    "soft_argmax2d": decoding.soft_argmax2d,
    "local_soft_argmax2d": lambda maps: decoding.local_soft_argmax2d(maps, 3),
    "argmax2d": decoding.argmax2d,
    "quarter_offset2d": decoding.quarter_offset2d,
    "dark_decode2d": decoding.dark_decode2d,
    "dark_decode2d, blurred": lambda maps: decoding.dark_decode2d(maps, blur=1.0),
}
every_decoder = pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS.keys())


def in_cells(xy: Tensor, size: tuple[int, int]) -> list[float]:
    return normalized_to_pixel(xy, size).flatten().tolist()


# Soft-argmax


@given(st.floats(10, 29), st.floats(10, 37), st.floats(0.7, 2.0))
@settings(max_examples=50, deadline=None)
def test_the_centre_of_a_gaussian(x: float, y: float, sigma: float) -> None:
    size = (48, 40)
    found = in_cells(decoding.soft_argmax2d(round_blob(size, (x, y), sigma)), size)
    assert found == pytest.approx([x, y], abs=0.01)
    as_float = in_cells(decoding.soft_argmax2d(round_blob(size, (x, y), sigma).float()), size)
    assert as_float == pytest.approx([x, y], abs=0.01)


@pytest.mark.parametrize("size", [(24, 24), (17, 32), (1, 9), (9, 1), (1, 1)])
def test_a_flat_map_gives_the_centre(size: tuple[int, int]) -> None:
    assert decoding.soft_argmax2d(torch.full((2, 3, *size), 5.0)).abs().max() < 1e-6


def test_a_sure_map_gives_its_cell_and_its_neighbourhood_is_symmetric() -> None:
    logits = torch.full((1, 1, 6, 8), -1e4)
    logits[..., 4, 1] = 1e4  # far outside exp's range
    assert in_cells(decoding.soft_argmax2d(logits), (6, 8)) == pytest.approx([1, 4], abs=1e-5)


def test_the_border_pulls_a_cut_gaussian_inwards() -> None:
    """0.9 cells for sigma 1.5 at the outermost cell; documented, so that nobody is surprised."""
    found = in_cells(decoding.soft_argmax2d(round_blob((24, 24), (0, 12), 1.5)), (24, 24))
    x = np.arange(24)
    g = np.exp(-0.5 * (x / 1.5) ** 2)
    assert found[0] == pytest.approx((x * g).sum() / g.sum(), abs=1e-6)
    assert found[0] == pytest.approx(0.9, abs=0.05)
    assert found[1] == pytest.approx(12, abs=1e-6)


def test_temperature_divides_the_logits() -> None:
    logits = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    dense = (logits / 0.3).flatten(2).exp()
    dense = (dense / dense.sum(-1, keepdim=True)).view_as(logits)
    torch.testing.assert_close(decoding.spatial_softmax2d(logits, 0.3), dense)
    # Sharper: nearer to the peak.
    blob = round_blob((24, 24), (3, 12), 3.0)
    soft, sharp = (in_cells(decoding.soft_argmax2d(blob, t), (24, 24))[0] for t in (1.0, 0.1))
    assert abs(sharp - 3) < abs(soft - 3)


def local(logits: Tensor, temperature: float | Tensor) -> Tensor:
    return decoding.local_soft_argmax2d(logits, 1, temperature)


@pytest.mark.parametrize("function", [decoding.soft_argmax2d, decoding.spatial_softmax2d, local])
def test_gradients(function: Callable[..., Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_CHUNK_BYTES", 2 * 4 * 20 * 2)  # two of the three images
    logits = torch.randn(3, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: function(z, 0.7), logits)
    assert torch.autograd.gradcheck(function, (logits, temperature))
    assert torch.autograd.gradcheck(lambda t: function(logits.detach(), t), temperature)


def plain(logits: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
    """Soft-argmax by its parts, for autograd to differentiate."""
    return decoding.expected_xy2d(decoding.spatial_softmax2d(logits, temperature))


@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_gradient_is_that_of_the_parts(dtype: torch.dtype, retain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it takes the place of the probabilities, in several chunks, and from a convolution's memory layout."""
    monkeypatch.setattr(decoding, "_CHUNK_BYTES", 3 * 4 * 42 * 2)
    logits = torch.randn(5, 3, 6, 7).to(dtype, memory_format=torch.channels_last).requires_grad_()
    temperature = torch.tensor(0.6, requires_grad=True)
    upstream = torch.randn(5, 3, 2, dtype=torch.promote_types(dtype, torch.float32))
    expected = torch.autograd.grad(plain(logits, temperature), (logits, temperature), upstream)
    xy = decoding.soft_argmax2d(logits, temperature)
    torch.testing.assert_close(xy, plain(logits, temperature))
    for _ in range(2 if retain else 1):
        found = torch.autograd.grad(xy, (logits, temperature), upstream, retain_graph=retain)
        torch.testing.assert_close(found, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-6)


def test_the_gradient_keeps_the_probabilities_alone_and_takes_their_place() -> None:
    logits = torch.randn(4, 5, 24, 16, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        xy = decoding.soft_argmax2d(logits)
    assert sum(t.nbytes for t in kept) <= logits.nbytes + xy.nbytes
    places = {t.data_ptr() for t in kept}
    (retained,) = torch.autograd.grad(xy.sum(), logits, retain_graph=True)
    assert retained.data_ptr() not in places
    (last,) = torch.autograd.grad(xy.sum(), logits)
    assert last.data_ptr() in places
    torch.testing.assert_close(last, retained)


def test_nothing_is_kept_where_no_gradient_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(3, 1, 4, 4, requires_grad=True)
    monkeypatch.delattr(decoding, "_SoftArgmax")
    with torch.no_grad():
        torch.testing.assert_close(decoding.soft_argmax2d(logits), plain(logits))
    decoding.soft_argmax2d(logits.detach())
    with pytest.raises(NameError):
        decoding.soft_argmax2d(logits)


def test_second_derivatives_are_refused_not_wrong() -> None:
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(decoding.soft_argmax2d(logits).sum(), logits, create_graph=True)


def test_under_checkpointing_and_function_transforms() -> None:
    logits = torch.randn(3, 2, 5, 6, requires_grad=True)
    (expected,) = torch.autograd.grad(plain(logits).sum(), logits)
    checkpointed = torch.utils.checkpoint.checkpoint(decoding.soft_argmax2d, logits, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(checkpointed.sum(), logits)[0], expected)
    one = torch.func.grad(lambda z: decoding.soft_argmax2d(z[None]).sum())
    torch.testing.assert_close(torch.func.vmap(one)(logits.detach()), expected)


def test_float64_stays_float64() -> None:
    logits = torch.randn(1, 2, 96, 77, dtype=torch.float64)
    p = decoding.spatial_softmax2d(logits)
    xy = decoding.expected_xy2d(p)
    assert {p.dtype, xy.dtype, decoding.covariance2d(p, xy).dtype} == {torch.float64}
    centres = (2 * torch.arange(77).double() + 1) / 77 - 1
    torch.testing.assert_close(xy[..., 0], (p * centres).sum((-2, -1)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_decoded_in_float32(dtype: torch.dtype) -> None:
    size = (192, 192)
    logits = (round_blob(size, (171.3, 20.6), 2.0).clamp(min=-60)).to(dtype).requires_grad_()
    exact = in_cells(decoding.soft_argmax2d(logits.double()), size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        p = decoding.spatial_softmax2d(logits)
        xy = decoding.soft_argmax2d(logits)
        mean = decoding.expected_xy2d(p)
    assert p.dtype == xy.dtype == mean.dtype == torch.float32
    assert in_cells(xy, size) == pytest.approx(exact, abs=1e-3)
    assert decoding.expected_xy2d(p.to(dtype)).dtype == torch.float32
    xy.sum().backward()
    assert logits.grad is not None
    assert logits.grad.dtype == dtype


@pytest.mark.parametrize("shape", [(0, 3, 5, 6), (2, 1, 5, 6), (2, 3, 1, 6)])
def test_shapes(shape: tuple[int, ...]) -> None:
    p = decoding.spatial_softmax2d(torch.randn(shape))
    xy = decoding.expected_xy2d(p)
    assert p.shape == shape
    assert xy.shape == (*shape[:2], 2)
    assert decoding.covariance2d(p, xy).shape == (*shape[:2], 2, 2)
    assert decoding.mass_within2d(p, xy, 0.1).shape == shape[:2]
    torch.testing.assert_close(p.sum((-2, -1)), torch.ones(shape[:2]))


# Every decoder


@every_decoder
def test_a_wrong_rank_is_refused(decode: Decoder) -> None:
    with pytest.raises(ValueError, match=r"\(B, K, h, w\), got \(3, 5, 6\)"):
        decode(torch.randn(3, 5, 6))
    with pytest.raises(ValueError, match=r"\(B, K, h, w\), got \(2, 3, 0, 6\)"):
        decode(torch.randn(2, 3, 0, 6))


@every_decoder
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (2, 5), (3, 3), (1, 130)])
def test_thin_maps(decode: Decoder, size: tuple[int, int]) -> None:
    """A sure cell is found wherever it is, and no batch is an answer too."""
    cells = size[0] * size[1]
    for background in (-30.0, -math.inf):
        maps = torch.full((cells, cells), background).fill_diagonal_(0).view(cells, 1, *size)
        expected = torch.stack([torch.arange(cells) % size[1], torch.arange(cells) // size[1]], -1).float()
        torch.testing.assert_close(normalized_to_pixel(decode(maps), size)[:, 0], expected, atol=0.26, rtol=0)
    assert decode(maps[:0]).shape == (0, 1, 2)
    assert decode(maps[:, :0]).shape == (cells, 0, 2)


@every_decoder
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_map_gives_nan_and_it_alone(decode: Decoder, bad: float) -> None:
    maps = torch.randn(3, 4, 8, 9)
    expected = decode(maps)
    broken = maps.clone()
    broken[1, 2, 7, 0] = bad
    broken[2, 0] = -math.inf
    found = decode(broken)
    hit = torch.zeros(3, 4, 2, dtype=torch.bool)
    hit[1, 2] = hit[2, 0] = True
    assert found[hit].isnan().all()
    torch.testing.assert_close(found[~hit], expected[~hit])


@every_decoder
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_precision_of_the_answer(decode: Decoder, dtype: torch.dtype) -> None:
    maps = (3 * torch.randn(2, 3, 12, 9)).to(dtype)
    expected = decode(maps.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = decode(maps)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(found, expected.to(found.dtype), atol=1e-4, rtol=0)


@every_decoder
def test_each_map_is_its_own(decode: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.randn(5, 4, 6, 7)
    together = decode(maps.to(memory_format=torch.channels_last))
    monkeypatch.setattr(decoding, "_CHUNK_BYTES", 1)
    torch.testing.assert_close(decode(maps), together)
    for b in range(5):
        for k in range(4):
            torch.testing.assert_close(decode(maps[b : b + 1, k : k + 1])[0, 0], together[b, k])


@every_decoder
@given(st.integers(0, 2**32), st.sampled_from([(6, 7), (3, 16), (1, 9), (2, 2)]))
@settings(max_examples=20, deadline=None)
def test_mirror_equivariance(decode: Decoder, seed: int, size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    xy = decode(maps)
    torch.testing.assert_close(decode(maps.flip(-1)), xy * torch.tensor([-1, 1]), atol=1e-12, rtol=0)
    torch.testing.assert_close(decode(maps.flip(-2)), xy * torch.tensor([1, -1]), atol=1e-12, rtol=0)


@every_decoder
@given(st.integers(0, 2**32), st.integers(0, 12), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_shift_equivariance(decode: Decoder, seed: int, right: int, down: int) -> None:
    """Of what lies well inside: each decoder's window, and the blur, stay on the map."""
    size = (24, 27)
    maps = torch.full((1, 2, *size), -60.0, dtype=torch.float64)
    maps[..., 5:10, 5:10] = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    moved = normalized_to_pixel(decode(maps.roll((down, right), (-2, -1))), size)
    expected = normalized_to_pixel(decode(maps), size) + torch.tensor([right, down])
    torch.testing.assert_close(moved, expected, atol=1e-9, rtol=0)


@every_decoder
@given(st.integers(0, 2**32), st.floats(-50, 50))
@settings(max_examples=20, deadline=None)
def test_a_constant_changes_nothing(decode: Decoder, seed: int, constant: float) -> None:
    maps = torch.randn(1, 2, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(decode(maps + constant), decode(maps), atol=1e-9, rtol=0)


@given(st.integers(0, 2**32), st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_scale(seed: int, scale: float) -> None:
    """The temperature takes a scale out again; the peak of a paraboloid, and a cell's rank, do not know of it."""
    maps = torch.randn(1, 2, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for decode in (decoding.argmax2d, decoding.quarter_offset2d, decoding.dark_decode2d):
        torch.testing.assert_close(decode(maps * scale), decode(maps), atol=1e-9, rtol=0)
    for soft in (decoding.soft_argmax2d, local):
        torch.testing.assert_close(soft(maps * scale, scale), soft(maps, 1.0), atol=1e-9, rtol=0)


@every_decoder
def test_compiles_into_one_graph(decode: Decoder) -> None:
    torch._dynamo.reset()
    maps = torch.randn(2, 3, 12, 9, requires_grad=True)
    compiled = torch.compile(decode, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(maps), decode(maps))
    if decode(maps).requires_grad:
        (expected,) = torch.autograd.grad(decode(maps).sum(), maps)
        torch.testing.assert_close(torch.autograd.grad(compiled(maps).sum(), maps)[0], expected)


@every_decoder
def test_exports_with_any_batch(decode: Decoder) -> None:
    class Decode(torch.nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return decode(maps)

    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(Decode(), (torch.randn(2, 3, 12, 9),), dynamic_shapes=({0: batch},))
    maps = torch.randn(5, 3, 12, 9)
    torch.testing.assert_close(program.module()(maps), decode(maps))


# Where a Gaussian is found

SIZE = (40, 48)
inside = st.floats(12, 27)
anywhere_x, anywhere_y = st.floats(-0.5, SIZE[1] - 0.5), st.floats(-0.5, SIZE[0] - 0.5)
sigmas = st.floats(0.7, 3.0)


def error(decode: Decoder, x: float, y: float, sigma: float, dtype: torch.dtype = torch.float32) -> float:
    """The larger of the two axes' distances from a Gaussian's centre, in cells."""
    found = in_cells(decode(round_blob(SIZE, (x, y), sigma).to(dtype)), SIZE)
    return max(abs(found[0] - x), abs(found[1] - y))


@given(anywhere_x, anywhere_y, sigmas, st.floats(0, math.pi), st.floats(0.5, 1))
@settings(max_examples=200, deadline=None)
def test_dark_is_exact_for_any_gaussian(x: float, y: float, sigma: float, angle: float, ratio: float) -> None:
    """Turned and stretched, up to the outer edge of the outermost cell."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    log = log_gaussian(SIZE, (x, y), turn @ np.diag([sigma**2, (sigma * ratio) ** 2]) @ turn.T)
    assert in_cells(decoding.dark_decode2d(log), SIZE) == pytest.approx([x, y], abs=1e-6)
    # Distances from a Gaussian's centre reach 80 sigma: float32 logs of thousands.
    assert in_cells(decoding.dark_decode2d(log.float()), SIZE) == pytest.approx([x, y], abs=0.01)


@given(inside, inside, sigmas, st.floats(0.8, 2.5))
@settings(max_examples=100, deadline=None)
def test_dark_with_a_blur(x: float, y: float, sigma: float, blur: float) -> None:
    assert error(lambda maps: decoding.dark_decode2d(maps, blur), x, y, sigma) < 0.01


@given(inside, inside, sigmas)
@settings(max_examples=100, deadline=None)
def test_local_soft_argmax_in_a_window_of_several_sigma(x: float, y: float, sigma: float) -> None:
    radius = math.ceil(3.5 * sigma + 0.5)
    assert error(lambda maps: decoding.local_soft_argmax2d(maps, radius), x, y, sigma) < 0.01


@given(anywhere_x, anywhere_y, sigmas)
@settings(max_examples=100, deadline=None)
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
@settings(max_examples=50, deadline=None)
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
@settings(max_examples=50, deadline=None)
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
    # A border peak over a valley, and a flat map: no paraboloid has its peak there.
    valley = torch.tensor([0.0, -5, -6, -6, -6]).expand(1, 1, 5, 5)
    assert in_cells(decoding.dark_decode2d(valley), (5, 5)) == pytest.approx([0, 0], abs=1e-6)
    assert in_cells(decoding.dark_decode2d(torch.zeros(1, 1, 5, 5)), (5, 5)) == pytest.approx([0, 0], abs=1e-6)


def test_the_peak_is_the_first_of_equals_on_maps_of_any_size() -> None:
    for size in [(64, 48), (24, 24), (13, 11), (1, 200), (67, 67), (8, 16)]:
        maps = torch.randint(0, 50, (3, 2, *size)).float()
        index = maps.flatten(2).argmax(-1)
        expected = torch.stack([index % size[1], index // size[1]], -1).float()
        torch.testing.assert_close(normalized_to_pixel(decoding.argmax2d(maps), size), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: decoding.soft_argmax2d(z, 0.0), "number > 0"),
        (lambda z: decoding.spatial_softmax2d(z, math.nan), "number > 0"),
        (lambda z: decoding.soft_argmax2d(z, torch.ones(2)), "0-d"),
        (lambda z: decoding.local_soft_argmax2d(z, -1), "radius >= 0"),
        (lambda z: decoding.dark_decode2d(z, -1.0), "blur >= 0"),
        (lambda z: decoding.expected_xy2d(z[0]), r"\(B, K, h, w\)"),
    ],
)
def test_nonsense_is_refused(call: Callable[[Tensor], Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(1, 1, 3, 3))


# Covariance


@pytest.mark.parametrize("angle", [0.0, 0.5, 2.1])
def test_the_covariance_of_a_rotated_gaussian(angle: float) -> None:
    size, xy = (64, 80), (41.3, 30.8)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    cells = turn @ np.diag([4.0**2, 1.8**2]) @ turn.T
    p = decoding.spatial_softmax2d(log_gaussian(size, xy, cells))
    found = decoding.covariance2d(p, decoding.expected_xy2d(p))[0, 0].numpy()
    scale = np.diag([2 / size[1], 2 / size[0]])  # cells to normalised
    np.testing.assert_allclose(found, scale @ cells @ scale, atol=1e-6)


def test_the_covariance_is_about_the_given_point() -> None:
    p = decoding.spatial_softmax2d(torch.randn(1, 2, 6, 9, dtype=torch.float64))
    mean, other = decoding.expected_xy2d(p), torch.tensor([[[0.2, -0.3], [0.9, 0.9]]], dtype=torch.float64)
    shift = other - mean
    moved = decoding.covariance2d(p, mean) + shift[..., :, None] * shift[..., None, :]
    torch.testing.assert_close(decoding.covariance2d(p, other), moved)


def test_the_covariance_of_a_flat_map_is_a_boxs() -> None:
    p = decoding.spatial_softmax2d(torch.zeros(1, 1, 50, 30))
    expected = torch.diag(torch.tensor([(1 - 1 / 30**2) / 3, (1 - 1 / 50**2) / 3]))
    torch.testing.assert_close(decoding.covariance2d(p, torch.zeros(1, 1, 2))[0, 0], expected, atol=1e-5, rtol=0)


# Mass within a circle


def dense_mass(p: np.ndarray, centre: tuple[float, float], radius: float, fine: int = 16) -> float:
    """Each cell's share inside the circle, counted on a fine grid; everything in cells."""
    h, w = p.shape
    y = (np.arange(h * fine) + 0.5) / fine - 0.5
    x = (np.arange(w * fine) + 0.5) / fine - 0.5
    inside = (x[None] - centre[0]) ** 2 + (y[:, None] - centre[1]) ** 2 <= radius**2
    return float((p * inside.reshape(h, fine, w, fine).mean((1, 3))).sum())


@pytest.mark.parametrize("size", [(24, 24), (24, 40), (56, 32)])
# First order in the cell: a circle of 1.2 cells (5 % of a 24-cell map) may be 0.03 off.
@pytest.mark.parametrize(("radius", "tolerance"), [(0.05, 0.04), (0.1, 0.012), (0.3, 0.012)])
def test_mass_within_is_what_a_fine_grid_counts(size: tuple[int, int], radius: float, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(6):
        centre = (rng.uniform(0, size[1] - 1), rng.uniform(0, size[0] - 1))
        peak = (centre[0] + rng.normal(), centre[1] + rng.normal())
        for logits in (torch.zeros(1, 1, *size), round_blob(size, peak, rng.uniform(1, 4))):
            p = decoding.spatial_softmax2d(logits.double())
            xy = pixel_to_normalized(torch.tensor([[centre]], dtype=torch.float64), size)
            found = decoding.mass_within2d(p, xy, radius).item()
            assert found == pytest.approx(dense_mass(p[0, 0].numpy(), centre, radius * max(size)), abs=tolerance)


def test_mass_within_in_the_limits() -> None:
    sure = torch.zeros(1, 1, 24, 40)
    sure[..., 7, 30] = 1
    there = pixel_to_normalized(torch.tensor([[[30.0, 7.0]]]), (24, 40))
    away = pixel_to_normalized(torch.tensor([[[36.0, 7.0]]]), (24, 40))
    assert decoding.mass_within2d(sure, there, 0.05).item() == 1
    assert decoding.mass_within2d(sure, away, 0.1).item() == 0
    flat = torch.full((1, 1, 96, 96), 1 / 96**2)
    area = math.pi * 0.2**2
    assert decoding.mass_within2d(flat, torch.zeros(1, 1, 2), 0.2).item() == pytest.approx(area, rel=0.005)
    # A quarter of the circle lies on the image at its corner; all of the image in a circle round it.
    assert decoding.mass_within2d(flat, -torch.ones(1, 1, 2), 0.2).item() == pytest.approx(area / 4, rel=0.01)
    assert decoding.mass_within2d(flat, torch.zeros(1, 1, 2), 1.0).item() == pytest.approx(1, abs=1e-5)


def test_mass_within_is_a_circle_in_pixels_not_in_normalised_units() -> None:
    """6 cells to the right and 6 cells down count alike on a map that is not square."""
    size = (24, 48)
    centre = pixel_to_normalized(torch.tensor([[[20.0, 10.0]]]), size)
    for shift, expected in (((6, 0), 1), ((0, 6), 1), ((9, 0), 0), ((0, 9), 0)):
        p = torch.zeros(1, 1, *size)
        p[..., 10 + shift[1], 20 + shift[0]] = 1
        assert decoding.mass_within2d(p, centre, 7.5 / 48).item() == expected
        offset = normalized_distance_to_pixel(decoding.expected_xy2d(p) - centre, size)
        torch.testing.assert_close(offset[0, 0], torch.tensor(shift).float(), atol=1e-4, rtol=0)


def test_mass_within_has_finite_gradients_at_a_cells_centre() -> None:
    p = decoding.spatial_softmax2d(torch.zeros(1, 1, 3, 3))
    xy = torch.zeros(1, 1, 2, requires_grad=True)
    decoding.mass_within2d(p, xy, 0.4).sum().backward()
    assert xy.grad is not None
    assert xy.grad.isfinite().all()

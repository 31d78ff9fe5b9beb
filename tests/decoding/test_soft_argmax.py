"""Soft-argmax: its value, its gradient, and what is kept for that."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.blobs import in_cells, local, round_blob
from torch import Tensor

from kpnet import decoding


@given(st.floats(10, 29), st.floats(10, 37), st.floats(0.7, 2.0))
@settings(max_examples=50)
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
        torch.testing.assert_close(found, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)


def test_the_gradient_keeps_the_probabilities_alone_and_takes_their_place() -> None:
    logits = torch.randn(4, 5, 24, 16, requires_grad=True)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
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


@pytest.mark.parametrize("temperature", [1.0, torch.tensor(0.7)], ids=["number", "tensor"])
def test_a_vectorised_jacobian_is_that_of_the_parts(temperature: float | Tensor) -> None:
    """Legacy vmap, as `torch.autograd.functional.jacobian` uses it, can write into no buffer."""
    logits = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    found, expected = (
        torch.autograd.functional.jacobian(lambda z, f=f: f(z, temperature).sum(0), logits, vectorize=True)
        for f in (decoding.soft_argmax2d, lambda z, t: decoding.expected_xy2d(decoding.spatial_softmax2d(z, t)))
    )
    torch.testing.assert_close(found, expected)


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

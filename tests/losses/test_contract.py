"""What every loss promises: float64 gradients, absent points, weights, precision, shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.loss_examples import ALL, MAP, POINT, SIGMA, call, example
from torch import Tensor

from kpnet import losses


@given(st.integers(1, 6), st.integers(0, 2**16))
def test_ohkm_is_the_mean_over_the_hardest(count: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    values = torch.rand(3, 5, generator=g, dtype=torch.float64)
    weight = (torch.rand(3, 5, generator=g) > 0.3).double() * torch.rand(3, 5, generator=g).double().clamp(min=0.1)
    values[weight == 0] = torch.nan
    kept = []
    for v, w in zip(values.tolist(), weight.tolist(), strict=True):
        kept += sorted((a * b for a, b in zip(v, w, strict=True) if b), reverse=True)[:count]
    expected = sum(kept) / len(kept) if kept else 0
    assert losses.ohkm(count)(values, weight).item() == pytest.approx(expected)


def test_ohkm_of_every_point_is_the_mean() -> None:
    predicted, target, weight = example(losses.l1)
    whole = losses.l1(predicted, target, weight)
    torch.testing.assert_close(losses.l1(predicted, target, weight, losses.ohkm(99)), whole)
    assert losses.l1(predicted, target, weight, losses.ohkm(1)) > whole


# Gradients


@pytest.mark.parametrize("loss", ALL)
def test_gradients(loss: Callable[..., Tensor]) -> None:
    predicted, target, weight = example(loss, 2, 2)
    weight[0, 1], weight[1, 0] = 0, 0.3
    target[0, 1] = torch.nan
    predicted.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: call(loss, p, target, weight), predicted)
    if loss is losses.l1:
        assert torch.autograd.gradcheck(lambda p: losses.l1(p, target, weight, losses.ohkm(1)), predicted)


# Absent points


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_absent_points_are_as_if_dropped(loss: Callable[..., Tensor], dtype: torch.dtype) -> None:
    predicted, target, weight = example(loss, 1, 4, dtype=dtype)
    weight[0, 1] = weight[0, 3] = 0
    target[0, 1], target[0, 3] = torch.nan, torch.inf
    seen, kept = predicted.clone().requires_grad_(), predicted[:, [0, 2]].clone().requires_grad_()
    full = call(loss, seen, target, weight)
    dropped = call(loss, kept, target[:, [0, 2]], weight[:, [0, 2]])
    full.backward()
    dropped.backward()
    torch.testing.assert_close(full, dropped, rtol=1e-6, atol=0)
    assert seen.grad is not None
    torch.testing.assert_close(seen.grad[:, [0, 2]], kept.grad, rtol=1e-6, atol=1e-9)
    assert (seen.grad[:, [1, 3]] == 0).all()


@pytest.mark.parametrize("loss", POINT)
def test_a_prediction_of_nan_for_an_absent_point_does_no_harm(loss: Callable[..., Tensor]) -> None:
    predicted, target, weight = example(loss, 1, 2)
    weight[0, 1] = 0
    predicted[0, 1] = torch.nan
    predicted.requires_grad_()
    loss(predicted, target, weight).backward()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


@pytest.mark.parametrize("loss", ALL)
def test_nothing_visible_is_zero_with_zero_gradients(loss: Callable[..., Tensor]) -> None:
    predicted, target, weight = example(loss)
    predicted.requires_grad_()
    value = call(loss, predicted, torch.full_like(target, torch.nan), torch.zeros_like(weight))
    value.backward()
    assert value.item() == 0
    assert predicted.grad is not None
    assert (predicted.grad == 0).all()


@pytest.mark.parametrize("loss", ALL)
def test_an_empty_batch_is_zero(loss: Callable[..., Tensor]) -> None:
    predicted, target, weight = example(loss)
    assert call(loss, predicted[:0], target[:0], weight[:0]).item() == 0


@pytest.mark.parametrize("loss", ALL)
def test_weights_scale_and_do_not_renormalise(loss: Callable[..., Tensor]) -> None:
    """A pseudo-label of weight 0.5 counts half of a label, alone in its batch too."""
    predicted, target, weight = example(loss, 1, 1)
    full = call(loss, predicted, target, weight)
    torch.testing.assert_close(call(loss, predicted, target, 0.5 * weight), 0.5 * full)


@given(st.lists(st.tuples(st.floats(-10, 10), st.sampled_from([0.0, 0.25, 1.0])), min_size=1, max_size=12))
def test_mean_over_visible(points: list[tuple[float, float]]) -> None:
    values = torch.tensor([[v if w else torch.nan for v, w in points]], dtype=torch.float64)
    weight = torch.tensor([[w for _, w in points]], dtype=torch.float64)
    seen = [v * w for v, w in points if w]
    expected = sum(seen) / len(seen) if seen else 0
    assert losses.mean_over_visible(values, weight).item() == pytest.approx(expected, abs=1e-12)


# Precision and shapes


@pytest.mark.parametrize("loss", MAP)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_map_losses_are_float32_under_autocast(loss: Callable[..., Tensor], dtype: torch.dtype) -> None:
    logits, target, weight = example(loss, dtype=torch.float32)
    low = (logits * 8).to(dtype)
    exact = loss(low.double(), target.double(), weight.double(), SIGMA)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(low, target, weight, SIGMA)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize("loss", ALL)
def test_shapes_that_do_not_fit_are_refused(loss: Callable[..., Tensor]) -> None:
    predicted, target, weight = example(loss)
    with pytest.raises(ValueError, match=r"got \(3, 4, .*\), \(3, 1, 2\)"):
        call(loss, predicted, target[:, :1], weight)  # would broadcast in silence
    with pytest.raises(ValueError, match=r"\(3, 1\)"):
        call(loss, predicted, target, weight[:, :1])

"""Losses against second implementations, closed forms and float64 gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kpnet import losses
from kpnet.coordinates import normalized_to_pixel, pixel_to_normalized

SIZE = (7, 9)
SIGMA = 0.8
POINT = list(losses.COORDINATE_LOSSES.values())
MAP = list(losses.MAP_LOSSES.values())
ALL = [*POINT, *(pytest.param(f, id=f.__name__) for f in MAP)]


def call(loss: Callable[..., Tensor], predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return loss(predicted, target, weight, SIGMA) if loss in MAP else loss(predicted, target, weight)


def example(
    loss: Callable[..., Tensor], batch: int = 3, points: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions (points or logits), targets inside the image, weights of 1."""
    g = torch.Generator().manual_seed(seed)
    shape = SIZE if loss in MAP else (2,)
    predicted = torch.randn(batch, points, *shape, generator=g, dtype=dtype)
    target = torch.rand(batch, points, 2, generator=g, dtype=dtype) * 1.8 - 0.9
    return predicted, target, torch.ones(batch, points, dtype=dtype)


# Second implementations


def gaussian(target: np.ndarray) -> np.ndarray:
    """(h, w), peak 1, drawn cell by cell."""
    cx, cy = ((target[0] + 1) * SIZE[1] - 1) / 2, ((target[1] + 1) * SIZE[0] - 1) / 2
    return np.array(
        [[np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * SIGMA**2)) for x in range(SIZE[1])] for y in range(SIZE[0])]
    )


def one_point(loss: Callable[..., Tensor], predicted: np.ndarray, target: np.ndarray) -> float:
    d = np.abs(predicted - target) if loss in POINT else None
    if loss is losses.l1:
        return float(d.mean())
    if loss is losses.mse:
        return float((d**2).mean())
    if loss is losses.smooth_l1:
        return float(np.where(d < 0.02, d**2 / 0.04, d - 0.01).mean())
    if loss is losses.map_mse:
        return float(((predicted - gaussian(target)) ** 2).mean())
    assert loss is losses.cross_entropy2d
    soft = gaussian(target) / gaussian(target).sum()
    return float(-(soft * (predicted - np.log(np.exp(predicted).sum()))).sum())


@pytest.mark.parametrize("loss", ALL)
def test_equals_a_loop_over_points(loss: Callable[..., Tensor]) -> None:
    predicted, target, _ = example(loss)
    if loss in POINT:
        predicted[0, 0] = target[0, 0] + torch.tensor([0.005, -0.3])  # both branches of smooth L1
    weight = torch.tensor([[1.0, 0.0, 0.25, 1.0], [0.0, 0.0, 0.0, 0.0], [0.5, 2.0, 0.0, 1.0]], dtype=torch.float64)
    total, visible = 0.0, 0
    for b in range(3):
        for k in range(4):
            if weight[b, k] > 0:
                total += weight[b, k].item() * one_point(loss, predicted[b, k].numpy(), target[b, k].numpy())
                visible += 1
    assert call(loss, predicted, target, weight).item() == pytest.approx(total / visible, rel=1e-10)


def test_cross_entropy_is_torchs_with_a_soft_target() -> None:
    logits, target, weight = example(losses.cross_entropy2d)
    soft = torch.tensor(np.stack([[gaussian(p) for p in sample] for sample in target.numpy()]))
    soft = soft / soft.sum((-2, -1), keepdim=True)
    dense = F.cross_entropy(logits.flatten(2).flatten(0, 1), soft.flatten(2).flatten(0, 1))
    torch.testing.assert_close(losses.cross_entropy2d(logits, target, weight, SIGMA), dense, rtol=1e-12, atol=0)


def test_cross_entropy_is_least_for_its_own_target() -> None:
    """Its minimum is the target's entropy, at logits that are the Gaussian's logarithm, and has no gradient."""
    _, target, weight = example(losses.cross_entropy2d, 1, 1)
    own = torch.tensor(np.log(gaussian(target[0, 0].numpy())))[None, None].requires_grad_()
    least = losses.cross_entropy2d(own, target, weight, SIGMA)
    p = gaussian(target[0, 0].numpy())
    p /= p.sum()
    assert least.item() == pytest.approx(-(p * np.log(p)).sum(), rel=1e-10)
    least.backward()
    assert own.grad is not None
    assert own.grad.abs().max() < 1e-12


@pytest.mark.parametrize("loss", POINT)
def test_coordinate_losses_are_zero_at_the_target(loss: Callable[..., Tensor]) -> None:
    _, target, weight = example(loss)
    assert loss(target, target, weight).item() == 0


def test_smooth_l1_meets_l1_at_beta() -> None:
    target, weight = torch.zeros(1, 1, 2, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    for beta in (0.02, 0.5):
        assert losses.smooth_l1(target + beta, target, weight, beta).item() == pytest.approx(beta / 2)
        assert losses.smooth_l1(target + 4, target, weight, beta).item() == pytest.approx(4 - beta / 2)


# Gradients


@pytest.mark.parametrize("loss", ALL)
def test_gradients(loss: Callable[..., Tensor]) -> None:
    predicted, target, weight = example(loss, 2, 2)
    weight[0, 1], weight[1, 0] = 0, 0.3
    target[0, 1] = torch.nan
    predicted.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: call(loss, p, target, weight), predicted)


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


# Gaussians at and beyond the border


@pytest.mark.parametrize("sigma", [0.05, 0.375, 3.0])
@pytest.mark.parametrize("xy", [(-1, -1), (1, 1), (-1.5, 0.2), (3, -3), (40, 0)])
def test_targets_at_the_border_and_outside(xy: tuple[float, float], sigma: float) -> None:
    logits = torch.zeros(1, 1, 24, 24, requires_grad=True)
    target, weight = torch.tensor([[xy]], dtype=torch.float32), torch.ones(1, 1)
    value = losses.cross_entropy2d(logits, target, weight, sigma)
    value.backward()
    # Against a flat map any target that sums to 1 costs log(cells).
    assert value.item() == pytest.approx(np.log(24 * 24), rel=1e-5)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert abs(logits.grad.sum().item()) < 1e-5
    # The pull is towards the cell nearest to the target.
    x, y = normalized_to_pixel(target, (24, 24))[0, 0].round().clamp(0, 23).int().tolist()
    assert logits.grad[0, 0].min() == logits.grad[0, 0, y, x]
    assert losses.map_mse(logits, target, weight, sigma).isfinite()


def test_a_gaussian_is_not_rounded_to_a_cell() -> None:
    cells = torch.tensor([[[3.3, 2.6]]], dtype=torch.float64)
    y, x = losses.log_gaussian_profiles(pixel_to_normalized(cells, (60, 80)), (60, 80), 1.5)
    assert x[0, 0, 3].item() == pytest.approx(-0.5 * (0.3 / 1.5) ** 2)
    assert y[0, 0, 2].item() == pytest.approx(-0.5 * (0.6 / 1.5) ** 2)
    assert (y.shape, x.shape) == ((1, 1, 60), (1, 1, 80))


def test_a_map_of_one_row() -> None:
    logits = torch.randn(1, 1, 1, 12, dtype=torch.float64)
    target = torch.tensor([[[0.3, 0.0]]], dtype=torch.float64)
    x = torch.arange(12) - ((1.3) * 12 - 1) / 2
    soft = (-0.5 * x.double() ** 2).softmax(0)
    expected = -(soft * logits[0, 0, 0].log_softmax(0)).sum()
    torch.testing.assert_close(losses.cross_entropy2d(logits, target, torch.ones(1, 1), 1.0), expected)


# Precision and shapes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cross_entropy_is_float32_under_autocast(dtype: torch.dtype) -> None:
    logits, target, weight = example(losses.cross_entropy2d, dtype=torch.float32)
    low = (logits * 8).to(dtype)
    exact = losses.cross_entropy2d(low.double(), target.double(), weight.double(), SIGMA)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = losses.cross_entropy2d(low, target, weight, SIGMA)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-6)


@pytest.mark.parametrize("loss", POINT)
def test_shapes_that_do_not_fit_are_refused(loss: Callable[..., Tensor]) -> None:
    predicted, target, weight = example(loss)
    with pytest.raises(ValueError, match=r"\(3, 4, 2\), \(3, 1, 2\)"):
        loss(predicted, target[:, :1], weight)  # would broadcast in silence
    with pytest.raises(ValueError, match=r"\(3, 1\)"):
        loss(predicted, target, weight[:, :1])

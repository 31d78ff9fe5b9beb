"""Losses against second implementations and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.loss_examples import ALL, POINT, SIGMA, SIZE, call, example
from torch import Tensor

from kpnet import losses
from kpnet.coordinates import normalized_to_pixel, pixel_to_normalized

# Second implementations


def gaussian(target: np.ndarray) -> np.ndarray:
    """(h, w), peak 1, drawn cell by cell."""
    cx, cy = ((target[0] + 1) * SIZE[1] - 1) / 2, ((target[1] + 1) * SIZE[0] - 1) / 2
    return np.array(
        [[np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * SIGMA**2)) for x in range(SIZE[1])] for y in range(SIZE[0])]
    )


def one_point(loss: Callable[..., Tensor], predicted: np.ndarray, target: np.ndarray) -> float:
    d = np.abs(predicted - target) if loss in POINT else np.zeros(0)
    if loss is losses.l1:
        return float(d.mean())
    if loss is losses.mse:
        return float((d**2).mean())
    if loss is losses.smooth_l1:
        return float(np.where(d < 0.02, d**2 / 0.04, d - 0.01).mean())
    if loss is losses.wing:
        return float(np.where(d < 0.08, 0.08 * np.log(1 + d / 0.016), d - (0.08 - 0.08 * np.log(6))).mean())
    drawn = gaussian(target)
    if loss is losses.map_mse:
        return float(((predicted - drawn) ** 2).mean())
    if loss is losses.adaptive_wing2d:
        return adaptive_wing(predicted, drawn)
    return of_distributions(loss, np.exp(predicted) / np.exp(predicted).sum(), drawn / drawn.sum())


def of_distributions(loss: Callable[..., Tensor], p: np.ndarray, q: np.ndarray) -> float:
    if loss is losses.cross_entropy2d:
        return float(-(q * np.log(p)).sum())
    if loss is losses.kl2d:
        return float((q * np.log(q / p)).sum())
    if loss is losses.js2d:
        m = (p + q) / 2
        return float((p * np.log(p / m) + q * np.log(q / m)).sum() / 2)
    assert loss is losses.variance2d
    squares = []
    for axis in (0, 1):
        at, share = np.arange(p.shape[1 - axis]), p.sum(axis)
        squares.append(((share * at**2).sum() - (share * at).sum() ** 2 - SIGMA**2) ** 2)
    return float(np.mean(squares))


def adaptive_wing(predicted: np.ndarray, drawn: np.ndarray) -> float:
    """Cell by cell, as the paper writes it (equations 3 to 7)."""
    total = 0.0
    for y, x in np.ndindex(drawn.shape):
        a = 2.1 - drawn[y, x]
        error = abs(predicted[y, x] - drawn[y, x])
        slope = 14 * (1 / (1 + 0.5**a)) * a * 0.5 ** (a - 1)
        value = 14 * np.log(1 + error**a) if error < 0.5 else slope * error - (0.5 * slope - 14 * np.log(1 + 0.5**a))
        near = drawn[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].max() > 0.2
        total += value * (11 if near else 1)
    return total / drawn.size


@pytest.mark.parametrize("loss", ALL)
def test_equals_a_loop_over_points(loss: Callable[..., Tensor]) -> None:
    predicted, target, _ = example(loss)
    if loss in POINT:
        predicted[0, 0] = target[0, 0] + torch.tensor([0.005, -0.3])  # both branches of smooth L1 and wing
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
        assert losses.smooth_l1(target + beta, target, weight, beta=beta).item() == pytest.approx(beta / 2)
        assert losses.smooth_l1(target + 4, target, weight, beta=beta).item() == pytest.approx(4 - beta / 2)


def test_wing_is_continuous_and_l1_far_out() -> None:
    target, weight = torch.zeros(1, 1, 2, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    at = [losses.wing(target + d, target, weight).item() for d in (0.08 - 1e-9, 0.08 + 1e-9, 1.0, 2.0)]
    assert at[0] == pytest.approx(at[1], abs=1e-7)
    assert at[3] - at[2] == pytest.approx(1)


@pytest.mark.parametrize("loss", [losses.kl2d, losses.js2d])
def test_divergences_are_zero_at_their_target(loss: Callable[..., Tensor]) -> None:
    _, target, weight = example(loss, 1, 1)
    own = torch.tensor(np.log(gaussian(target[0, 0].numpy())))[None, None].requires_grad_()
    value = loss(own, target, weight, SIGMA)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert own.grad is not None
    assert own.grad.abs().max() < 1e-12


def test_js_of_distant_maps_is_log_two() -> None:
    logits = torch.full((1, 1, 24, 24), -1e4)
    logits[..., 0, 0] = 0
    target = torch.tensor([[[0.8, 0.8]]])
    value = losses.js2d(logits.requires_grad_(), target, torch.ones(1, 1), 0.5)
    value.backward()
    assert value.item() == pytest.approx(np.log(2), rel=1e-5)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("loss", "density"),
    [(losses.gaussian_nll, torch.distributions.Normal), (losses.laplace_nll, torch.distributions.Laplace)],
)
def test_likelihoods_are_torchs(loss: Callable[..., Tensor], density: Any) -> None:
    g = torch.Generator().manual_seed(1)
    xy, log_scale, target = (torch.randn(3, 4, 2, generator=g, dtype=torch.float64) for _ in range(3))
    weight = torch.ones(3, 4, dtype=torch.float64)
    weight[1, 2] = 0
    seen = weight > 0
    expected = -density(xy, log_scale.exp()).log_prob(target)[seen].mean()
    target[1, 2] = torch.nan
    torch.testing.assert_close(loss(xy, log_scale, target, weight), expected)
    assert torch.autograd.gradcheck(
        lambda a, b: loss(a, b, target, weight), (xy.requires_grad_(), log_scale.requires_grad_())
    )


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


# Losses of instances


def test_focal2d_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    logits, target, weight = rng.normal(size=(2, 3, 4, 5)) * 3, rng.random((2, 3, 4, 5)), rng.random((2, 1, 4, 5))
    target[rng.random(target.shape) < 0.2] = 1
    expected = np.zeros((2, 3))
    for b, k, y, x in np.ndindex(*logits.shape):
        p = 1 / (1 + np.exp(-logits[b, k, y, x]))
        t = target[b, k, y, x]
        value = (1 - p) ** 2 * np.log(p) if t == 1 else (1 - t) ** 4 * p**2 * np.log(1 - p)
        expected[b, k] -= weight[b, 0, y, x] * value
    found = losses.focal2d(*(torch.from_numpy(each) for each in (logits, target, weight)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_focal2d_of_sure_logits_is_finite() -> None:
    logits = torch.tensor([-1e4, -90.0, 90.0, 1e4], requires_grad=True)
    for target in (0.0, 1.0):
        value = losses.focal2d(logits.view(1, 1, 2, 2), torch.full((1, 1, 2, 2), target), torch.ones(()))
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert value.isfinite().all()
        assert gradient.isfinite().all()
    assert losses.focal2d(torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16), torch.zeros(1, 1, 2, 2), logits[0]).dtype == (
        torch.float32
    )
    with pytest.raises(ValueError, match=r"logits and targets \(B, K, h, w\), got \(1, 2, 2\), \(1, 1, 2, 2\)"):
        losses.focal2d(torch.zeros(1, 2, 2), torch.zeros(1, 1, 2, 2), logits[0])


def test_focal2d_has_gradients() -> None:
    logits = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    target = torch.rand(1, 2, 3, 3, dtype=torch.float64)
    target[0, 0, 1, 1] = 1
    assert torch.autograd.gradcheck(lambda z: losses.focal2d(z, target, torch.ones(()).double()), logits)


def boxes(count: int) -> Tensor:
    g = torch.Generator().manual_seed(count)
    low = torch.rand(count, 2, generator=g, dtype=torch.float64)
    return torch.cat([low, low + torch.rand(count, 2, generator=g, dtype=torch.float64) + 0.01], -1)


def test_generalized_iou_is_torchvisions() -> None:
    from torchvision.ops import generalized_box_iou_loss

    first, second = boxes(50), boxes(51)[:50]
    torch.testing.assert_close(losses.generalized_iou(first, second), generalized_box_iou_loss(first, second))
    far = losses.generalized_iou(first[:1], first[:1] + 1e6)
    torch.testing.assert_close(far, torch.tensor([2.0]).double(), atol=1e-5, rtol=0)
    assert torch.autograd.gradcheck(lambda b: losses.generalized_iou(b, second), first.requires_grad_())


def test_generalized_iou_of_boxes_without_area_is_finite() -> None:
    box = torch.tensor([0.2, 0.2, 0.2, 0.2], requires_grad=True)
    value = losses.generalized_iou(box, box.detach())
    value.backward()
    assert value.isfinite()
    assert box.grad is not None
    assert box.grad.isfinite().all()
    assert losses.generalized_iou(torch.tensor([0.0, 0, 1e-3, 1e-3]), torch.tensor([0.0, 0, 1e-3, 1e-3])).item() == (
        pytest.approx(0, abs=1e-4)
    )

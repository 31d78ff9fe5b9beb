"""Confidence that is true: a model's own spread, made to agree with its errors on data that it has not seen.

The errors e of point k are taken for a Student t in two dimensions. Its covariance is the head's own one, C, with the
size of it fitted: a_k * size(C)^b, size being the square root of the determinant, the shape of C as it is. So a head
that is too sure everywhere is made less sure, one whose spread says little is pulled to the average, and outliers
among the labels cost a heavy tail and not a wide centre. Fitted by maximum likelihood.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kpnet.coordinates import pixel_distance_to_normalized
from kpnet.core.errors import KpnetError
from kpnet.heads import Keypoints
from kpnet.models.test_time import TestTime
from kpnet.uncertainty import CONFIDENCE_RADIUS, mahalanobis, probability_within

MIN_POINTS = 50
PRIOR_STRENGTH = 10.0  # points' worth of belief that a keypoint's own factor is the others'
MIN_DOF = 2.05
MAX_LOG_SCALE = 15.0  # log of a factor: three million times too sure


@dataclass(frozen=True)
class Calibration:
    """log_scales: log of the standard deviation's factor, one per keypoint; exponent: the exponent b; dof: degrees of
    freedom of the Student t. points: how many it was fitted to. test_time: the views of the answers that it was fitted
    to, and holds for."""

    log_scales: list[float]
    exponent: float
    dof: float
    points: int
    test_time: TestTime = field(default_factory=TestTime)

    def __call__(self, answer: Keypoints, size: tuple[int, int]) -> Keypoints:
        """The answer with a covariance and a confidence that agree with its errors; size (H, W) of the input."""
        raw = _raw_covariance(answer, size)
        factors = torch.tensor(self.log_scales, dtype=raw.dtype, device=raw.device)
        covariance = _scaled(raw, factors, self.exponent)
        confidence = probability_within(covariance, CONFIDENCE_RADIUS, size, self.dof)
        return dataclasses.replace(answer, covariance=covariance, confidence=confidence, dof=self.dof)


def fit_calibration(
    answer: Keypoints, target: Tensor, visible: Tensor, size: tuple[int, int], test_time: TestTime | None = None
) -> Calibration:
    """From uncalibrated answers to N images, their true points (N, K, 2) and visible (N, K); size (H, W) of the input.

    A KpnetError where there are too few points, or where the answers hit every point exactly.
    """
    raw = _raw_covariance(answer, size).double().cpu()
    errors = (target.cpu().double() - answer.keypoints.cpu().double())[visible]
    raw, point = raw[visible], torch.arange(visible.shape[1]).expand_as(visible)[visible]
    if len(errors) < MIN_POINTS:
        raise KpnetError(f"calibration: expected at least {MIN_POINTS} labelled points, found {len(errors)}")
    if not errors.any():
        raise KpnetError("calibration: every point is hit exactly; use data that the model was not trained on")
    start = 0.5 * mahalanobis(errors, raw).mean().clamp(min=1e-12).log() - 0.5 * math.log(2)
    shared = start.clone().requires_grad_()
    own = torch.zeros(visible.shape[1], dtype=torch.float64, requires_grad=True)
    exponent = torch.ones((), dtype=torch.float64, requires_grad=True)
    raw_dof = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)  # of softplus
    predicts_covariance = answer.covariance is not None  # or the exponent has nothing to act on
    fitted = [shared, own, raw_dof, *([exponent] if predicts_covariance else [])]
    optimizer = torch.optim.LBFGS(fitted, max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        dof = MIN_DOF + torch.nn.functional.softplus(raw_dof)
        covariance = _scaled(raw, (shared + own)[point], exponent)
        loss = student_nll(errors, covariance, dof).sum() + PRIOR_STRENGTH * own.square().sum() / 2
        (loss / len(errors)).backward()
        return loss / len(errors)

    optimizer.step(closure)
    dof = MIN_DOF + float(torch.nn.functional.softplus(raw_dof.detach()))
    factors = (shared + own).detach()
    if not factors.isfinite().all() or factors.abs().max() > MAX_LOG_SCALE:
        raise KpnetError(
            "calibration: no scale fits these errors; are nearly all points hit exactly? "
            "Use data that the model was not trained on"
        )
    return Calibration(factors.tolist(), float(exponent.detach()), dof, len(errors), test_time or TestTime())


def student_nll(errors: Tensor, covariance: Tensor, dof: Tensor) -> Tensor:
    """Negative log-density (...) of errors (..., 2) under a bivariate Student t of that covariance."""
    determinant = covariance[..., 0, 0] * covariance[..., 1, 1] - covariance[..., 0, 1].square()
    log_scale = 0.5 * determinant.log() + torch.log((dof - 2) / dof)  # of the t's own matrix
    inner = mahalanobis(errors, covariance) / (dof - 2)
    return math.log(2 * math.pi) + log_scale + (dof + 2) / 2 * torch.log1p(inner)


def _raw_covariance(answer: Keypoints, size: tuple[int, int]) -> Tensor:
    """The head's own; for a head without, a circle of one pixel. Never thinner than a hundredth of a pixel."""
    pixel = pixel_distance_to_normalized(answer.keypoints.new_ones(2), size)
    if answer.covariance is None:
        return torch.diag_embed(pixel.square()).expand(*answer.keypoints.shape, 2)
    return answer.covariance + torch.diag_embed((0.01 * pixel).square())


def _scaled(raw: Tensor, log_scales: Tensor, exponent: float | Tensor) -> Tensor:
    """exp(2 a) size^(2 b) of the shape of `raw` (..., 2, 2), size^2 being the root of its determinant in [-1, 1]."""
    determinant = raw[..., 0, 0] * raw[..., 1, 1] - raw[..., 0, 1].square()
    log_size = 0.25 * determinant.clamp(min=1e-24).log()
    return raw * torch.exp(2 * log_scales + 2 * (exponent - 1) * log_size)[..., None, None]

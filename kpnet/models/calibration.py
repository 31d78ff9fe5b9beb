"""Calibrate predicted uncertainty on held-out data.

The errors of a keypoint k are modelled by a Student t in two dimensions, fitted by maximum likelihood. Its covariance
has the shape of the head's own covariance C; its size, the square root of the determinant, is a_k * size(C)^b. So an
overconfident head becomes less confident, a head whose uncertainty carries little information is pulled to the average,
and outliers among the labels lead to heavy tails instead of a wide centre.

Where the model predicts presence, its logit is scaled and shifted by maximum likelihood (Platt 1999, Probabilistic
outputs for support vector machines), and the confidence is that of being near times the calibrated presence.
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
from kpnet.models.presence import presence_logits, with_presence
from kpnet.models.test_time import TestTime
from kpnet.uncertainty import CONFIDENCE_RADIUS, mahalanobis, probability_within

MIN_POINTS = 50  # that a calibration is fitted to
PRIOR_STRENGTH = 10.0  # strength of the prior that pulls each keypoint's scale to the common one, in points
EXPONENT_PRIOR = 1.0  # strength of the prior that keeps the exponent near 1 where the covariances hardly differ
MIN_DOF, MAX_DOF = 2.05, 1000.0  # beyond, errors are normal, and single precision cannot tell 1 + x / dof from 1
MIN_STATES = 20  # points that are there, and points that are not, that a presence is calibrated by
MAX_LOG_SCALE = 15.0  # a factor of three million: no scale fits


@dataclass(frozen=True)
class Calibration:
    """A fitted calibration: a function from a prediction to one whose uncertainty agrees with its errors.

    Attributes:
        log_scales: Logarithm of the factor on the standard deviation, log(a_k) / 2, one for each keypoint.
        exponent: The exponent b.
        dof: Degrees of freedom of the Student t.
        points: Number of labelled points that it was fitted to.
        test_time: Test-time views that it was fitted with; it holds for these views only.
        presence: Scale and shift of the logit of presence; None: presence stays as it is.
    """

    log_scales: list[float]
    exponent: float
    dof: float
    points: int
    test_time: TestTime = field(default_factory=TestTime)
    presence: tuple[float, float] | None = None

    def __call__(self, predicted: Keypoints, size: tuple[int, int]) -> Keypoints:
        """Calibrate a prediction.

        Args:
            predicted: The model's uncalibrated prediction.
            size: Height and width of the input images, in pixels.

        Returns:
            The same keypoints with calibrated `covariance`, `confidence` and, where the model predicts it, `presence`,
            and `dof`.
        """
        raw = _raw_covariance(predicted, size)
        factors = torch.tensor(self.log_scales, dtype=raw.dtype, device=raw.device)
        covariance = _scaled(raw, factors, self.exponent)
        confidence = probability_within(covariance, CONFIDENCE_RADIUS, size, self.dof)
        calibrated = dataclasses.replace(predicted, covariance=covariance, confidence=confidence, dof=self.dof)
        if predicted.presence is None:
            return calibrated
        scale, shift = self.presence or (1.0, 0.0)
        return with_presence(calibrated, scale * presence_logits(predicted.presence) + shift)


def fit_calibration(
    predicted: Keypoints,
    target: Tensor,
    visible: Tensor,
    size: tuple[int, int],
    test_time: TestTime | None = None,
    present: Tensor | None = None,
) -> Calibration:
    """Fit a calibration to predictions on data that the model was not trained on.

    Args:
        predicted: Uncalibrated predictions for N images.
        target: True keypoints (N, K, 2) in [-1, 1].
        visible: Which of them are labelled (N, K), bool.
        size: Height and width of the input images, in pixels.
        test_time: Test-time views that the predictions were made with; None for none.
        present: 1 where a point is there, 0 where it is not, NaN where that is not known (N, K), for a model that
            predicts presence, which is calibrated with at least 20 points of both kinds. None: presence is not.

    Returns:
        The calibration.

    Raises:
        KpnetError: There are fewer than 50 labelled points, or the predictions hit nearly all points exactly.

    Example:
        ```python
        predicted = model.infer(images)
        model.calibration = fit_calibration(predicted, target, visible, size=(96, 96))
        ```
    """
    raw = _raw_covariance(predicted, size).double().cpu()
    errors = (target.cpu().double() - predicted.keypoints.cpu().double())[visible]
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
    predicts_covariance = predicted.covariance is not None  # otherwise the exponent has nothing to act on
    fitted = [shared, own, raw_dof, *([exponent] if predicts_covariance else [])]
    optimizer = torch.optim.LBFGS(fitted, max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        dof = MIN_DOF + torch.nn.functional.softplus(raw_dof)
        covariance = _scaled(raw, (shared + own)[point], exponent)
        prior = PRIOR_STRENGTH * own.square().sum() / 2 + EXPONENT_PRIOR * (exponent - 1).square() / 2
        loss = student_nll(errors, covariance, dof).sum() + prior
        (loss / len(errors)).backward()
        return loss / len(errors)

    optimizer.step(closure)
    dof = min(MIN_DOF + float(torch.nn.functional.softplus(raw_dof.detach())), MAX_DOF)
    factors = (shared + own).detach()
    if not factors.isfinite().all() or factors.abs().max() > MAX_LOG_SCALE:
        raise KpnetError(
            "calibration: no scale fits these errors; are nearly all points hit exactly? "
            "Use data that the model was not trained on"
        )
    scaled = None if present is None or predicted.presence is None else fit_presence(predicted.presence, present)
    return Calibration(factors.tolist(), float(exponent.detach()), dof, len(errors), test_time or TestTime(), scaled)


def fit_presence(presence: Tensor, present: Tensor) -> tuple[float, float] | None:
    """Fit the scale and the shift of the logit of presence, by maximum likelihood.

    The targets are those of Platt 1999, a little away from 0 and 1, so that kinds which a threshold separates still
    have a finite scale.

    Args:
        presence: Predicted presence of any shape, in [0, 1].
        present: Whether each point is there, of the same shape: 1, 0, or NaN where that is not known.

    Returns:
        Scale and shift; None with fewer than 20 points of one kind, or where the points that are there have no higher
        presence than the others.
    """
    present = present.cpu().double()
    known = present.isfinite()
    logit, truth = presence_logits(presence.cpu().double()[known]), present[known]
    there, absent = int(truth.sum()), int((1 - truth).sum())
    if min(there, absent) < MIN_STATES:
        return None
    target = torch.where(truth > 0, (there + 1) / (there + 2), 1 / (absent + 2)).double()
    values = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([values], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(values[0] * logit + values[1], target)
        loss.backward()
        return loss

    optimizer.step(closure)
    scale, shift = values.detach().tolist()
    return (scale, shift) if scale > 0 else None


def student_nll(errors: Tensor, covariance: Tensor, dof: Tensor) -> Tensor:
    """Compute the negative log-density under a bivariate Student t.

    Args:
        errors: Errors (..., 2).
        covariance: Covariance (..., 2, 2) of the distribution, in squared units of the errors.
        dof: Degrees of freedom, above 2.

    Returns:
        Values (...).
    """
    determinant = covariance[..., 0, 0] * covariance[..., 1, 1] - covariance[..., 0, 1].square()
    log_scale = 0.5 * determinant.log() + torch.log((dof - 2) / dof)  # of the t's own matrix
    inner = mahalanobis(errors, covariance) / (dof - 2)
    return math.log(2 * math.pi) + log_scale + (dof + 2) / 2 * torch.log1p(inner)


def _raw_covariance(predicted: Keypoints, size: tuple[int, int]) -> Tensor:
    """Return the head's covariance plus that of a hundredth of a pixel; a circle of one pixel where it has none."""
    pixel = pixel_distance_to_normalized(predicted.keypoints.new_ones(2), size)
    if predicted.covariance is None:
        return torch.diag_embed(pixel.square()).expand(*predicted.keypoints.shape, 2)
    return predicted.covariance + torch.diag_embed((0.01 * pixel).square())


def _scaled(raw: Tensor, log_scales: Tensor, exponent: float | Tensor) -> Tensor:
    """Return covariances of the shape of `raw` (..., 2, 2) and standard deviation exp(log_scale) size(raw)^exponent."""
    determinant = raw[..., 0, 0] * raw[..., 1, 1] - raw[..., 0, 1].square()
    log_size = 0.25 * determinant.clamp(min=1e-24).log()
    return raw * torch.exp(2 * log_scales + 2 * (exponent - 1) * log_size)[..., None, None]

"""Regression with a predicted scale of the errors: `gaussian_nll` and `laplace_nll`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kpnet.core.errors import KpnetError
from kpnet.heads.base import HEADS, HeadOutput, Keypoints, Losses, PyramidInfo
from kpnet.heads.regression import Regressor
from kpnet.losses import COORDINATE_LOSSES, gaussian_nll, laplace_nll
from kpnet.uncertainty import CONFIDENCE_RADIUS, probability_within


@dataclass
class LikelihoodOutput(HeadOutput):
    """The output of a `LikelihoodHead`.

    Attributes:
        log_scale: Logarithm (B, K, 2) of the predicted scale of the errors in x and y, in normalised units.
    """

    log_scale: Tensor


class LikelihoodHead(Regressor):
    """Base class of heads that regress coordinates and the scale of their errors, trained by the likelihood.

    The scale is at most 1, half the image, by a sigmoid, as in Li et al. 2021, Human Pose Regression with Residual
    Log-likelihood Estimation. A subclass sets `name` and `unit_variance`, and implements `nll`.

    Args:
        loss: Weights of the terms: `nll`, the negative log-likelihood, and `l1`, `smooth_l1`, `mse` and `wing` of the
            normalised coordinates. Null: `nll` alone.
    """

    loss_terms: ClassVar[tuple[str, ...]] = ("nll", *COORDINATE_LOSSES)
    defaults: ClassVar[Losses] = {"nll": 1.0}
    outputs: ClassVar[int] = 4
    unit_variance: ClassVar[float]
    """Variance of errors of scale 1."""

    def __init__(self, pyramid: PyramidInfo, num_keypoints: int, **options: Any) -> None:
        super().__init__(pyramid, num_keypoints, **options)
        if not self.loss_weights.get("nll"):
            raise KpnetError(f'head "{self.name}": loss: nothing trains the scale of the errors: add nll')

    def forward(self, features: list[Tensor]) -> LikelihoodOutput:
        xy, raw = self.regress(features).chunk(2, -1)
        return LikelihoodOutput(xy, F.logsigmoid(raw))

    def loss(self, output: HeadOutput, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        assert isinstance(output, LikelihoodOutput)

        def term(name: str) -> Tensor:
            if name == "nll":
                return self.nll(output.xy, output.log_scale, target, weight)
            return self.coordinate_term(name, output, target, weight)

        return self.weighted_terms(term)

    def nll(self, xy: Tensor, log_scale: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Return the negative log-likelihood, reduced by `self.reduce`; shapes as in `LikelihoodOutput`."""
        raise NotImplementedError

    def variance(self) -> float | Tensor:
        """Return the errors' variance in squared scales: a number, or a tensor (2,) for x and y."""
        return self.unit_variance

    def infer(self, output: HeadOutput) -> Keypoints:
        assert isinstance(output, LikelihoodOutput)
        covariance = torch.diag_embed(self.variance() * (2 * output.log_scale).exp())
        return Keypoints(output.xy, probability_within(covariance, CONFIDENCE_RADIUS, self.image_size), covariance)


@HEADS.register("gaussian_nll")
class GaussianHead(LikelihoodHead):
    """Coordinates with normally distributed errors; the predicted scale is their standard deviation."""

    name, unit_variance = "gaussian_nll", 1.0

    def nll(self, xy: Tensor, log_scale: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return gaussian_nll(xy, log_scale, target, weight, self.reduce)


@HEADS.register("laplace_nll")
class LaplaceHead(LikelihoodHead):
    """Coordinates with Laplace distributed errors; the predicted scale is their mean absolute value."""

    name, unit_variance = "laplace_nll", 2.0

    def nll(self, xy: Tensor, log_scale: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return laplace_nll(xy, log_scale, target, weight, self.reduce)

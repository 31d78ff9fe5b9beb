"""Regression with a predicted scale: `gaussian_nll` and `laplace_nll`."""

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
    """log_scale (B, K, 2): log of the errors' predicted scale, normalised."""

    log_scale: Tensor


class LikelihoodHead(Regressor):
    """Coordinates and the scale of their errors, trained by the errors' likelihood.

    loss: weights of nll and of the coordinate losses; pool, hidden, dropout, hardest: as for `regression`. The scale is
    at most 1, half the image (Li et al. 2021 use the same sigmoid).
    """

    loss_terms: ClassVar[tuple[str, ...]] = ("nll", *COORDINATE_LOSSES)
    defaults: ClassVar[Losses] = {"nll": 1.0}
    outputs: ClassVar[int] = 4
    unit_variance: ClassVar[float]  # of errors of scale 1

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
        raise NotImplementedError

    def variance(self) -> float | Tensor:
        """Of the errors, in scales squared; a number, or one for x and one for y."""
        return self.unit_variance

    def infer(self, output: HeadOutput) -> Keypoints:
        assert isinstance(output, LikelihoodOutput)
        covariance = torch.diag_embed(self.variance() * (2 * output.log_scale).exp())
        return Keypoints(output.xy, probability_within(covariance, CONFIDENCE_RADIUS, self.image_size), covariance)


@HEADS.register("gaussian_nll")
class GaussianHead(LikelihoodHead):
    """Normal errors: the scale is their sigma. Options as LikelihoodHead says."""

    name, unit_variance = "gaussian_nll", 1.0

    def nll(self, xy: Tensor, log_scale: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return gaussian_nll(xy, log_scale, target, weight, self.reduce)


@HEADS.register("laplace_nll")
class LaplaceHead(LikelihoodHead):
    """Laplace errors: the scale is their mean size. Options as LikelihoodHead says."""

    name, unit_variance = "laplace_nll", 2.0

    def nll(self, xy: Tensor, log_scale: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return laplace_nll(xy, log_scale, target, weight, self.reduce)

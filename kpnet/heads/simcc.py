"""A distribution for each axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kpnet.coordinates import cell_centers
from kpnet.core.errors import KpnetError
from kpnet.heads.base import (
    HEADS,
    Hardest,
    Head,
    HeadOutput,
    Keypoints,
    Losses,
    PointBlock,
    PyramidInfo,
    check_losses,
    reducer,
)
from kpnet.heads.decoders import DECODERS
from kpnet.losses import COORDINATE_LOSSES, axis_cross_entropy, axis_kl, check_shapes
from kpnet.rendering import log_gaussian_profiles
from kpnet.uncertainty import CONFIDENCE_RADIUS, probability_within

AXIS_LOSSES = {"kl": axis_kl, "cross_entropy": axis_cross_entropy}


@dataclass
class SimCCOutput(HeadOutput):
    """The output of `SimCCHead`, at least float32.

    Attributes:
        x_logits: Logits (B, K, bins of the width).
        y_logits: Logits (B, K, bins of the height).
    """

    x_logits: Tensor
    y_logits: Tensor


@HEADS.register("simcc")
class SimCCHead(Head):
    """Coordinates as classification: a distribution over sub-pixel bins for x, and one for y.

    A decoder makes a map for each keypoint, and two linear layers, shared by all keypoints, turn each map into the
    logits of the bins; the prediction is the distributions' mean. Bound to the configured input size. Li et al. 2022,
    SimCC: a Simple Coordinate Classification Perspective for Human Pose Estimation.

    Args:
        decoder: Map decoder: its name, or a mapping with its options.
        stride: Input pixels per cell of the maps.
        bins: Bins per input pixel.
        sigma: Standard deviation of the Gaussian that smooths the labels, in input pixels.
        loss: Weights of the terms: `kl` and `cross_entropy` of the distributions; `l1`, `smooth_l1`, `mse` and `wing`
            of their mean, in normalised coordinates.
        hardest: Number of points per image that count, those with the largest errors; null for all.
    """

    loss_terms: ClassVar[tuple[str, ...]] = (*AXIS_LOSSES, *COORDINATE_LOSSES)

    def __init__(
        self,
        pyramid: PyramidInfo,
        num_keypoints: int,
        *,
        decoder: str | Mapping[str, Any] = "top_down",
        stride: Annotated[int, Field(gt=0)] = 4,
        bins: Annotated[float, Field(gt=0)] = 2.0,
        sigma: Annotated[float, Field(gt=0)] = 1.5,
        loss: Losses = {"kl": 0.1, "l1": 1.0},  # noqa: B006 (read only)
        hardest: Hardest = None,
    ) -> None:
        super().__init__()
        check_losses(loss, self.loss_terms, "simcc")
        self.loss_weights = loss
        self.reduce = reducer(hardest)
        self.decoder = DECODERS.build(decoder, pyramid, stride)
        self.size_divisor = self.decoder.size_divisor
        self.maps = nn.Conv2d(self.decoder.channels, num_keypoints, 1)
        height, width = pyramid.image_size
        self.size = (height // stride, width // stride)
        self.sigma_bins = sigma * bins
        cells = self.size[0] * self.size[1]
        self.to_x = nn.Linear(cells, max(1, round(width * bins)))
        self.to_y = nn.Linear(cells, max(1, round(height * bins)))
        # At first, sums over columns and rows: a place on the map is that place in the bins from the start.
        _init_marginal(self.to_x, self.size, 1)
        _init_marginal(self.to_y, self.size, 0)

    def forward(self, features: list[Tensor]) -> SimCCOutput:
        maps = self.maps(self.decoder(features))
        if tuple(maps.shape[-2:]) != self.size:
            raise KpnetError(
                f"the simcc head was built for maps of {self.size[0]}x{self.size[1]}, "
                f"got {maps.shape[-2]}x{maps.shape[-1]}: use the configured input_size"
            )
        flat = maps.flatten(2)
        x, y = self.to_x(flat), self.to_y(flat)
        if x.dtype != torch.float64:
            x, y = x.float(), y.float()
        return SimCCOutput(torch.stack([_mean(x), _mean(y)], -1), x, y)

    def loss(self, output: HeadOutput, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        assert isinstance(output, SimCCOutput)

        def term(name: str) -> Tensor:
            if name in COORDINATE_LOSSES:
                return COORDINATE_LOSSES[name](output.xy, target, weight, self.reduce)
            return self._axes_loss(name, output, target, weight)

        return self.weighted_terms(term)

    def _axes_loss(self, name: str, output: SimCCOutput, target: Tensor, weight: Tensor) -> Tensor:
        check_shapes(output.x_logits, target, weight)
        target = torch.where((weight > 0)[..., None], target, 0).to(output.x_logits.dtype)
        size = (output.y_logits.shape[-1], output.x_logits.shape[-1])
        gy, gx = (profile.log_softmax(-1) for profile in log_gaussian_profiles(target, size, self.sigma_bins))
        term = AXIS_LOSSES[name]
        return self.reduce((term(output.x_logits, gx) + term(output.y_logits, gy)) / 2, weight)

    def point_blocks(self) -> dict[str, list[PointBlock]]:
        return {f"maps.{name}": [PointBlock(self.maps.out_channels)] for name in ("weight", "bias")}

    def infer(self, output: HeadOutput) -> Keypoints:
        assert isinstance(output, SimCCOutput)
        variance = torch.stack([_variance(output.x_logits), _variance(output.y_logits)], -1)
        covariance = torch.diag_embed(variance)
        confidence = probability_within(covariance, CONFIDENCE_RADIUS, self.size)
        return Keypoints(output.xy, confidence, covariance)


def _mean(logits: Tensor) -> Tensor:
    """Return the normalised mean (B, K) of softmax(logits), logits (B, K, bins)."""
    # Not a matrix product: autocast would make it one of half precision.
    centres = cell_centers(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return (logits.softmax(-1) * centres).sum(-1)


def _variance(logits: Tensor) -> Tensor:
    """Return the normalised variance (B, K) of softmax(logits), logits (B, K, bins)."""
    centres = cell_centers(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    return (logits.softmax(-1) * (centres - _mean(logits)[..., None]).square()).sum(-1)


def _init_marginal(layer: nn.Linear, size: tuple[int, int], axis: int) -> None:
    """Set weights (bins, h w) that sum a map over the other axis and interpolate along `axis` to the bins."""
    bands = F.interpolate(torch.eye(size[axis])[None], layer.out_features, mode="linear")[0].T  # (bins, h or w)
    bands = bands[:, None, :] if axis == 1 else bands[:, :, None]
    with torch.no_grad():
        layer.weight.copy_(bands.expand(-1, *size).flatten(1))
        layer.bias.zero_()

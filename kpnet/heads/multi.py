"""Several heads on one backbone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.heads.base import HEADS, Head, HeadOutput, Keypoints, PointBlock, PyramidInfo, strides_of
from kpnet.uncertainty import CONFIDENCE_RADIUS, mixture, probability_within

FUSED = "fused"


@dataclass
class MultiOutput(HeadOutput):
    """The output of `MultiHead`.

    Attributes:
        parts: Name of a head to its output.
    """

    parts: dict[str, HeadOutput]


@HEADS.register("multi")
class MultiHead(Head):
    """Several heads on one backbone, trained together.

    Args:
        heads: Heads by name, each a name or a mapping with its options.
        weights: Weight of each head's loss, by name; 1 by default.
        primary: The head whose prediction is the model's; null for the last one. `fused`: the mean of all, weighted by
            their inverse variances.
    """

    def __init__(
        self,
        pyramid: PyramidInfo,
        num_keypoints: int,
        *,
        heads: dict[str, str | dict[str, Any]],
        weights: Mapping[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {},
        primary: str | None = None,
    ) -> None:
        super().__init__()
        if not heads:
            raise KpnetError('head "multi": heads: expected at least one, found none')
        for name in heads:
            if name == FUSED or not name.isidentifier():
                raise KpnetError(f'head "multi": heads: "{name}" cannot be a name; use letters, digits and _')
        for name in (*weights, *([primary] if primary not in (None, FUSED) else [])):
            if name not in heads:
                raise KpnetError(
                    f'head "multi": there is no head "{name}"{did_you_mean(str(name), heads)}; '
                    f"there are: {', '.join(heads)}"
                )
        self.heads = nn.ModuleDict({name: HEADS.build(spec, pyramid, num_keypoints) for name, spec in heads.items()})
        if any(sum(head.frame_window) for head in self._heads().values()):
            raise KpnetError(
                'head "multi": heads: a temporal head has to contain the others: {name: temporal, head: …}'
            )
        self.weights = {name: weights.get(name, 1.0) for name in heads}
        self.image_size = pyramid.image_size
        self.primary = primary or list(heads)[-1]
        self.predicts_covariance = self.primary == FUSED or self._heads()[self.primary].predicts_covariance
        bare = [name for name, head in self._heads().items() if not head.predicts_covariance]
        if self.primary == FUSED and bare:
            raise KpnetError(
                f'head "multi": primary: fused needs a variance from every head, and "{bare[0]}" has none; '
                "use rle or laplace_nll for it, or name one head as primary"
            )
        self.size_divisor = math.lcm(*(head.size_divisor for head in self._heads().values()))

    @classmethod
    def strides_from_options(cls, options: Mapping[str, Any]) -> list[int]:
        heads = options.get("heads")
        if not isinstance(heads, Mapping):  # which building the head refuses
            return []
        return [stride for spec in heads.values() for stride in strides_of(spec)]

    def _heads(self) -> dict[str, Head]:
        return dict(self.heads.items())  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> MultiOutput:
        parts: dict[str, HeadOutput] = {name: head(features) for name, head in self._heads().items()}
        if self.primary != FUSED:
            return MultiOutput(parts[self.primary].xy, parts)
        xy, _ = _fuse([part.xy for part in parts.values()], self._predictions(parts))
        return MultiOutput(xy, parts)

    def loss(self, output: HeadOutput, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Compute the terms of every head, as `HEAD.TERM`; see `Head.loss`."""
        assert isinstance(output, MultiOutput)
        return {
            f"{name}.{term}": self.weights[name] * value
            for name, head in self._heads().items()
            for term, value in head.loss(output.parts[name], target, weight).items()
        }

    def denominators(self, weight: Tensor) -> dict[str, Tensor]:
        return {
            f"{name}.{term}": count
            for name, head in self._heads().items()
            for term, count in head.denominators(weight).items()
        }

    def point_blocks(self) -> dict[str, list[PointBlock]]:
        return {
            f"heads.{name}.{key}": blocks
            for name, head in self._heads().items()
            for key, blocks in head.point_blocks().items()
        }

    def decode(self, output: HeadOutput) -> Tensor:
        assert isinstance(output, MultiOutput)
        if self.primary == FUSED:
            return self.infer(output).keypoints
        return self._heads()[self.primary].decode(output.parts[self.primary])

    def infer(self, output: HeadOutput) -> Keypoints:
        assert isinstance(output, MultiOutput)
        if self.primary != FUSED:
            return self._heads()[self.primary].infer(output.parts[self.primary])
        predictions = self._predictions(output.parts)
        xy, covariance = _fuse([each.keypoints for each in predictions], predictions)
        return Keypoints(xy, probability_within(covariance, CONFIDENCE_RADIUS, self.image_size), covariance)

    def _predictions(self, parts: dict[str, HeadOutput]) -> list[Keypoints]:
        return [head.infer(parts[name]) for name, head in self._heads().items()]


def _fuse(points: list[Tensor], predictions: list[Keypoints]) -> tuple[Tensor, Tensor]:
    """Return the mean (B, K, 2) of points, weighted by the inverse variance of the predictions, and its covariance."""
    covariances = torch.stack([each.covariance for each in predictions if each.covariance is not None])
    precision = 1 / covariances.diagonal(dim1=-2, dim2=-1).sum(-1).clamp(min=1e-12)
    return mixture(torch.stack(points), covariances, precision / precision.sum(0))

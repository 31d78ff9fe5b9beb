"""The head contract."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.core.registry import Registry, split_spec
from kpnet.core.validation import check_options
from kpnet.losses import Reduce, mean_over_visible, ohkm


@dataclass
class PyramidInfo:
    """What a head is told of the maps that it will get, finest first."""

    channels: list[int]
    strides: list[int]
    sizes: list[tuple[int, int]]  # (h, w) at the configured input size

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) that the finest map covers."""
        height, width = self.sizes[0]
        return height * self.strides[0], width * self.strides[0]


@dataclass
class HeadOutput:
    """`xy` (B, K, 2) in [-1, 1], differentiable. A head adds what its own loss and confidence need."""

    xy: Tensor


@dataclass
class Keypoints:
    """What `model.infer` gives. Everything is normalised to [-1, 1]; None where a head has none.

    keypoints (B, K, 2); confidence (B, K): the probability that the point lies within 5 % of the
    image's longer side; covariance (B, K, 2, 2) in the same unit, squared; heatmaps (B, K, h, w) that sum to 1.
    dof: degrees of freedom of the errors' Student t, once calibrated; infinite for normal errors. The ellipse that
    holds the truth with probability p is `kpnet.uncertainty.ellipse_radius(p, dof)` standard deviations wide.
    """

    keypoints: Tensor
    confidence: Tensor | None = None
    covariance: Tensor | None = None
    heatmaps: Tensor | None = None
    dof: float = math.inf


class Head(nn.Module):
    """A list of feature maps, finest first, to a HeadOutput. It knows nothing of images or YAML.

    Built as `cls(pyramid, num_keypoints, **options)`. The input's height and width must be
    multiples of `size_divisor`.
    """

    size_divisor: int = 1
    predicts_covariance: bool = True
    """Does `infer` give a covariance?"""
    loss_terms: ClassVar[tuple[str, ...]] = ()
    """Names of the terms that its option `loss` may weight."""
    loss_weights: dict[str, float]
    """Of the terms, where there is such an option."""
    frame_window: tuple[int, int] = (0, 0)
    """How many frames before and after the answered one it looks at. Where there are any, it takes maps
    (B, T, C, h, w) of clips as well."""

    @classmethod
    def window_from_options(cls, options: Mapping[str, Any]) -> tuple[int, int]:
        """The `frame_window` of a head with these options, before there is a model to build it for."""
        return cls.frame_window

    def forward(self, features: list[Tensor]) -> HeadOutput:
        raise NotImplementedError

    def loss(self, output: HeadOutput, target: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """Named terms, already weighted, whose sum is the loss; target (B, K, 2), weight (B, K), 0 for absent."""
        raise NotImplementedError

    def weighted_terms(self, term: Callable[[str], Tensor]) -> dict[str, Tensor]:
        """Return each term of `loss_weights` above 0, times its weight; `term` computes one from its name."""
        return {name: weight * term(name) for name, weight in self.loss_weights.items() if weight}

    def decode(self, output: HeadOutput) -> Tensor:
        """The answer's keypoints (B, K, 2) alone: `output.xy`, if the head does not decode otherwise than it trains."""
        return output.xy

    def infer(self, output: HeadOutput) -> Keypoints:
        """The answer with whatever uncertainty the head has."""
        return Keypoints(self.decode(output))


HEADS: Registry[type[Head]] = Registry("head")


def window_of(spec: str | Mapping[str, Any]) -> tuple[int, int]:
    """Frames before and after the predicted one that the head of a config looks at; (0, 0) for single frames."""
    name, options = split_spec(spec, "head")
    head = HEADS.find(name)
    return head.window_from_options(check_options(head, options, f'head "{name}"'))


Losses = dict[str, float]
Hardest = Annotated[int, Field(gt=0)] | None


def reducer(hardest: int | None) -> Reduce:
    """How errors (B, K) become a loss: their mean, or that of each image's `hardest` points (OHKM)."""
    return mean_over_visible if hardest is None else ohkm(hardest)


def check_losses(weights: dict[str, float], known: Iterable[str], head: str) -> None:
    """A KpnetError for an unknown loss, and for weights that leave nothing to minimise."""
    for name, weight in weights.items():
        if name not in known:
            raise KpnetError(
                f'unknown loss "{name}" for head "{head}"{did_you_mean(name, known)}; there are: {", ".join(known)}'
            )
        if not 0 <= weight < math.inf:
            raise KpnetError(f'head "{head}": loss {name}: expected a finite weight of at least 0, found {weight}')
    if not any(weights.values()):
        raise KpnetError(f'head "{head}": loss: expected at least one weight above 0, e.g. {{l1: 1.0}}')

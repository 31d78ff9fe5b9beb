"""Test-time views: the same image mirrored, scaled and shifted, and one answer of them all."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from kpnet import coordinates
from kpnet.coordinates import Size
from kpnet.core.errors import KpnetError
from kpnet.core.skeleton import Skeleton
from kpnet.heads import Keypoints
from kpnet.uncertainty import CONFIDENCE_RADIUS, combine_dof, mixture, probability_within


@dataclass(frozen=True)
class TestTime:
    """flip: mirrored too, left and right labels swapped back. scales: about the image's centre. shift: input pixels
    to the left, right, up and down as well. Views are all combinations of the three."""

    __test__ = False  # pytest takes the name for a test

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < s < math.inf for s in self.scales):
            raise KpnetError(f"test time: scales: expected positive numbers, found {list(self.scales)}")
        if not 0 <= self.shift < math.inf:
            raise KpnetError(f"test time: shift: expected a number of pixels of at least 0, found {self.shift}")

    def views(self) -> list[View]:
        shifts = [(0.0, 0.0)]
        if self.shift:
            shifts += [(self.shift, 0.0), (-self.shift, 0.0), (0.0, self.shift), (0.0, -self.shift)]
        flips = (False, True) if self.flip else (False,)
        return [View(f, s, d) for s, d, f in itertools.product(self.scales, shifts, flips)]


@dataclass(frozen=True)
class View:
    """x to scale * x + shift (of pixels), then mirrored."""

    flip: bool
    scale: float
    shift: tuple[float, float]

    @property
    def warps(self) -> bool:
        return self.scale != 1 or self.shift != (0.0, 0.0)

    def apply(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), or clips of them, as this view has them; what lies outside repeats the border."""
        if images.ndim == 5:
            return self.apply(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        if self.warps:
            tx, ty = self._shift(images).tolist()
            inverse = [[1 / self.scale, 0, -tx / self.scale], [0, 1 / self.scale, -ty / self.scale]]
            theta = torch.tensor(inverse, device=images.device, dtype=images.dtype).expand(len(images), 2, 3)
            grid = F.affine_grid(theta, list(images.shape), align_corners=False)
            images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return images.flip(-1) if self.flip else images

    def invert(self, answer: Keypoints, images: Tensor, permutation: list[int]) -> Keypoints:
        """The view's answer as one about the image itself."""
        if self.flip:
            answer = _mirrored(answer, permutation)
        if not self.warps:
            return answer
        shift = self._shift(images).to(answer.keypoints)
        covariance = None if answer.covariance is None else answer.covariance / self.scale**2
        return replace(answer, keypoints=(answer.keypoints - shift) / self.scale, covariance=covariance, heatmaps=None)

    def _shift(self, images: Tensor) -> Tensor:
        """(2,), normalised."""
        shift = torch.tensor(self.shift, dtype=torch.float64)
        return coordinates.pixel_distance_to_normalized(shift, (images.shape[-2], images.shape[-1]))


def infer_views(
    infer: Callable[[Tensor], Keypoints], images: Tensor, skeleton: Skeleton, settings: TestTime
) -> Keypoints:
    """The mean of all views' answers, whose covariance counts how far they are apart.

    A KpnetError where a mirrored view has no left/right pairs to swap.
    """
    permutation = skeleton.flip_permutation
    if settings.flip and not skeleton.can_mirror:
        what = f'"{skeleton.unpaired_sides[0]}" stands in no left/right pair' if skeleton.unpaired_sides else "no pairs"
        raise KpnetError(f"flip test: the skeleton cannot be mirrored ({what}): give it `pairs`")
    height, width = images.shape[-2:]
    if settings.shift >= min(height, width) / 2:
        raise KpnetError(f"test time: shift: {settings.shift:g} pixels move half of a {height}x{width} image out of it")
    answers = [view.invert(infer(view.apply(images)), images, permutation) for view in settings.views()]
    return average(answers, (height, width))


def average(answers: list[Keypoints], size: Size) -> Keypoints:
    """Several answers about the same images of `size` (H, W) as one: the mean, with the covariance of their mixture
    and the confidence that it gives. Maps only where all have maps of one size."""
    points = torch.stack([a.keypoints for a in answers])
    maps = [a.heatmaps for a in answers if a.heatmaps is not None]
    heatmaps = None
    if len(maps) == len(answers) and len({m.shape for m in maps}) == 1:
        heatmaps = torch.stack(maps).mean(0)
    covariances = [a.covariance for a in answers if a.covariance is not None]
    if len(covariances) < len(answers):
        return Keypoints(points.mean(0), heatmaps=heatmaps)
    dof = combine_dof([a.dof for a in answers])
    xy, covariance = mixture(points, torch.stack(covariances))
    confidence = probability_within(covariance, CONFIDENCE_RADIUS, size, dof)
    return Keypoints(xy, confidence, covariance, heatmaps, dof)


def _mirrored(answer: Keypoints, permutation: list[int]) -> Keypoints:
    covariance = answer.covariance
    if covariance is not None:
        sign = torch.tensor([[1, -1], [-1, 1]], device=covariance.device, dtype=covariance.dtype)
        covariance = covariance[:, permutation] * sign
    return Keypoints(
        coordinates.flip_normalized(answer.keypoints, permutation),
        None if answer.confidence is None else answer.confidence[:, permutation],
        covariance,
        None if answer.heatmaps is None else answer.heatmaps[:, permutation].flip(-1),
    )

"""Test-time views: predict an image mirrored, scaled and shifted, and average the predictions."""

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
    """Views of an image to average at test time: all combinations of the three options.

    Args:
        flip: Predict the mirrored image too, and swap left and right keypoints back.
        scales: Predict the image scaled by each of these factors, about its centre.
        shift: Predict the image shifted by this many input pixels to the left, right, up and down too.

    Raises:
        KpnetError: A scale is not positive, or the shift is negative or not finite.

    Example:
        ```python
        out = model.infer(images, kpnet.TestTime(flip=True, scales=(1.0, 0.9)))
        ```
    """

    __test__ = False  # pytest would collect the class for its name

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not self.scales or not all(0 < s < math.inf for s in self.scales):
            raise KpnetError(f"test time: scales: expected positive numbers, found {list(self.scales)}")
        if not 0 <= self.shift < math.inf:
            raise KpnetError(f"test time: shift: expected a number of pixels of at least 0, found {self.shift}")

    def views(self) -> list[View]:
        """Return the views, all combinations of scales, shifts and flips.

        Returns:
            The views; the image itself is the first where the first scale is 1.
        """
        shifts = [(0.0, 0.0)]
        if self.shift:
            shifts += [(self.shift, 0.0), (-self.shift, 0.0), (0.0, self.shift), (0.0, -self.shift)]
        flips = (False, True) if self.flip else (False,)
        return [View(f, s, d) for s, d, f in itertools.product(self.scales, shifts, flips)]


@dataclass(frozen=True)
class View:
    """One view of an image: scaled about the centre, shifted, then mirrored.

    Attributes:
        flip: Whether it is mirrored.
        scale: Factor of the scaling.
        shift: Shift (x, y) in input pixels.
    """

    flip: bool
    scale: float
    shift: tuple[float, float]

    @property
    def warps(self) -> bool:
        """Whether the image is resampled: scaled or shifted."""
        return self.scale != 1 or self.shift != (0.0, 0.0)

    def apply(self, images: Tensor) -> Tensor:
        """Return this view of images (B, C, H, W) or clips (B, T, C, H, W); outside, the border is repeated."""
        if images.ndim == 5:
            return self.apply(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        if self.warps:
            tx, ty = self._shift(images).tolist()
            inverse = [[1 / self.scale, 0, -tx / self.scale], [0, 1 / self.scale, -ty / self.scale]]
            theta = torch.tensor(inverse, device=images.device, dtype=images.dtype).expand(len(images), 2, 3)
            grid = F.affine_grid(theta, list(images.shape), align_corners=False)
            images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return images.flip(-1) if self.flip else images

    def apply_to_boxes(self, boxes: Tensor, images: Tensor) -> Tensor:
        """Return boxes (..., 4) of images, edges x0, y0, x1, y1 in [-1, 1], in this view of the images."""
        corners = boxes.unflatten(-1, (2, 2)) * self.scale + self._shift(images).to(boxes)
        x, y = corners.unbind(-1)
        x = -x.flip(-1) if self.flip else x
        return torch.stack([x, y], -1).flatten(-2)

    def invert(self, predicted: Keypoints, images: Tensor, permutation: list[int]) -> Keypoints:
        """Map the prediction for this view of images back to the images.

        Args:
            predicted: Prediction for `apply(images)`.
            images: The images, for their size.
            permutation: Index of each keypoint's mirror image; see `Skeleton.flip_permutation`.

        Returns:
            The prediction in the images' coordinates; without heatmaps where the view is resampled.
        """
        if self.flip:
            predicted = _mirrored(predicted, permutation)
        if not self.warps:
            return predicted
        xy = (predicted.keypoints - self._shift(images).to(predicted.keypoints)) / self.scale
        covariance = None if predicted.covariance is None else predicted.covariance / self.scale**2
        return replace(predicted, keypoints=xy, covariance=covariance, heatmaps=None)

    def _shift(self, images: Tensor) -> Tensor:
        """Return the normalised shift (2,)."""
        shift = torch.tensor(self.shift, dtype=torch.float64)
        return coordinates.pixel_distance_to_normalized(shift, (images.shape[-2], images.shape[-1]))


def infer_views(
    infer: Callable[[Tensor], Keypoints], images: Tensor, skeleton: Skeleton, settings: TestTime
) -> Keypoints:
    """Predict all views of images, and average the predictions.

    Args:
        infer: From images to a prediction.
        images: Images (B, C, H, W), or clips (B, T, C, H, W).
        skeleton: Pairs of left and right keypoints, which a flip swaps.
        settings: The views.

    Returns:
        The mean prediction; its covariance includes how far the views are apart.

    Raises:
        KpnetError: The skeleton cannot be mirrored, or the shift is half of the image or more.
    """
    permutation = _check_views(images, skeleton, settings)
    predictions = [view.invert(infer(view.apply(images)), images, permutation) for view in settings.views()]
    return average(predictions, (images.shape[-2], images.shape[-1]))


def read_views(
    read: Callable[[Tensor, Tensor], Keypoints],
    images: Tensor,
    boxes: Tensor,
    skeleton: Skeleton,
    settings: TestTime,
) -> Keypoints:
    """Predict the points of known instances in all views of images, and average the predictions.

    Args:
        read: From images and boxes to a prediction, of as many instances in each view.
        images: Images (B, C, H, W).
        boxes: Boxes (B, M, 4) of their instances, edges x0, y0, x1, y1 in [-1, 1].
        skeleton: As in `infer_views`.
        settings: The views.

    Returns:
        The mean prediction, as of `infer_views`.

    Raises:
        KpnetError: As in `infer_views`.
    """
    permutation = _check_views(images, skeleton, settings)
    predictions = [
        view.invert(read(view.apply(images), view.apply_to_boxes(boxes, images)), images, permutation)
        for view in settings.views()
    ]
    return average(predictions, (images.shape[-2], images.shape[-1]))


def _check_views(images: Tensor, skeleton: Skeleton, settings: TestTime) -> list[int]:
    """Return the keypoints' mirror images, or raise KpnetError where the views cannot be made."""
    if settings.flip and not skeleton.can_mirror:
        what = f'"{skeleton.unpaired_sides[0]}" is in no left/right pair' if skeleton.unpaired_sides else "no pairs"
        raise KpnetError(f"flip test: the skeleton cannot be mirrored ({what}): give it `pairs`")
    height, width = images.shape[-2:]
    if settings.shift >= min(height, width) / 2:
        raise KpnetError(f"test time: shift: {settings.shift:g} pixels move half of a {height}x{width} image out of it")
    return skeleton.flip_permutation


def average(predictions: list[Keypoints], size: Size) -> Keypoints:
    """Average several predictions for the same images.

    Args:
        predictions: The predictions.
        size: Height and width of the images, in pixels.

    Returns:
        The mean points, the covariance of the mixture of the predictions and the confidence that follows from it;
        without both where a prediction has no covariance. Presence is the mean where all have it; heatmaps only where
        all have maps of one size; no radii, which hold for one prediction.
    """
    points = torch.stack([each.keypoints for each in predictions])
    maps = [each.heatmaps for each in predictions if each.heatmaps is not None]
    heatmaps = None
    if len(maps) == len(predictions) and all(each.shape == maps[0].shape for each in maps):
        heatmaps = torch.stack(maps).mean(0)
    present = [each.presence for each in predictions if each.presence is not None]
    presence = torch.stack(present).mean(0) if len(present) == len(predictions) else None
    covariances = [each.covariance for each in predictions if each.covariance is not None]
    if len(covariances) < len(predictions):
        return Keypoints(points.mean(0), heatmaps=heatmaps, presence=presence)
    dof = combine_dof([each.dof for each in predictions])
    xy, covariance = mixture(points, torch.stack(covariances))
    confidence = probability_within(covariance, CONFIDENCE_RADIUS, size, dof)
    confidence = confidence if presence is None else confidence * presence
    return Keypoints(xy, confidence, covariance, heatmaps, dof, presence)


def _mirrored(predicted: Keypoints, permutation: list[int]) -> Keypoints:
    covariance = predicted.covariance
    if covariance is not None:
        sign = torch.tensor([[1, -1], [-1, 1]], device=covariance.device, dtype=covariance.dtype)
        covariance = covariance[:, permutation] * sign
    return replace(
        predicted.map(lambda values: values[:, permutation]),
        keypoints=coordinates.flip_normalized(predicted.keypoints, permutation),
        covariance=covariance,
        heatmaps=None if predicted.heatmaps is None else predicted.heatmaps[:, permutation].flip(-1),
    )

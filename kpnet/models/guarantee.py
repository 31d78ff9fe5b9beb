"""Guarantee radii about predicted points by split conformal prediction (Vovk et al. 2005; Lei et al. 2018).

The score of a point is its distance from the truth in units of the spread that the model predicts for it. The radius of
a new point is its own spread times the k-th smallest of the n scores of held-out images, k = ceil((n + 1) at): its
circle holds the true point with a probability of at least `at`, whatever the distribution of the errors, as long as new
images are drawn as the held-out ones were. The share of new images in which it does so varies with the held-out ones
drawn; it follows Beta(k, n + 1 - k).

The spread is the head's own, before calibration: data that a calibration was fitted to may guarantee too, but not data
that the weights were.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kpnet.coordinates import Size, normalized_distance_to_pixel
from kpnet.core.errors import KpnetError
from kpnet.heads import Keypoints
from kpnet.models.test_time import TestTime

By = Literal["size", "confidence"]
GROUPS: dict[str, tuple[str, str, str]] = {
    "size": ("small", "medium", "large"),
    "confidence": ("confident", "less confident", "least confident"),
}
"""What radii may be conditional on, to the names of its thirds, in the order of the columns of `quantiles`."""
WHOLE = "all points of an image"


@dataclass(frozen=True)
class Guarantee:
    """Guaranteed radii: a function from a prediction to one with the radii of its points.

    The rows of the lists are the K points, and behind them one for all labelled points of an image at once. The columns
    are the thirds of `GROUPS[by]`; there is one without `by`.

    Attributes:
        at: Probability with which a circle holds the true point.
        quantiles: Factors on the spread, (K + 1) x G.
        points: Number of held-out points, and in the last row of instances, that each factor comes from.
        images: Number of the images that they are in.
        edges: Upper limits of all groups but the last, (K + 1) x (G - 1).
        by: What the groups are thirds of. None: there is one group.
        scaled: Whether the radii follow the model's spread; otherwise they are the same in all images.
        head: The head's name or mapping, its decoding included, that the guarantee holds for.
        test_time: The test-time views that it holds for.
        weights: SHA-256 of the model's weights that it holds for; empty: not known.
    """

    at: float
    quantiles: list[list[float]]
    points: list[list[int]]
    images: list[list[int]]
    edges: list[list[float]]
    by: By | None = None
    scaled: bool = True
    head: str | dict[str, Any] = ""
    test_time: TestTime = field(default_factory=TestTime)
    weights: str = ""

    def __call__(self, predicted: Keypoints, size: Size) -> Keypoints:
        """Give a prediction its guaranteed radii.

        Args:
            predicted: The model's uncalibrated prediction.
            size: Height and width of the input images, in pixels.

        Returns:
            The same keypoints with `radius` and `joint_radius` (B, K), as fractions of the images' longer side.
        """
        spread = spread_of(predicted, size)
        factors = spread.new_tensor(self.quantiles).expand(spread.shape[0], -1, -1)
        if self.by is None:
            chosen = factors[..., 0]
        else:
            groups = group_of(group_values(predicted, size, self.by), spread.new_tensor(self.edges))
            chosen = factors.gather(-1, groups[..., None])[..., 0]
        return dataclasses.replace(predicted, radius=chosen[:, :-1] * spread, joint_radius=chosen[:, -1:] * spread)

    def check(self, points: int) -> None:
        """Raise KpnetError if the lists are not those of a model of as many points."""
        groups = 1 if self.by is None else len(GROUPS[self.by])
        shapes = {"quantiles": groups, "points": groups, "images": groups, "edges": groups - 1}
        for name, columns in shapes.items():
            rows = getattr(self, name)
            if len(rows) != points + 1 or any(len(row) != columns for row in rows):
                raise KpnetError(f"guarantee: {name}: expected {points + 1} rows of {columns}, one more than points")


def fit_guarantee(
    predicted: Keypoints,
    target: Tensor,
    visible: Tensor,
    size: Size,
    at: float = 0.9,
    by: By | None = None,
    images: Sequence[Any] | np.ndarray | None = None,
    names: Sequence[str] | None = None,
) -> Guarantee:
    """Find the radii that hold the points of data that the model was not trained on.

    Args:
        predicted: Uncalibrated predictions for N instances.
        target: True keypoints (N, K, 2) in [-1, 1].
        visible: Which of them are labelled (N, K), bool.
        size: Height and width of the input images, in pixels.
        at: Probability with which a circle holds the true point.
        by: Radii for each third of this: `size`, the extent of the predicted points in the input, or `confidence`, by
            the spread that the model predicts. The guarantee then holds in each third.
        images: What tells the image of each instance from the others (N). None: each is in an image of its own.
        names: Names of the points, for messages.

    Returns:
        The guarantee, which does not know its model yet: `head`, `test_time` and `weights` are for the caller.

    Raises:
        KpnetError: `at` is not between 0 and 1, a point is labelled in too few images, or `by` is "confidence" of a
            model without a spread.

    Example:
        ```python
        predicted = model.infer(images)  # of a model without calibration
        model.guarantee = fit_guarantee(predicted, target, visible, size=(96, 96), at=0.9)
        ```
    """
    if not 0 < at < 1:
        raise KpnetError(f"guarantee: expected a probability between 0 and 1, such as 0.9, found {at:g}")
    if by is not None and by not in GROUPS:
        raise KpnetError(f'guarantee: by: expected size or confidence, found "{by}"')
    if by == "confidence" and predicted.covariance is None:
        raise KpnetError("guarantee: by confidence: this head predicts no spread; leave it out, or group by size")
    found, needed = unchecked_guarantee(predicted, target, visible, size, at, by, images), least_images(at)
    for name, counts in zip([*(names or map(str, range(visible.shape[1]))), WHOLE], found.images, strict=True):
        for g, count in enumerate(counts):
            if count < needed:
                third = "" if by is None else f" of the third {GROUPS[by][g]!r} by {by}"
                raise KpnetError(
                    f'guarantee: "{name}" is labelled in {count} images{third}, and {100 * at:g} % needs at least '
                    f"{needed}: give more images, or ask for less"
                )
    return found


def unchecked_guarantee(
    predicted: Keypoints,
    target: Tensor,
    visible: Tensor,
    size: Size,
    at: float,
    by: By | None,
    images: Sequence[Any] | np.ndarray | None = None,
) -> Guarantee:
    """Find radii as `fit_guarantee` does, infinite ones where there are too few images."""
    scores, edges, groups = _grouped_scores(predicted, target, visible, size, by)
    keys = np.arange(len(visible)) if images is None else np.unique(np.asarray(images), return_inverse=True)[1]
    quantiles: list[list[float]] = []
    points: list[list[int]] = []
    counts: list[list[int]] = []
    for own, group in zip(scores.T, groups.T, strict=True):
        rows = [own.isfinite() & (group == g) for g in range(1 + edges.shape[1])]
        quantiles.append([conformal_quantile(own[each], at) for each in rows])
        points.append([int(each.sum()) for each in rows])
        counts.append([len(np.unique(keys[each.numpy()])) for each in rows])
    return Guarantee(at, quantiles, points, counts, edges.tolist(), by, predicted.covariance is not None)


def least_images(at: float) -> int:
    """Return how many held-out images a guarantee at a probability needs: ceil(at / (1 - at))."""
    share = Fraction(str(at))
    return math.ceil(share / (1 - share))


def conformal_rank(count: int, at: float) -> int:
    """Return the rank k = ceil((n + 1) at) of the score that a guarantee takes of n."""
    return math.ceil((count + 1) * Fraction(str(at)))


def conformal_quantile(scores: Tensor, at: float) -> float:
    """Return the score of that rank among scores (n,); infinite where there are too few."""
    rank = conformal_rank(len(scores), at)
    return math.inf if rank > len(scores) else float(scores.kthvalue(rank).values)


def coverage_range(images: int, at: float, level: float = 0.95) -> tuple[float, float]:
    """Return the central range of the share of new images that a guarantee from n images holds.

    Args:
        images: Number of held-out images, n.
        at: Probability that was asked for.
        level: Probability of the range.

    Returns:
        Quantiles of Beta(k, n + 1 - k), k = ceil((n + 1) at).

    Example:
        ```python
        low, high = coverage_range(200, 0.9)  # 0.86 and 0.94
        ```
    """
    from scipy.special import betaincinv

    rank = conformal_rank(images, at)
    low, high = (float(betaincinv(rank, images + 1 - rank, q)) for q in ((1 - level) / 2, (1 + level) / 2))
    return low, high


def spread_of(predicted: Keypoints, size: Size) -> Tensor:
    """Return the spread of predictions: the root of the covariance's trace, of the longer side of the images.

    Args:
        predicted: Uncalibrated predictions.
        size: Height and width of the images, in pixels.

    Returns:
        Spreads (B, K), at least that of a hundredth of a pixel; 1 where the head predicts no covariance.
    """
    if predicted.covariance is None:
        return torch.ones_like(predicted.keypoints[..., 0])
    covariance = predicted.covariance if predicted.covariance.dtype == torch.float64 else predicted.covariance.float()
    pixel = normalized_distance_to_pixel(covariance.new_ones(2), size) / max(size)
    variance = (covariance.diagonal(dim1=-2, dim2=-1) * pixel.square()).sum(-1)
    return (variance + 2 * (0.01 / max(size)) ** 2).sqrt()


def conformal_scores(predicted: Keypoints, target: Tensor, visible: Tensor, size: Size) -> Tensor:
    """Return the scores of predictions: the distances from the truth in units of the spread.

    Args:
        predicted: Uncalibrated predictions for N instances.
        target: True keypoints (N, K, 2) in [-1, 1].
        visible: Which of them are labelled (N, K), bool.
        size: Height and width of the input images, in pixels.

    Returns:
        Scores (N, K + 1), float64; the last is the largest of the instance. NaN where nothing is labelled.
    """
    errors = target.cpu().double() - predicted.keypoints.cpu().double()
    distance = normalized_distance_to_pixel(errors, size).norm(dim=-1) / max(size)
    scores = distance / spread_of(predicted, size).cpu().double()
    known = visible.cpu() & scores.isfinite()
    largest = scores.masked_fill(~known, -math.inf).amax(-1, keepdim=True)
    nothing = scores.new_tensor(math.nan)
    return torch.cat([torch.where(known, scores, nothing), torch.where(largest.isfinite(), largest, nothing)], -1)


def group_values(predicted: Keypoints, size: Size, by: By) -> Tensor:
    """Return what groups are thirds of, (B, K + 1).

    Args:
        predicted: Uncalibrated predictions.
        size: Height and width of the input images, in pixels.
        by: `size`: the longer side of the box about the predicted points, of the input's longer side. `confidence`:
            the spread, which is small where the model is confident; in the last column its geometric mean.
    """
    if by == "confidence":
        spread = spread_of(predicted, size)
        return torch.cat([spread, spread.log().mean(-1, keepdim=True).exp()], -1)
    xy = normalized_distance_to_pixel(predicted.keypoints, size) / max(size)
    extent = (xy.amax(-2) - xy.amin(-2)).amax(-1, keepdim=True)
    return extent.expand(-1, xy.shape[1] + 1)


def group_of(values: Tensor, edges: Tensor) -> Tensor:
    """Return the group of values (B, K + 1) between edges (K + 1, G - 1): the number of edges below each."""
    return (values[..., None] > edges).sum(-1)


def third_edges(values: Tensor) -> Tensor:
    """Return the limits of the thirds of values (N, K + 1): two of the values themselves, (K + 1, 2)."""
    ranked, count = values.sort(dim=0).values, len(values)
    return ranked[[min(count - 1, round(count * part / 3)) for part in (1, 2)]].T.contiguous()


def _grouped_scores(
    predicted: Keypoints, target: Tensor, visible: Tensor, size: Size, by: By | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the scores (N, K + 1), the edges of the groups (K + 1, G - 1), and the group of each score.

    An instance at an edge is in no group: the others of its group are then exchangeable with a new one that falls into
    it, though the edges come from the same data.
    """
    scores = conformal_scores(predicted, target, visible, size)
    if by is None:
        return scores, scores.new_zeros(scores.shape[1], 0), torch.zeros(scores.shape, dtype=torch.long)
    values = group_values(predicted, size, by).cpu()
    edges = third_edges(values)
    groups = group_of(values, edges)
    return scores, edges, groups.masked_fill((values[..., None] == edges).any(-1), -1)

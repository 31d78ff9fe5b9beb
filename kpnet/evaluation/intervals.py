"""Intervals of measures: how much they depend on which images were measured."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kpnet.coordinates import Size, normalized_to_pixel
from kpnet.core.skeleton import Skeleton
from kpnet.metrics import FAILURE_THRESHOLD, normalizers, point_errors

RESAMPLES = 1000
LEAST_IMAGES = 10  # of fewer, resampled images say too little
SHARES = ("pck@5%", "pck@10%", "failure_rate")


def bootstrap_intervals(
    predicted: Tensor,
    target: Tensor,
    visible: Tensor,
    skeleton: Skeleton,
    size: Size,
    *,
    images: np.ndarray | None = None,
    nme: str | tuple[str, str] | None = None,
    failure_threshold: float = FAILURE_THRESHOLD,
) -> dict[str, list[float]]:
    """Return 95 % intervals of measures over resampled images, as the errors of one image's points correlate.

    See Efron and Tibshirani 1993, An Introduction to the Bootstrap. A share of 0 or 1 is so in every resample: its
    interval is that of `unanimous_interval`.

    Args:
        predicted: Predicted points (N, K, 2) of N samples, normalised to [-1, 1].
        target: True points (N, K, 2), normalised.
        visible: Which points are labelled, bool (N, K).
        skeleton: Names of the points.
        size: Height and width of the images in pixels.
        images: Number of the image that each sample is of (N,). None: each is of an image of its own.
        nme: What the NME divides by; see `kpnet.metrics.normalizers`.
        failure_threshold: NME above which a sample counts as failed.

    Returns:
        Low and high of each measure, with the names of `kpnet.metrics.evaluate_points`; empty for fewer than 10 images,
        and without a measure that no image has.
    """
    predicted, target, visible = predicted.cpu().double(), target.cpu().double(), visible.cpu()
    side = max(size)
    target_px = normalized_to_pixel(target, size)
    errors = point_errors(normalized_to_pixel(predicted, size), target_px, visible)
    ratio = errors.nanmean(-1) / normalizers(target_px, visible, skeleton, size, nme)[0]
    points, known = visible.sum(-1).double(), ratio.isfinite().double()
    squared = torch.where(visible[..., None], predicted - target, 0).square().sum((1, 2))
    # Each measure is a function of one sum over the images, divided by another.
    sums = {
        "score": (squared, 2 * points),
        "rmse_px": (errors.square().nansum(-1), 2 * points),
        "mre_px": (errors.nansum(-1), points),
        "pck@5%": ((errors <= 0.05 * side).sum(-1).double(), points),
        "pck@10%": ((errors <= 0.10 * side).sum(-1).double(), points),
        "nme": (torch.where(known > 0, ratio, 0), known),
        "failure_rate": ((ratio > failure_threshold).double(), known),
    }
    columns = sum_by_image(torch.stack([column for pair in sums.values() for column in pair], 1), images)
    count = len(columns)
    if count < LEAST_IMAGES:
        return {}
    generator = torch.Generator().manual_seed(0)
    drawn = torch.empty(RESAMPLES, columns.shape[1], dtype=torch.float64)
    for row in drawn:  # one by one: all counts at once would fill the memory for many images
        counts = torch.randint(count, (count,), generator=generator).bincount(minlength=count)
        row[:] = counts.double() @ columns
    means = {name: drawn[:, 2 * i] / drawn[:, 2 * i + 1] for i, name in enumerate(sums)}
    means["score"], means["rmse_px"] = 0.5 / means["score"], means["rmse_px"].sqrt()
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    found = {name: values.nanquantile(ends).tolist() for name, values in means.items()}
    for i, name in enumerate(sums):
        if name in SHARES:
            found[name] = unanimous_interval(columns[:, 2 * i], columns[:, 2 * i + 1]) or found[name]
    return {name: ends for name, ends in found.items() if ends[0] == ends[0]}


def share_interval(inside: Tensor, counted: Tensor, images: np.ndarray | None = None) -> dict[str, float]:
    """Return a share with its 95 % interval over resampled images.

    Args:
        inside: Which points are inside, bool (N,) or (N, K).
        counted: Which of them count, bool of the same shape.
        images: Number of the image that each of the N rows is of (N,). None: each is of an image of its own.

    Returns:
        The share `measured`, the ends `low` and `high` of its interval, and the number of `points`; NaN without any.
        A share of 0 or 1 is so in every resample: its interval is that of `unanimous_interval`.
    """
    rows = [each.reshape(len(each), -1).double().sum(-1) for each in (inside & counted, counted)]
    right, points = sum_by_image(torch.stack(rows, -1), images).T
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randint(len(right), (len(right),), generator=generator) for _ in range(RESAMPLES))
    shares = torch.stack([right[index].sum() / points[index].sum() for index in drawn])
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = unanimous_interval(right, points) or shares.nanquantile(ends).tolist()
    return {"measured": float(right.sum() / points.sum()), "low": low, "high": high, "points": int(points.sum())}


def unanimous_interval(inside: Tensor, counted: Tensor) -> list[float] | None:
    """Return a 95 % interval of a share that is 0 or 1, of which resampled images show no other value.

    See Clopper and Pearson 1934, The use of confidence or fiducial limits illustrated in the case of the binomial.

    Args:
        inside: What is inside in each image (N,).
        counted: What counts in each image (N,); an image in which nothing does is no draw.

    Returns:
        Low and high: the interval of the binomial law of which each image is one draw, which is exact for one point in
        an image, and wider than it has to be for several that err on their own. None for another share.
    """
    draws, share = int((counted > 0).sum()), float(inside.sum() / counted.sum())
    if share not in (0.0, 1.0):
        return None
    farthest = 0.025 ** (1 / draws)
    return [0.0, 1 - farthest] if share == 0 else [farthest, 1.0]


def sum_by_image(rows: Tensor, images: np.ndarray | None) -> Tensor:
    """Return the sums (I, ...) of the rows (N, ...) of each image; `images` is None where each row is an image."""
    if images is None:
        return rows
    number = torch.from_numpy(np.unique(images, return_inverse=True)[1])
    return rows.new_zeros(int(number.max()) + 1, *rows.shape[1:]).index_add_(0, number, rows)

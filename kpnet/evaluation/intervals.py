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
    nme: str | tuple[str, str] | None = None,
    failure_threshold: float = FAILURE_THRESHOLD,
) -> dict[str, list[float]]:
    """Return 95 % intervals of measures over resampled images, as the errors of one image's points correlate.

    See Efron and Tibshirani 1993, An Introduction to the Bootstrap. A share that is 0 or 1 is so in every resample: it
    has the exact interval of as many draws as there are images (`all_alike`).

    Args:
        predicted: Predicted points (N, K, 2), normalised to [-1, 1].
        target: True points (N, K, 2), normalised.
        visible: Which points are labelled, bool (N, K).
        skeleton: Names of the points.
        size: Height and width of the images in pixels.
        nme: What the NME divides by; see `kpnet.metrics.normalizers`.
        failure_threshold: NME above which an image counts as failed.

    Returns:
        Low and high of each measure, with the names of `kpnet.metrics.evaluate_points`; empty for fewer than 10 images,
        and without a measure that no image has.
    """
    predicted, target, visible = predicted.cpu().double(), target.cpu().double(), visible.cpu()
    images, side = len(target), max(size)
    if images < LEAST_IMAGES:
        return {}
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
    columns = torch.stack([column for pair in sums.values() for column in pair], 1)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.empty(RESAMPLES, columns.shape[1], dtype=torch.float64)
    for row in drawn:  # one by one: all counts at once would fill the memory for many images
        counts = torch.randint(images, (images,), generator=generator).bincount(minlength=images)
        row[:] = counts.double() @ columns
    means = {name: drawn[:, 2 * i] / drawn[:, 2 * i + 1] for i, name in enumerate(sums)}
    means["score"], means["rmse_px"] = 0.5 / means["score"], means["rmse_px"].sqrt()
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    found = {name: values.nanquantile(ends).tolist() for name, values in means.items()}
    for name in SHARES:
        inside, counted = sums[name]
        found[name] = all_alike(inside, counted) or found[name]
    return {name: ends for name, ends in found.items() if ends[0] == ends[0]}


def share_interval(right: Tensor, counted: Tensor, images: np.ndarray | None = None) -> dict[str, float]:
    """Return a share of points, with its 95 % interval over resampled images, or, of none or all, that of `all_alike`.

    Args:
        right: Which points are right, bool (N,) or (N, K).
        counted: Which of them count, bool of the same shape.
        images: Number of the image that each of the N rows is of (N,). None: each is an image of its own.

    Returns:
        The share `measured`, the ends `low` and `high` of its interval, and the number of `points`; NaN without any.
    """
    keys = torch.arange(len(right)) if images is None else torch.from_numpy(images)
    rows = torch.stack([(right & counted).reshape(len(right), -1).sum(-1), counted.reshape(len(right), -1).sum(-1)], -1)
    sums = torch.zeros(int(keys.max()) + 1, 2, dtype=torch.float64).index_add_(0, keys, rows.double())
    return {**share_of_images(*sums.T), "points": int(sums[:, 1].sum())}


def share_of_images(inside: Tensor, counted: Tensor) -> dict[str, float]:
    """Return a share with its 95 % interval over resampled images, or, of none or all, that of `all_alike`.

    Args:
        inside: What is inside in each image, float64 (N,).
        counted: What counts in each image, float64 (N,).

    Returns:
        The share `measured`, and the ends `low` and `high` of its interval; NaN where nothing counts.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = (torch.randint(len(inside), (len(inside),), generator=generator) for _ in range(RESAMPLES))
    shares = torch.stack([inside[index].sum() / counted[index].sum() for index in drawn])
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = all_alike(inside, counted) or shares.nanquantile(ends).tolist()
    return {"measured": float(inside.sum() / counted.sum()), "low": low, "high": high}


def all_alike(inside: Tensor, counted: Tensor) -> list[float] | None:
    """Return the 95 % interval of a share that is 0 or 1, of which resampled images show no other value.

    See Clopper and Pearson 1934, The use of confidence or fiducial limits illustrated in the case of the binomial.

    Args:
        inside: What is inside in each image (N,).
        counted: What counts in each image (N,); an image in which nothing does is no draw.

    Returns:
        Low and high: the 95 % interval of the binomial law of which each image is one draw. None for another share.
    """
    draws, share = int((counted > 0).sum()), float(inside.sum() / counted.sum())
    if share not in (0.0, 1.0):
        return None
    farthest = 0.025 ** (1 / draws)
    return [0.0, 1 - farthest] if share == 0 else [farthest, 1.0]

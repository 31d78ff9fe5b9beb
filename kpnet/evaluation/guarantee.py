"""What guarantee radii hold, measured on images that they do not come from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kpnet.coordinates import Size
from kpnet.data.base import KeypointDataset
from kpnet.evaluation.intervals import share_interval
from kpnet.evaluation.measurement import predict_dataset
from kpnet.heads import Keypoints
from kpnet.models.files import weights_digest
from kpnet.models.guarantee import (
    GROUPS,
    By,
    Guarantee,
    conformal_scores,
    fit_guarantee,
    group_of,
    group_values,
    third_edges,
    unchecked_guarantee,
)
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.test_time import TestTime


def guarantee_model(
    model: KeypointModel,
    dataset: KeypointDataset,
    at: float = 0.9,
    by: By | None = None,
    batch_size: int = 64,
    test_time: TestTime | None = None,
) -> dict[str, Any]:
    """Give a model a guarantee, found on data that it was not trained on.

    Args:
        model: The model; `model.guarantee` is set.
        dataset: The data; whole images for a model with the head `centers`.
        at: Probability with which a circle holds the true point.
        by: Radii for each third of this; see `fit_guarantee`.
        batch_size: Images per forward pass.
        test_time: The test-time views that it is to hold for.

    Returns:
        A dict of

        - `coverage`: what `cross_fitted_coverage` measures;
        - `radius_px`: mean radius of each point on the data, in pixels of the model's input;
        - `joint_radius_px`: the mean of all points' joint radii;
        - `constant`: mean radius, relative to that of the guarantee, of circles that are the same in all images.

    Raises:
        KpnetError: A point is labelled in too few images, or `by` is "confidence" of a model without a spread.

    Example:
        ```python
        dataset = kpnet.evaluation.run_data.evaluation_dataset(None, Path("held_out.csv"), model)
        guarantee_model(model, dataset, at=0.9)
        ```
    """
    size, names = model.config.input_size, model.skeleton.names
    own = model.calibration, model.guarantee
    model.calibration = model.guarantee = None
    try:
        result = predict_dataset(model, dataset, batch_size, test_time)
    finally:
        model.calibration, model.guarantee = own
    data, images = (result.predicted, result.target, result.visible, size), result.images
    fitted = fit_guarantee(*data, at, by, images, names)
    model.guarantee = dataclasses.replace(
        fitted,
        head=model.config.model_dump(mode="json")["head"],
        test_time=test_time or TestTime(),
        weights=weights_digest(model),
    )
    found = fitted(result.predicted, size)
    constant = fit_guarantee(dataclasses.replace(result.predicted, covariance=None), *data[1:], at)
    assert found.radius is not None
    assert found.joint_radius is not None
    same = found.radius.new_tensor(constant.quantiles)[:-1, 0]
    return {
        "coverage": cross_fitted_coverage(fitted, *data, images, names),
        "radius_px": dict(zip(names, (found.radius.mean(0) * max(size)).tolist(), strict=True)),
        "joint_radius_px": float(found.joint_radius.mean() * max(size)),
        "constant": float(same.mean() / found.radius.mean()),
    }


def inside_radii(predicted: Keypoints, target: Tensor, visible: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Return which points lie inside of their radii, and which count.

    Args:
        predicted: Predictions for N instances with `radius` and `joint_radius`, calibrated or not.
        target: True keypoints (N, K, 2) in [-1, 1].
        visible: Which of them are labelled (N, K), bool.
        size: Height and width of the input images, in pixels.

    Returns:
        Which lie inside, and which count, bool (N, K + 1); in the last column whether all labelled points of the
        instance lie inside of `joint_radius`.
    """
    assert predicted.radius is not None
    assert predicted.joint_radius is not None
    # Scores of a spread of 1 are distances.
    plain = dataclasses.replace(predicted, covariance=None)
    distance, known = conformal_scores(plain, target, visible, size)[:, :-1], visible.cpu()
    inside = distance <= predicted.radius.cpu().double()
    together = ((distance <= predicted.joint_radius.cpu().double()) | ~known).all(-1, keepdim=True)
    counted = torch.cat([known, known.any(-1, keepdim=True)], -1)
    return torch.cat([inside, together], -1) & counted, counted


def cross_fitted_coverage(
    guarantee: Guarantee,
    predicted: Keypoints,
    target: Tensor,
    visible: Tensor,
    size: Size,
    images: np.ndarray,
    names: Sequence[str],
) -> dict[str, Any]:
    """Measure what the radii of each half of the images hold in the other half, over points and groups.

    On the images that they come from, radii hold what was asked by construction.

    Args:
        guarantee: What was asked for: `at` and `by`.
        predicted: Uncalibrated predictions for N instances.
        target: True keypoints (N, K, 2) in [-1, 1].
        visible: Which of them are labelled (N, K), bool.
        size: Height and width of the input images, in pixels.
        images: Number of the image that each instance is of, int (N,).
        names: Names of the points.

    Returns:
        A dict of coverages, each a dict of the share `measured`, its 95 % interval over resampled images (`low`,
        `high`; see `share_interval`), and the number of `points`:

        - `points`: of all points together;
        - `per_point`: name of each point to its own, without an interval;
        - `joint`: of instances, whether all their labelled points lie inside;
        - `size`, `confidence`: name of each third to that of its points; `confidence` only where the model predicts a
          spread.

        A point that is labelled in too few images of a half does not count.
    """
    order = torch.randperm(int(images.max()) + 1, generator=torch.Generator().manual_seed(0))
    second = order[torch.from_numpy(images)] % 2 == 1
    inside, counted = (torch.zeros(len(visible), visible.shape[1] + 1, dtype=torch.bool) for _ in range(2))
    for half in (second, ~second):
        own, rest = (_rows(predicted, half), target[half], visible[half]), ~half
        fitted = unchecked_guarantee(*own, size, guarantee.at, guarantee.by)
        found = fitted(_rows(predicted, rest), size)
        inside[rest], counted[rest] = inside_radii(found, target[rest], visible[rest], size)
        assert found.radius is not None
        assert found.joint_radius is not None
        counted[rest] &= torch.cat([found.radius, found.joint_radius[:, :1]], -1).isfinite().cpu()
    shares: dict[str, Any] = {"points": share_interval(inside[:, :-1], counted[:, :-1], images)}
    shares["per_point"] = {
        name: {"measured": float((inside[:, k] & counted[:, k]).sum() / counted[:, k].sum()), "points": int(total)}
        for (k, name), total in zip(enumerate(names), counted[:, :-1].sum(0), strict=True)
    }
    shares["joint"] = share_interval(inside[:, -1], counted[:, -1], images)
    for by, labels in GROUPS.items():
        if by == "confidence" and predicted.covariance is None:
            continue
        values = group_values(predicted, size, by).cpu()  # type: ignore[arg-type]
        groups = group_of(values, third_edges(values))[:, :-1]
        shares[by] = {
            name: share_interval(inside[:, :-1], counted[:, :-1] & (groups == g), images)
            for g, name in enumerate(labels)
        }
    return shares


def _rows(predicted: Keypoints, rows: Tensor) -> Keypoints:
    covariance = None if predicted.covariance is None else predicted.covariance[rows]
    return Keypoints(predicted.keypoints[rows], covariance=covariance)

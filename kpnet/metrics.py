"""Accuracy measures: pure functions, for any number of images at once.

Points are (N, K, 2) in pixels, `visible` is bool (N, K). Absent points may be anything, NaN included. What cannot be
computed, as nothing is visible, is NaN; a wrong shape is a `ValueError`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kpnet.coordinates import normalized_distance_to_pixel, normalized_to_pixel
from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.core.skeleton import Skeleton

MEASURES = ("score", "rmse_px", "mre_px", "pck@5%", "pck@10%", "pck_auc", "nme", "failure_rate", "ced_auc")
PASS_MARKS = {"facial15": 100.0}  # the score that the course asks for, by the skeleton it asks it of
FAILURE_THRESHOLD = 0.10  # an image with a larger NME is a failure, as for WFLW (Wu et al. 2018)
PCK_CURVE = [step / 200 for step in range(1, 21)]  # fractions of the image's longer side, up to 10 %


def check_points(predicted: Tensor, target: Tensor, visible: Tensor) -> None:
    """Check the shapes of predicted and true points.

    Args:
        predicted: Predicted points (N, K, 2).
        target: True points (N, K, 2).
        visible: Bool (N, K), False for absent points.

    Raises:
        ValueError: If the shapes do not fit, or `visible` is not bool.
    """
    shape = tuple(target.shape)
    fits = predicted.shape == target.shape and len(shape) == 3 and shape[2] == 2 and visible.shape == shape[:2]
    if not fits or visible.dtype != torch.bool:
        raise ValueError(
            f"expected points (N, K, 2) twice and bool (N, K), got {tuple(predicted.shape)}, {shape} "
            f"and {visible.dtype} {tuple(visible.shape)}"
        )


def point_errors(predicted: Tensor, target: Tensor, visible: Tensor) -> Tensor:
    """Return the distance of each prediction from its target.

    Args:
        predicted: Predicted points (N, K, 2) in pixels; NaN counts as infinitely wrong.
        target: True points (N, K, 2) in pixels.
        visible: Bool (N, K).

    Returns:
        Distances (N, K) in pixels, NaN where the point is absent.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_points(predicted, target, visible)
    distance = (predicted - target).square().sum(-1).sqrt().nan_to_num(nan=torch.inf, posinf=torch.inf)
    return torch.where(visible, distance, torch.nan)


def score(predicted: Tensor, target: Tensor, visible: Tensor) -> Tensor:
    """Return the course's score, 1 / (2 MSE).

    Args:
        predicted: Predicted points (N, K, 2), normalised.
        target: True points (N, K, 2), normalised.
        visible: Bool (N, K).

    Returns:
        The score, a scalar.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_points(predicted, target, visible)
    return 1 / (2 * (predicted - target).square()[visible].mean())


def rmse(errors: Tensor) -> Tensor:
    """Return the root mean square error per coordinate.

    Args:
        errors: Distances as of `point_errors`, of any shape; NaN is ignored.

    Returns:
        The error in the same unit, a scalar.
    """
    return (errors.square() / 2).nanmean().sqrt()


def normalizers(
    target: Tensor,
    visible: Tensor,
    skeleton: Skeleton,
    size: tuple[int, int],
    nme: str | tuple[str, str] | None = None,
    boxes: Tensor | None = None,
) -> tuple[Tensor, str]:
    """Return the lengths that the NME divides by, and their name.

    Args:
        target: True points (N, K, 2) in pixels.
        visible: Bool (N, K).
        skeleton: Names of the points.
        size: Size (H, W) of the images in pixels.
        nme: Two keypoint names, for their distance; `"box"`, for sqrt(w h) of `boxes`, or of the box around the visible
            points (as AFLW and 300-W have it); or `"diagonal"`, for that of the image. None for the skeleton's, or else
            the diagonal.
        boxes: Boxes (N, 4) as x0, y0, x1, y1 in the same pixels; only with `nme="box"`.

    Returns:
        Lengths (N,) in pixels, NaN where an image has none; and what they are, in words.

    Raises:
        KpnetError: If `nme` names an unknown length or keypoint, or there are boxes but the NME is not by box.
        ValueError: If shapes do not fit.
    """
    check_points(target, target, visible)
    by = nme or skeleton.nme or "diagonal"
    if boxes is not None and by != "box":
        raise KpnetError(f'boxes are given, but the NME is by {by}: expected nme="box"')
    if by == "diagonal":
        return target.new_full((len(target),), (size[0] ** 2 + size[1] ** 2) ** 0.5), "diagonal of the image"
    if by == "box":
        length = _box_lengths(target, visible) if boxes is None else _given_lengths(boxes.to(target), len(target))
        name = "box of the points" if boxes is None else "given box"
    else:
        a, b = _pair(by, skeleton)
        length = torch.where(visible[:, a] & visible[:, b], (target[:, a] - target[:, b]).norm(dim=-1), torch.nan)
        name = f"distance from {skeleton.names[a]} to {skeleton.names[b]}"
    return torch.where((length > 0) & length.isfinite(), length, torch.nan), name


def _pair(by: str | tuple[str, str], skeleton: Skeleton) -> tuple[int, int]:
    """Return the indices of the two keypoints; a list, as YAML has it, is a pair too."""
    if isinstance(by, str) or len(by) != 2:
        hint = did_you_mean(by, ("box", "diagonal")) if isinstance(by, str) else ""
        raise KpnetError(f'nme: unknown {by!r}{hint}; expected "box", "diagonal" or two keypoint names')
    for name in by:
        if name not in skeleton.names:
            raise KpnetError(f'nme: unknown keypoint "{name}"{did_you_mean(name, skeleton.names)}')
    return skeleton.names.index(by[0]), skeleton.names.index(by[1])


def _box_lengths(target: Tensor, visible: Tensor) -> Tensor:
    """Return sqrt(w h) (N,) of the tight box around the visible points, infinite where there is none."""
    low = torch.where(visible[..., None], target, torch.inf).amin(1)
    high = torch.where(visible[..., None], target, -torch.inf).amax(1)
    return (high - low).prod(-1).sqrt()


def _given_lengths(boxes: Tensor, images: int) -> Tensor:
    if boxes.shape != (images, 4):
        raise ValueError(f"expected boxes ({images}, 4), got {tuple(boxes.shape)}")
    # A box that is inside out has no length, not the square root of two negative sides.
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1).sqrt()


def pck(errors: Tensor, threshold: float | Tensor) -> Tensor:
    """Return the fraction of visible points whose error is at most a threshold: the percentage of correct keypoints.

    Args:
        errors: Distances (N, K) in pixels, NaN where absent. Or distances divided by a length of their image,
            `errors / normalizers(…)[0][:, None]`, with the threshold in the same unit.
        threshold: A number, or thresholds (T,) for the curve.

    Returns:
        A fraction, a scalar or (T,).
    """
    known = errors[~errors.isnan()].sort().values
    at = torch.as_tensor(threshold, dtype=errors.dtype, device=errors.device)
    return torch.searchsorted(known, at, right=True).to(errors.dtype) / len(known)


def auc(values: Tensor, limit: float) -> Tensor:
    """Return the area under the curve of `pck` from 0 to `limit`, divided by `limit`: 1 where all errors are 0.

    Yang et al. 2015, "An empirical study of recent face alignment methods". The curve is a staircase whose area is the
    mean of 1 - value / limit, so that nothing is sampled.

    Args:
        values: Errors or NMEs of any shape; NaN is ignored.
        limit: End of the range, in the unit of `values`.

    Returns:
        The area in [0, 1], a scalar.

    Raises:
        ValueError: If the limit is not above 0.
    """
    if not limit > 0:
        raise ValueError(f"expected a limit above 0, got {limit}")
    return (1 - values[~values.isnan()] / limit).clamp(min=0).mean()


def failure_rate(nme: Tensor, threshold: float = FAILURE_THRESHOLD) -> Tensor:
    """Return the fraction of samples whose NME exceeds a threshold.

    Args:
        nme: NME (N,) of the samples, NaN where there is none.
        threshold: The largest NME that is no failure; 0.10 as for WFLW.

    Returns:
        The fraction, a scalar.
    """
    known = nme[~nme.isnan()]
    return (known > threshold).to(nme.dtype).mean()


def evaluate_points(
    predicted: Tensor,
    target: Tensor,
    visible: Tensor,
    skeleton: Skeleton,
    size: tuple[int, int],
    *,
    nme: str | tuple[str, str] | None = None,
    boxes: Tensor | None = None,
    failure_threshold: float = FAILURE_THRESHOLD,
) -> dict[str, Any]:
    """Compute every measure of normalised points, as plain numbers.

    Pixels are those of `size`: for a model's predictions, of its input.

    Args:
        predicted: Predicted points (N, K, 2), normalised.
        target: True points (N, K, 2), normalised.
        visible: Bool (N, K).
        skeleton: Names and groups of the points.
        size: Size (H, W) in pixels.
        nme: Length that normalises the NME, see `normalizers`.
        boxes: Boxes (N, 4) for `nme="box"`, see `normalizers`.
        failure_threshold: The largest NME that is no failure.

    Returns:
        A dict of

        - score;
        - rmse_px (per coordinate) and mre_px (mean radial error), in pixels;
        - pck@5%, pck@10%, pck_curve and pck_auc (up to 10 %), of the image's longer side;
        - nme, the mean over the `nme_samples` samples with a known length, which nme_by names;
        - failure_rate, the fraction of samples above failure_threshold, and ced_curve and ced_auc up to there;
        - points, the number of visible points, and samples, N; input_size, the given size;
        - per_point: for each name rmse_px, mre_px, pck@5% and points;
        - per_group: the same for each of the skeleton's groups, and its nme.

    Raises:
        KpnetError: If `nme` is unknown, see `normalizers`.
        ValueError: If shapes do not fit.
    """
    points, errors, lengths, nme_by = _errors(predicted, target, visible, skeleton, size, nme, boxes)
    per_image, side = errors.nanmean(-1) / lengths, max(size)
    return {
        **_overall(points, errors, per_image, side, failure_threshold),
        "nme_by": nme_by,
        "nme_samples": int((~per_image.isnan()).sum()),
        "failure_threshold": failure_threshold,
        "points": int((~errors.isnan()).sum()),
        "input_size": list(size),
        "samples": len(errors),
        **_parts(errors, lengths, side, skeleton),
        "pck_curve": _curve(errors / side, PCK_CURVE),
        "ced_curve": _curve(per_image, [failure_threshold * (step / 20) for step in range(1, 21)]),
    }


def overall_measures(
    predicted: Tensor, target: Tensor, visible: Tensor, skeleton: Skeleton, size: tuple[int, int]
) -> dict[str, float]:
    """Compute the measures over all points and images: those of `MEASURES`, as `evaluate_points` defines them.

    Args:
        predicted: Predicted points (N, K, 2), normalised.
        target: True points (N, K, 2), normalised.
        visible: Bool (N, K).
        skeleton: Names of the points.
        size: Size (H, W) in pixels.

    Returns:
        Name to number.

    Raises:
        ValueError: If shapes do not fit.
    """
    points, errors, lengths, _ = _errors(predicted, target, visible, skeleton, size)
    return _overall(points, errors, errors.nanmean(-1) / lengths, max(size), FAILURE_THRESHOLD)


def _errors(
    predicted: Tensor,
    target: Tensor,
    visible: Tensor,
    skeleton: Skeleton,
    size: tuple[int, int],
    nme: str | tuple[str, str] | None = None,
    boxes: Tensor | None = None,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor, Tensor, str]:
    """Return the points on the CPU, their errors (N, K) in pixels, the NME's lengths (N,) and what these are."""
    check_points(predicted, target, visible)
    if predicted.shape[1] != len(skeleton):
        raise ValueError(f"expected {len(skeleton)} points, as the skeleton has, got {tuple(predicted.shape)}")
    # On the CPU: not every accelerator has float64, and each number read there is a wait.
    points = predicted, target, visible = predicted.cpu().double(), target.cpu().double(), visible.cpu()
    target_px = normalized_to_pixel(target, size)
    errors = point_errors(normalized_to_pixel(predicted, size), target_px, visible)
    return points, errors, *normalizers(target_px, visible, skeleton, size, nme, boxes)


def _overall(
    points: tuple[Tensor, Tensor, Tensor], errors: Tensor, nme: Tensor, side: int, failure_threshold: float
) -> dict[str, float]:
    """Return the numbers of `MEASURES` from points, errors (N, K) in pixels and one NME (N,) per image."""
    values = (
        score(*points),
        rmse(errors),
        errors.nanmean(),
        pck(errors / side, 0.05),
        pck(errors / side, 0.10),
        auc(errors / side, PCK_CURVE[-1]),
        nme.nanmean(),
        failure_rate(nme, failure_threshold),
        auc(nme, failure_threshold),
    )
    return {name: float(value) for name, value in zip(MEASURES, values, strict=True)}


def evaluate_in_image_pixels(
    predicted: Tensor,
    target: Tensor,
    visible: Tensor,
    skeleton: Skeleton,
    size: tuple[int, int],
    matrix: Tensor,
    confident: Tensor | None = None,
) -> dict[str, Any]:
    """Compute the errors in pixels of the original images.

    Args:
        predicted: Predicted points (N, K, 2), normalised on the model's input.
        target: True points (N, K, 2), normalised on the model's input.
        visible: Bool (N, K).
        skeleton: Names of the points.
        size: Size (H, W) of the model's input.
        matrix: Mappings (N, 2, 3) from pixels of the original images to those of the input.
        confident: Bool (N, K), predictions above a confidence threshold, as DeepLabCut's likelihood cut-off.

    Returns:
        A dict of rmse_px, mre_px and points (their number), over all and per_point; with `confident`, its entry
        `confident` has the same for those points alone.

    Raises:
        ValueError: If shapes do not fit.
    """
    check_points(predicted, target, visible)
    back = matrix[:, :, :2].cpu().double().inverse()
    delta = normalized_distance_to_pixel((predicted - target).cpu().double(), size) @ back.mT
    visible = visible.cpu()
    errors = point_errors(delta, torch.zeros_like(delta), visible)
    measures = _in_pixels(errors, skeleton)
    if confident is not None:
        measures["confident"] = _in_pixels(torch.where(confident.cpu(), errors, torch.nan), skeleton)
    return measures


def _in_pixels(errors: Tensor, skeleton: Skeleton) -> dict[str, Any]:
    def row(part: Tensor) -> dict[str, Any]:
        return {"rmse_px": float(rmse(part)), "mre_px": float(part.nanmean()), "points": int((~part.isnan()).sum())}

    return {**row(errors), "per_point": {name: row(errors[:, k]) for k, name in enumerate(skeleton.names)}}


def _parts(errors: Tensor, lengths: Tensor, side: int, skeleton: Skeleton) -> dict[str, dict[str, Any]]:
    """Return a row for each point, and for each group of points."""
    groups = {name: errors[:, indices] for name, indices in skeleton.group_indices.items()}
    return {
        "per_point": {name: _row(errors[:, k], side) for k, name in enumerate(skeleton.names)},
        "per_group": {
            name: {**_row(part, side), "nme": float((part.nanmean(-1) / lengths).nanmean())}
            for name, part in groups.items()
        },
    }


def _row(errors: Tensor, side: int) -> dict[str, Any]:
    return {
        "rmse_px": float(rmse(errors)),
        "mre_px": float(errors.nanmean()),
        "pck@5%": float(pck(errors / side, 0.05)),
        "points": int((~errors.isnan()).sum()),
    }


def _curve(values: Tensor, thresholds: list[float]) -> dict[str, list[float]]:
    return {"threshold": thresholds, "share": pck(values, torch.tensor(thresholds, dtype=values.dtype)).tolist()}

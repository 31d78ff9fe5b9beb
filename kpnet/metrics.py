"""Accuracy measures: plain functions, and one accumulator that counts each sample once.

Points are (N, K, 2) in pixels, `visible` bool (N, K). Absent points may be anything, NaN included.
What cannot be computed (nothing visible) is NaN; a wrong shape is a ValueError.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kpnet.coordinates import normalized_distance_to_pixel, normalized_to_pixel
from kpnet.core.errors import KpnetError, did_you_mean
from kpnet.core.skeleton import Skeleton

PASS_MARK = 100.0  # the course's


FAILURE_THRESHOLD = 0.10  # an image of a larger NME is a failure: as WFLW has it (Wu et al. 2018)


PCK_CURVE = [step / 200 for step in range(1, 21)]  # fractions of the image's longer side, up to 10 %


def _check(predicted: Tensor, target: Tensor, visible: Tensor) -> None:
    shape = tuple(target.shape)
    fits = predicted.shape == target.shape and len(shape) == 3 and shape[2] == 2 and visible.shape == shape[:2]
    if not fits or visible.dtype != torch.bool:
        raise ValueError(
            f"expected points (N, K, 2) twice and bool (N, K), got {tuple(predicted.shape)}, {shape} "
            f"and {visible.dtype} {tuple(visible.shape)}"
        )


def point_errors(predicted: Tensor, target: Tensor, visible: Tensor) -> Tensor:
    """Distances (N, K) in pixels, NaN where the point is absent; a prediction of NaN is infinitely wrong."""
    _check(predicted, target, visible)
    distance = (predicted - target).square().sum(-1).sqrt().nan_to_num(nan=torch.inf, posinf=torch.inf)
    return torch.where(visible, distance, torch.nan)


def score(predicted: Tensor, target: Tensor, visible: Tensor) -> Tensor:
    """The course's 1 / (2 MSE), of normalised points (N, K, 2)."""
    _check(predicted, target, visible)
    return 1 / (2 * (predicted - target).square()[visible].mean())


def rmse(errors: Tensor) -> Tensor:
    """Root mean square error per coordinate, of point errors."""
    return (errors.square() / 2).nanmean().sqrt()


def normalizers(
    target: Tensor,
    visible: Tensor,
    skeleton: Skeleton,
    size: tuple[int, int],
    nme: str | tuple[str, str] | None = None,
    boxes: Tensor | None = None,
) -> tuple[Tensor, str]:
    """Lengths (N,) in pixels that NME divides by, NaN where an image has none, and what they are in words.

    nme: two keypoint names (their distance), "box" (sqrt(w h) of `boxes` (N, 4), x0, y0, x1, y1 in the same
    pixels, or of the box about the visible points: AFLW, 300-W's "box") or "diagonal" (of the image). None: the
    skeleton's pair, or the diagonal. A KpnetError names an unknown one.
    """
    _check(target, target, visible)
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
    """Indices of the two keypoints; a list, as YAML has it, is a pair too."""
    if isinstance(by, str) or len(by) != 2:
        hint = did_you_mean(by, ("box", "diagonal")) if isinstance(by, str) else ""
        raise KpnetError(f'nme: unknown {by!r}{hint}; expected "box", "diagonal" or two keypoint names')
    for name in by:
        if name not in skeleton.names:
            raise KpnetError(f'nme: unknown keypoint "{name}"{did_you_mean(name, skeleton.names)}')
    return skeleton.names.index(by[0]), skeleton.names.index(by[1])


def _box_lengths(target: Tensor, visible: Tensor) -> Tensor:
    """sqrt(w h) (N,) of the tight box about the visible points; infinite where there is none."""
    low = torch.where(visible[..., None], target, torch.inf).amin(1)
    high = torch.where(visible[..., None], target, -torch.inf).amax(1)
    return (high - low).prod(-1).sqrt()


def _given_lengths(boxes: Tensor, images: int) -> Tensor:
    if boxes.shape != (images, 4):
        raise ValueError(f"expected boxes ({images}, 4), got {tuple(boxes.shape)}")
    # A box that is inside out has no length, not the square root of two negative sides.
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1).sqrt()


def pck(errors: Tensor, threshold: float | Tensor) -> Tensor:
    """Share of the visible points whose error is at most `threshold`, a number or (T,) for the curve.

    In pixels; or, of errors divided by a length of their image (`errors / normalizers(…)[0][:, None]`), in parts of it.
    """
    known = errors[~errors.isnan()].sort().values
    at = torch.as_tensor(threshold, dtype=errors.dtype, device=errors.device)
    return torch.searchsorted(known, at, right=True).to(errors.dtype) / len(known)


def ced(nme: Tensor, threshold: float | Tensor) -> Tensor:
    """Cumulative error distribution: share of the images whose NME (N,) is at most `threshold` (300-W)."""
    return pck(nme, threshold)


def auc(values: Tensor, limit: float) -> Tensor:
    """Area from 0 to `limit` beneath `pck` or `ced` of `values`, over `limit`: 1 where nothing is wrong.

    Yang et al. 2015, "An empirical study of recent face alignment methods". The curve is a staircase whose
    area is the mean of 1 - value / limit, so nothing is sampled.
    """
    if not limit > 0:
        raise ValueError(f"expected a limit above 0, got {limit}")
    return (1 - values[~values.isnan()] / limit).clamp(min=0).mean()


def failure_rate(nme: Tensor, threshold: float = FAILURE_THRESHOLD) -> Tensor:
    """Share of the images whose NME (N,) exceeds `threshold`."""
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
    failure: float = FAILURE_THRESHOLD,
) -> dict[str, Any]:
    """Every measure of normalised points (N, K, 2) on images of `size` (H, W), as plain numbers.

    Pixels are those of `size`: for a model's answers, of its input. `nme` and `boxes`: see `normalizers`.

    score; rmse_px (per coordinate); mre_px (mean radial error); nme (mean over the `nme_images` whose length,
    named by nme_by, is known); failure_rate (share of those above failure_threshold), ced_curve, and ced_auc up to
    there;
    pck@5%, pck@10%, pck_curve and pck_auc (up to 10 %) of the image's longer side; per_point; per_group (the
    skeleton's groups).
    """
    _check(predicted, target, visible)
    if predicted.shape[1] != len(skeleton):
        raise ValueError(f"expected {len(skeleton)} points, as the skeleton has, got {tuple(predicted.shape)}")
    # On the CPU: not every accelerator has float64, and each number read there is a wait.
    predicted, target, visible = predicted.cpu().double(), target.cpu().double(), visible.cpu()
    target_px = normalized_to_pixel(target, size)
    errors = point_errors(normalized_to_pixel(predicted, size), target_px, visible)
    lengths, nme_by = normalizers(target_px, visible, skeleton, size, nme, boxes)
    per_image, side = errors.nanmean(-1) / lengths, max(size)
    return {
        "score": float(score(predicted, target, visible)),
        **_row(errors, side),
        "pck@10%": float(pck(errors / side, 0.10)),
        "pck_auc": float(auc(errors / side, PCK_CURVE[-1])),
        "nme_by": nme_by,
        **_image_numbers(per_image, failure),
        "input_size": list(size),
        "images": len(errors),
        **_parts(errors, lengths, side, skeleton),
        "pck_curve": _curve(errors / side, PCK_CURVE),
        "ced_curve": _curve(per_image, [failure * (step / 20) for step in range(1, 21)]),
    }


def evaluate_in_image_pixels(
    predicted: Tensor,
    target: Tensor,
    visible: Tensor,
    skeleton: Skeleton,
    size: tuple[int, int],
    matrix: Tensor,
    confident: Tensor | None = None,
) -> dict[str, Any]:
    """Errors in pixels of the original images, which mappings (N, 2, 3) brought to the model's input of `size`.

    rmse_px, mre_px and points, over all and per_point; with `confident` bool (N, K), `confident` has the same of
    those points alone (DeepLabCut's likelihood cut-off).
    """
    _check(predicted, target, visible)
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


def _image_numbers(nme: Tensor, failure: float) -> dict[str, Any]:
    """Of one NME an image, NaN where it has none."""
    return {
        "nme": float(nme.nanmean()),
        "nme_images": int((~nme.isnan()).sum()),
        "failure_rate": float(failure_rate(nme, failure)),
        "failure_threshold": failure,
        "ced_auc": float(auc(nme, failure)),
    }


def _parts(errors: Tensor, lengths: Tensor, side: int, skeleton: Skeleton) -> dict[str, dict[str, Any]]:
    """A row for each point, and for each group of them."""
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

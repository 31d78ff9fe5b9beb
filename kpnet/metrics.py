"""Accuracy measures: plain functions, and one accumulator that counts each sample once.

Points are (N, K, 2) in pixels, `visible` bool (N, K). What cannot be computed (nothing visible) is NaN.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from kpnet.coordinates import normalized_to_pixel
from kpnet.skeleton import Skeleton

PASS_MARK = 100.0  # the course's


def point_errors(predicted: Tensor, target: Tensor, visible: Tensor) -> Tensor:
    """Distances (N, K) in pixels, NaN where the point is absent; a prediction of NaN is infinitely wrong."""
    distance = (predicted - target).square().sum(-1).sqrt().nan_to_num(nan=torch.inf, posinf=torch.inf)
    return torch.where(visible, distance, torch.nan)


def score(predicted: Tensor, target: Tensor, visible: Tensor) -> Tensor:
    """The course's 1 / (2 MSE), of normalised points (N, K, 2)."""
    return 1 / (2 * (predicted - target).square()[visible].mean())


def rmse(errors: Tensor) -> Tensor:
    """Root mean square error per coordinate, of point errors."""
    return (errors.square() / 2).nanmean().sqrt()


def normalizers(target: Tensor, visible: Tensor, skeleton: Skeleton, size: tuple[int, int]) -> Tensor:
    """Lengths (N,) in pixels that NME divides by: the skeleton's pair, NaN where it is absent, or the diagonal."""
    if skeleton.nme is None:
        return target.new_full((len(target),), (size[0] ** 2 + size[1] ** 2) ** 0.5)
    a, b = (skeleton.names.index(name) for name in skeleton.nme)
    length = (target[:, a] - target[:, b]).norm(dim=-1)
    return torch.where(visible[:, a] & visible[:, b] & (length > 0), length, torch.nan)


def pck(errors: Tensor, threshold: float) -> Tensor:
    """Share of the visible points whose error is at most `threshold` pixels."""
    known = ~errors.isnan()
    return (errors[known] <= threshold).float().mean()


def evaluate_points(
    predicted: Tensor, target: Tensor, visible: Tensor, skeleton: Skeleton, size: tuple[int, int]
) -> dict[str, Any]:
    """Every measure of normalised points (N, K, 2) on images of `size` (H, W), as plain numbers.

    Pixels are those of `size`: for a model's answers, of its input.
    score; rmse_px (per coordinate); mre_px (mean radial error); nme (mean over images, a fraction of
    the skeleton's normalising length); pck@5% and pck@10% of the image's longer side; per_point.
    """
    # On the CPU: not every accelerator has float64, and each number read there is a wait.
    predicted, target, visible = predicted.cpu().double(), target.cpu().double(), visible.cpu()
    target_px = normalized_to_pixel(target, size)
    errors = point_errors(normalized_to_pixel(predicted, size), target_px, visible)
    side = max(size)
    nme = errors.nanmean(-1) / normalizers(target_px, visible, skeleton, size)
    return {
        "score": float(score(predicted, target, visible)),
        "rmse_px": float(rmse(errors)),
        "mre_px": float(errors.nanmean()),
        "nme": float(nme.nanmean()),
        "pck@5%": float(pck(errors, 0.05 * side)),
        "pck@10%": float(pck(errors, 0.10 * side)),
        "input_size": list(size),
        "images": len(errors),
        "points": int(visible.sum()),
        "per_point": {
            name: {
                "rmse_px": float(rmse(errors[:, k])),
                "mre_px": float(errors[:, k].nanmean()),
                "pck@5%": float(pck(errors[:, k], 0.05 * side)),
                "points": int(visible[:, k].sum()),
            }
            for k, name in enumerate(skeleton.names)
        },
    }


class KeypointMetrics(Metric):
    """Accumulates predictions; `compute` gives `evaluate_points` over all of them, across ranks too."""

    full_state_update = False
    predicted: list[Tensor]
    target: list[Tensor]
    visible: list[Tensor]

    def __init__(self, skeleton: Skeleton, size: tuple[int, int]) -> None:
        super().__init__()
        self.skeleton, self.size = skeleton, size
        for name in ("predicted", "target", "visible"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, predicted: Tensor, target: Tensor, visible: Tensor) -> None:
        """Normalised points (B, K, 2) twice, and bool (B, K)."""
        self.predicted.append(predicted.detach().float())
        self.target.append(target)
        self.visible.append(visible)

    def compute(self) -> dict[str, Any]:
        parts = [torch.cat(x) if isinstance(x, list) else x for x in (self.predicted, self.target, self.visible)]
        return evaluate_points(parts[0], parts[1], parts[2], self.skeleton, self.size)

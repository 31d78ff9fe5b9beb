"""Metrics that accumulate over batches and ranks, with torchmetrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from kpnet.core.skeleton import Skeleton
from kpnet.metrics import check_points, evaluate_points


class KeypointMetrics(Metric):
    """Accumulates predictions; `compute` returns `evaluate_points` of all of them, over all ranks."""

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
        """Add predicted and true points (B, K, 2), normalised, and which are visible, bool (B, K)."""
        check_points(predicted, target, visible)
        self.predicted.append(predicted.detach().float())
        self.target.append(target)
        self.visible.append(visible)

    def compute(self) -> dict[str, Any]:
        # A process without any data has nothing to concatenate.
        none = torch.zeros(0, len(self.skeleton), 2)
        states = (self.predicted, none), (self.target, none), (self.visible, none[..., 0].bool())
        parts = [(torch.cat(x) if x else empty) if isinstance(x, list) else x for x, empty in states]
        return evaluate_points(parts[0], parts[1], parts[2], self.skeleton, self.size)

"""A check that a network learns more than the mean of its targets."""

from __future__ import annotations

import torch
from torch import Tensor

from kpnet.evaluation.accumulators import WeightedMean


class SaturationCheck(torch.nn.Module):
    """Compares the network with the mean of the training targets at the end of the second epoch.

    It looks at training batches: averaged weights lag behind, and would raise false alarms.
    """

    sum: Tensor
    count: Tensor

    def __init__(self, points: int) -> None:
        super().__init__()
        self.register_buffer("sum", torch.zeros(points, 2))
        self.register_buffer("count", torch.zeros(points, 1))
        self.network, self.mean_face = WeightedMean(), WeightedMean()

    def update(self, epoch: int, predicted: Tensor, target: Tensor, visible: Tensor) -> None:
        """Find the mean face in epoch 0, compare with it in epoch 1; points (B, K, 2), visible (B, K)."""
        if epoch == 0:
            self.sum += (target * visible[..., None]).sum(0)
            self.count += visible.sum(0)[:, None]
        else:
            mean = self.sum / self.count.clamp(min=1)
            self.network.update((target - predicted).square().mean(-1), visible)
            self.mean_face.update((target - mean).square().mean(-1), visible)

"""Every loss, and points or logits to call it on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kpnet import losses

SIZE = (7, 9)
SIGMA = 0.8
POINT = list(losses.COORDINATE_LOSSES.values())
MAP = [*losses.SOFTMAX_LOSSES.values(), *losses.MAP_LOSSES.values()]
ALL = [*POINT, *(pytest.param(f, id=f.__name__) for f in MAP)]


def call(loss: Callable[..., Tensor], predicted: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return loss(predicted, target, weight, SIGMA) if loss in MAP else loss(predicted, target, weight)


def example(
    loss: Callable[..., Tensor], batch: int = 3, points: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions (points or logits), targets inside the image, weights of 1."""
    g = torch.Generator().manual_seed(seed)
    shape = SIZE if loss in MAP else (2,)
    predicted = torch.randn(batch, points, *shape, generator=g, dtype=dtype)
    target = torch.rand(batch, points, 2, generator=g, dtype=dtype) * 1.8 - 0.9
    return predicted, target, torch.ones(batch, points, dtype=dtype)

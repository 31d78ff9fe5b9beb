"""Small heads on a small pyramid, and features for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kpnet.heads import HEADS, Head, PyramidInfo

STRIDES = [4, 8, 16]
CHANNELS = [3, 4, 6]
SIZE = (48, 64)


def pyramid(size: tuple[int, int] = SIZE) -> PyramidInfo:
    return PyramidInfo(CHANNELS, STRIDES, [(size[0] // s, size[1] // s) for s in STRIDES])


def features(batch: int = 2, size: tuple[int, int] = SIZE, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, c, size[0] // s, size[1] // s, generator=g) for c, s in zip(CHANNELS, STRIDES, strict=True)
    ]


def build(spec: Any, keypoints: int = 5) -> Head:
    torch.manual_seed(0)
    return HEADS.build(spec, pyramid(), keypoints)


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()

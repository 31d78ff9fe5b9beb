"""Maps with one Gaussian, and every decoding of a map to a point."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kpnet import decoding
from kpnet.coordinates import normalized_to_pixel


def log_gaussian(size: tuple[int, int], xy: tuple[float, float], covariance: np.ndarray) -> Tensor:
    """Log of a Gaussian (1, 1, h, w) about a continuous cell, float64."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    d = np.stack([x - xy[0], y - xy[1]], -1)
    return torch.tensor(-0.5 * np.einsum("hwi,ij,hwj->hw", d, np.linalg.inv(covariance), d))[None, None]


def round_blob(size: tuple[int, int], xy: tuple[float, float], sigma: float) -> Tensor:
    return log_gaussian(size, xy, sigma**2 * np.eye(2))


Decoder = Callable[[Tensor], Tensor]
DECODERS: dict[str, Decoder] = {
    "soft_argmax2d": decoding.soft_argmax2d,
    "local_soft_argmax2d": lambda maps: decoding.local_soft_argmax2d(maps, 3),
    "argmax2d": decoding.argmax2d,
    "quarter_offset2d": decoding.quarter_offset2d,
    "dark_decode2d": decoding.dark_decode2d,
    "dark_decode2d, blurred": lambda maps: decoding.dark_decode2d(maps, blur=1.0),
}


def in_cells(xy: Tensor, size: tuple[int, int]) -> list[float]:
    return normalized_to_pixel(xy, size).flatten().tolist()


def local(logits: Tensor, temperature: float | Tensor) -> Tensor:
    return decoding.local_soft_argmax2d(logits, 1, temperature)

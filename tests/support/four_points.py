"""Predictions of four points on a few images, and their measures by numpy."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from kpnet.core.skeleton import Skeleton

SIZE = (96, 128)
PAIR = Skeleton(("left_eye", "right_eye", "nose", "chin"), (("left_eye", "right_eye"),), nme=("left_eye", "right_eye"))
PLAIN = Skeleton(PAIR.names)


def example(n: int = 7, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, targets (NaN or 0 where absent) and visibility; image 3 has no point, image 4 no left eye."""
    g = torch.Generator().manual_seed(seed)
    target = torch.rand(n, 4, 2, generator=g) * 1.8 - 0.9
    predicted = target + torch.randn(n, 4, 2, generator=g) * 0.1
    visible = torch.rand(n, 4, generator=g) > 0.3
    visible[3:4] = False
    visible[4:5, 0] = False
    target[~visible] = 0
    target[3:4] = torch.nan
    return predicted, target, visible


def by_numpy(predicted: Tensor, target: Tensor, visible: Tensor, pair: bool) -> dict[str, float]:
    """The same figures, image by image and point by point."""
    squares, radii, nme = [], [], []
    units = []
    for p, t, v in zip(predicted.double().numpy(), target.double().numpy(), visible.numpy(), strict=True):
        scale = np.array([SIZE[1], SIZE[0]]) / 2
        pixels = [(a - b) * scale for a, b in zip(p[v], t[v], strict=True)]
        units += [c**2 for a, b in zip(p[v], t[v], strict=True) for c in a - b]
        squares += [c**2 for d in pixels for c in d]
        here = [math.hypot(*d) for d in pixels]
        radii += here
        if here and not pair:
            nme.append(np.mean(here) / math.hypot(*SIZE))
        elif here and v[0] and v[1]:
            nme.append(np.mean(here) / math.hypot(*((t[0] - t[1]) * scale)))
    return {
        "score": 1 / (2 * np.mean(units)),
        "rmse_px": math.sqrt(np.mean(squares)),
        "mre_px": np.mean(radii),
        "nme": np.mean(nme),
        "nme_samples": len(nme),
        "failure_rate": np.mean([e > 0.1 for e in nme]),
        "pck@5%": np.mean([r <= 6.4 for r in radii]),
        "pck@10%": np.mean([r <= 12.8 for r in radii]),
        "points": len(radii),
    }

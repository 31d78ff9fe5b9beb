"""Plant wrong labels in faces15, and measure which of them `kpnet data doctor` finds, beside the shape alone.

python benchmarks/accuracy/doctor.py data.root=data/faces15 [--folds 5] [--threads 1] [SEED ...]
"""

from __future__ import annotations

import numpy as np

from kpnet.core.skeleton import Skeleton

SHARE = 0.05  # of the images get one error each
KINDS = ("swap", "order", "off", "face")
FAR = 8.0  # pixels that a point is moved by


def plant(xy: np.ndarray, skeleton: Skeleton, seed: int, side: int = 96) -> tuple[np.ndarray, dict[int, str]]:
    """Return points (N, K, 2) with errors in 5 % of the images, and the kind of the error of each such image.

    Half of the swaps exchange all pairs, half one pair; half of the orders are shifted, half are at random.
    """
    draws = np.random.default_rng(seed)
    chosen = draws.permutation(len(xy))[: round(SHARE * len(xy))]
    planted, kinds = xy.copy(), {}
    for number, index in enumerate(chosen.tolist()):
        kind, second = KINDS[number % 4], number // 4 % 2
        order = np.arange(len(skeleton))
        if kind == "swap":
            pairs = [tuple(map(skeleton.names.index, pair)) for pair in skeleton.pairs]
            for a, b in [pairs[draws.integers(len(pairs))]] if second else pairs:
                order[[a, b]] = order[[b, a]]
        elif kind == "order":
            order = draws.permutation(order) if second else np.roll(order, draws.integers(1, len(order)))
        planted[index] = xy[index, order]
        if kind == "face":
            planted[index] = xy[draws.choice(np.delete(np.arange(len(xy)), index))]
        while kind == "off":
            k, angle = draws.integers(len(skeleton)), draws.uniform(0, 2 * np.pi)
            moved = xy[index, k] + FAR * np.array([np.cos(angle), np.sin(angle)])
            if np.isfinite(moved).all() and (moved >= 0).all() and (moved <= side - 1).all():
                planted[index, k] = moved
                break
        kinds[index] = kind
    return planted, kinds

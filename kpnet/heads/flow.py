"""A small normalising flow over vectors in the plane."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ResidualFlow(nn.Module):
    """Density of errors in the plane, by affine couplings from a standard normal.

    RealNVP (Dinh et al. 2017, Density Estimation Using Real NVP). Residual log-likelihood estimation (Li et al. 2021)
    trains it beside the network; a prediction does not need it.

    Args:
        couplings: Affine couplings; they take turns in changing x and y.
        width: Width of the hidden layers of each coupling's networks.
    """

    def __init__(self, couplings: int = 6, width: int = 64) -> None:
        super().__init__()
        self.scales = nn.ModuleList(_mlp(width) for _ in range(couplings))
        self.shifts = nn.ModuleList(_mlp(width) for _ in range(couplings))

    def log_density(self, errors: Tensor) -> Tensor:
        """Return the log-density (N,) of errors (N, 2)."""
        parts = list(errors.unbind(-1))
        log_determinant = torch.zeros_like(parts[0])
        for i, (scale, shift) in enumerate(zip(self.scales, self.shifts, strict=True)):
            held = parts[i % 2][:, None]
            log_scale = torch.tanh(scale(held))[:, 0]
            parts[1 - i % 2] = (parts[1 - i % 2] - shift(held)[:, 0]) * torch.exp(-log_scale)
            log_determinant = log_determinant - log_scale
        squared = parts[0].square() + parts[1].square()
        return log_determinant - 0.5 * squared - math.log(2 * math.pi)


def _mlp(width: int) -> nn.Sequential:
    layers = nn.Sequential(
        nn.Linear(1, width), nn.LeakyReLU(), nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, 1)
    )
    nn.init.zeros_(layers[-1].weight)  # type: ignore[arg-type]
    nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]
    return layers

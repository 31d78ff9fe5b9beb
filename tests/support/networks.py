"""Small networks with the operations that a layer table and a receptive field have to follow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def course_network() -> nn.Sequential:
    """I2DL, exercise 9."""
    layers: list[nn.Module] = []
    for inp, out in ((1, 32), (32, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(inp, out, 3, 1, 1), nn.MaxPool2d(2, 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256 * 6 * 6, 256), nn.ReLU(), nn.Linear(256, 30))


class Decoder(nn.Module):
    """Branches, sums, concatenations and up-sampling as functions, a mapping of results."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(1, 4, 5, 2, 2), nn.Conv2d(4, 4, 3, 2, 1)
        self.up, self.lateral = nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.Conv2d(4, 4, 1)
        self.mix, self.mode = nn.Conv2d(8, 4, 3, padding=1, groups=4), mode

    def forward(self, image: Tensor) -> dict[str, list[Tensor]]:
        fine = self.fine(image)
        coarse = self.coarse(fine)
        up = F.interpolate(self.coarse(coarse), scale_factor=2, mode=self.mode) + coarse
        mixed = self.mix(torch.cat([self.up(up), self.lateral(fine)], 1))
        return {"maps": [mixed, F.interpolate(mixed, scale_factor=2, mode=self.mode)]}

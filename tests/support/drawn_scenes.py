"""Drawn images with 0 to N triangles of three blobs each, and what the head `centers` is to find in them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kpnet.coordinates import pixel_to_normalized

CORNERS = torch.tensor([[-1.0, -0.6], [1.0, -0.6], [0.0, 1.0]])  # of a triangle of radius 1
GREYS = (0.0, 1.0, 0.7)


def draw_scenes(images: int, most: int = 4, size: int = 128, seed: int = 0) -> dict[str, Tensor]:
    """A batch of scenes; image i has i % (most + 1) instances, which may touch."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size).float(), torch.arange(size).float(), indexing="ij")
    pixels = 0.3 + 0.02 * torch.randn(images, 1, size, size, generator=g)
    points, boxes = torch.zeros(images, most, 3, 2), torch.full((images, most, 4), torch.nan)
    for i in range(images):
        for m, (center, radius) in enumerate(places(i % (most + 1), size, g)):
            angle = torch.rand((), generator=g).item() - 0.5
            turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            corners = center + radius * CORNERS @ turn.T
            for (px, py), grey in zip(corners.tolist(), GREYS, strict=True):
                cover = torch.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * (0.15 * radius + 1) ** 2))
                pixels[i, 0] = pixels[i, 0] * (1 - cover) + grey * cover
            edges = torch.stack([corners.amin(0) - 0.2 * radius, corners.amax(0) + 0.2 * radius])
            points[i, m] = pixel_to_normalized(corners, (size, size))
            boxes[i, m] = pixel_to_normalized(edges, (size, size)).flatten()
    visible = boxes.isfinite().all(-1, keepdim=True).expand(-1, -1, 3).clone()
    return {"image": pixels, "boxes": boxes, "keypoints": points, "visible": visible, "weight": visible.float()}


def places(count: int, size: int, g: torch.Generator) -> list[tuple[Tensor, float]]:
    """Centres and radii whose circles overlap by less than a third of the sum of their radii."""
    found: list[tuple[Tensor, float]] = []
    while len(found) < count:
        radius = 8 + 8 * torch.rand((), generator=g).item()
        center = radius + 4 + (size - 2 * radius - 8) * torch.rand(2, generator=g)
        if all((center - other).norm() > 0.7 * (radius + r) for other, r in found):
            found.append((center, radius))
    return found

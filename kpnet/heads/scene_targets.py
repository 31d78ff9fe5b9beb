"""What the head `centers` is to learn from the instances of whole images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kpnet.coordinates import cell_centers, normalized_distance_to_pixel, normalized_to_pixel, pixel_to_normalized
from kpnet.rendering import render_highest2d

Scene = Mapping[str, Tensor]
"""A batch of scenes: `boxes` (B, M, 4), NaN in rows without an instance; `keypoints` (B, M, K, 2), `visible` and
`weight` (B, M, K); and where there are any, `ignored` (B, I, 4), NaN in rows without a region, and `partial` (B,)."""

SIDE_SIGMA, LEAST_SIGMA = 0.1, 0.6  # of the Gaussian about a centre: a fraction of the box's sides, and cells


def single_scene(target: Tensor, weight: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """Return the scenes of images with one instance each, whose box is that around its points.

    Args:
        target: Points (B, K, 2); anything where the weight is 0.
        weight: Weights (B, K).
        size: Size (h, w) of the maps in cells; no side of a box is shorter than two cells.

    Returns:
        The scenes. An image without points counts for nothing.
    """
    visible = weight > 0
    there = visible.any(-1)
    low = torch.where(visible[..., None], target, torch.inf).amin(1)
    high = torch.where(visible[..., None], target, -torch.inf).amax(1)
    least = target.new_tensor((2 / size[1], 2 / size[0]))
    grown = (least - (high - low) / 2).clamp(min=0)
    boxes = torch.where(there[:, None], torch.cat([low - grown, high + grown], -1), torch.nan)
    points = torch.where(visible[..., None], target, 0)
    scene = {"boxes": boxes, "keypoints": points, "visible": visible, "weight": weight}
    return {name: value[:, None] for name, value in scene.items()} | {"partial": ~there}


def counts(scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the terms of a loss are means over.

    Args:
        scene: A batch of scenes.

    Returns:
        Three scalars. The instances, where an image without any counts as one, unless it is partly labelled; the
        instances; and the visible points.
    """
    there = scene["boxes"].isfinite().all(-1)
    number = there.sum(-1)
    empty = number == 0
    if "partial" in scene:
        empty = empty & ~scene["partial"]
    visible = scene["visible"] & (scene["weight"] > 0) & there[..., None]
    return number.sum() + empty.sum(), number.sum(), visible.sum()


class SceneTargets:
    """The targets of a batch of scenes on maps of one size; M instances of K points in each of B images.

    Args:
        scene: The scenes.
        size: Size (h, w) of the maps in cells.
        dtype: The dtype of the targets.

    Attributes:
        there: Which rows are instances, bool (B, M).
        boxes: Boxes (B, M, 4), normalised; 0 where there is none.
        points: Points (B, M, K, 2), normalised; 0 where they are not visible.
        visible: Which points are labelled and count, bool (B, M, K).
        weight: Weights (B, M, K) of the points, 0 where they are not visible.
        share: Weights (B, M) of the instances: the mean weight of their points, 1 for a box without points.
        half: Half of the longer side (B, M) of each box, at least 1, in cells.
        cell: Whole x, y (B, M, 2) of the cell that holds each centre.
        near: Whole x, y (B, M, 9, 2) of that cell, the first, and its neighbours, those off the map moved onto it.
        own: Which of `near` are the instance's own, bool (B, M, 9): those on the map that have no nearer centre.
    """

    def __init__(self, scene: Scene, size: tuple[int, int], dtype: torch.dtype) -> None:
        boxes = scene["boxes"].to(dtype)
        self.size, self.scene = size, scene
        self.there = boxes.isfinite().all(-1)
        self.boxes = torch.where(self.there[..., None], boxes, 0)
        self.visible = scene["visible"] & (scene["weight"] > 0) & self.there[..., None]
        self.points = torch.where(self.visible[..., None], scene["keypoints"].to(dtype), 0)
        self.weight = torch.where(self.visible, scene["weight"].to(dtype), 0)
        number = self.visible.sum(-1)
        mean = torch.where(number > 0, self.weight.sum(-1) / number.clamp(min=1), 1)
        self.share = torch.where(self.there, mean, 0)
        low, high = self.boxes.unflatten(-1, (2, 2)).unbind(-2)
        self.centers = (low + high) / 2
        self.sides = normalized_distance_to_pixel(high - low, size)
        self.half = (self.sides.amax(-1) / 2).clamp(min=1)
        self._find_cells()

    def _find_cells(self) -> None:
        height, width = self.size
        center = normalized_to_pixel(self.centers, self.size)
        self.cell = cells_at(self.centers, self.size)
        steps = torch.tensor([0, -1, 1], device=center.device)
        around = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).flatten(0, 1)
        near = self.cell[:, :, None] + around
        limit = torch.stack([steps.new_full((), width - 1), steps.new_full((), height - 1)])
        self.near = near.clamp(min=0).minimum(limit)
        distance = (near[:, :, :, None] - center[:, None, None]).square().sum(-1)  # (B, M, 9, M)
        distance = torch.where(self.there[:, None, None], distance, torch.inf)
        # Of instances with one centre the largest has the cell.
        tied = distance <= distance.amin(-1, keepdim=True) + 1e-6
        area = self.sides.prod(-1)
        largest = torch.where(tied, area[:, None, None], -1).amax(-1)
        mine = tied.diagonal(dim1=1, dim2=3).movedim(-1, 1) & (area[..., None] >= largest)
        self.own = mine & self.there[..., None] & (self.near == near).all(-1)

    def centers_map(self) -> tuple[Tensor, Tensor]:
        """Return targets and weights (B, 1, h, w) of the map of centres: 1 at a peak, Gaussians about it."""
        sigma = (SIDE_SIGMA * self.sides).clamp(min=LEAST_SIGMA)
        centers = torch.where(self.there[..., None], self.centers, torch.inf)
        maps = render_highest2d(centers[:, :, None], self.size, sigma[:, :, None])
        index = self.cell[..., 1] * self.size[1] + self.cell[..., 0]
        peaks = torch.zeros_like(maps).flatten(1).scatter_reduce(1, index, self.share.to(maps), "amax").view(maps.shape)
        return torch.where(peaks > 0, 1, maps), torch.where(peaks > 0, peaks, self._background())

    def _background(self) -> Tensor:
        """Return the weights (B, 1, h, w) of cells that are no peaks.

        They are 0 in ignored regions and, where an image is partly labelled, everywhere but in the boxes of instances.
        """
        number = self.there.sum(-1)
        weight = torch.where(number > 0, self.share.sum(-1) / number.clamp(min=1), 1)[:, None, None, None]
        counted = torch.ones_like(weight, dtype=torch.bool)
        if "partial" in self.scene:
            labelled = self._inside(self.boxes, self.there).any(1, keepdim=True)
            counted = labelled | ~self.scene["partial"][:, None, None, None]
        if "ignored" in self.scene:
            ignored = self.scene["ignored"].to(self.boxes)
            given = ignored.isfinite().all(-1)
            inside = self._inside(torch.where(given[..., None], ignored, 0), given)
            counted = counted & ~inside.any(1, keepdim=True)
        return torch.where(counted, weight, 0)

    def _inside(self, boxes: Tensor, there: Tensor) -> Tensor:
        """Return which cells have their centre in boxes (B, N, 4), bool (B, N, h, w)."""
        y, x = (cell_centers(n, device=boxes.device, dtype=boxes.dtype) for n in self.size)
        columns = (x >= boxes[..., :1]) & (x <= boxes[..., 2:3]) & there[..., None]
        rows = (y >= boxes[..., 1:2]) & (y <= boxes[..., 3:])
        return rows[..., :, None] & columns[..., None, :]


def cells_at(xy: Tensor, size: tuple[int, int]) -> Tensor:
    """Return whole x, y (..., 2) of the cells of a map (h, w) that hold normalised points, or are nearest to them."""
    cells = (normalized_to_pixel(xy.detach(), size).nan_to_num() + 0.5).floor().long().clamp(min=0)
    limit = torch.stack([cells.new_full((), size[1] - 1), cells.new_full((), size[0] - 1)])
    return cells.minimum(limit)


def cell_positions(cell: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return the normalised centres (..., 2) of cells."""
    return pixel_to_normalized(cell.to(dtype), size)

"""Augmentation of whole batches on the training's device: the transforms of a config that need no image on the CPU.

Arguments and meaning are albumentations'. What follows one another without changing pixel values in between moves an
image once: matrices from pixels to pixels (centres at integers) are multiplied, and one `grid_sample` resamples. The
same matrix moves the points, and a negative determinant swaps left and right labels. No step waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kpnet.coordinates import Size, inside, normalized_to_pixel, project_batch
from kpnet.core.skeleton import Skeleton
from kpnet.data.transforms.augment import Augment, Spec
from kpnet.data.transforms.device_steps import BORDERS, BUILDERS, NO_BORDER, Draws, Hole, Move, Paint
from kpnet.data.transforms.moved_points import kept_points, move_points


class DeviceAugment:
    """The last transforms of `data.transforms`, for whole batches on their device.

    The transforms run in the order of the config, those that stay on the CPU first: so all that come before the last of
    them stay there, too. `split` says which. Pixel values are not rounded, and a point that leaves the image is absent.

    Args:
        transforms: The config's transforms, as `Augment` takes them.
        skeleton: The keypoints, whose left/right pairs swap when an image is mirrored.
        size: Height and width of the images.
        where: The key of the config that holds the transforms, for messages.

    Attributes:
        on_cpu: The transforms that stay on the CPU, for `Augment`.
        missing: Names of those that the device version does not have, or not with their arguments.

    Raises:
        KpnetError: As `Augment` raises it.

    Example:
        ```python
        augment = DeviceAugment(["HorizontalFlip", {"Rotate": {"limit": 30}}], skeleton, (96, 96))
        batch = augment(batch, torch.Generator(device).manual_seed(0))
        ```
    """

    def __init__(
        self, transforms: Sequence[Spec], skeleton: Skeleton, size: Size, *, where: str = "data.transforms"
    ) -> None:
        checked = Augment(transforms, skeleton, where=where)
        self.where, self.size, self.permutation = where, size, list(skeleton.flip_permutation)
        steps = [_build(step, size, skeleton.can_mirror) for step in checked.steps]
        self.missing = [each.name for each, step in zip(checked.steps, steps, strict=True) if step is None]
        start = 1 + max((i for i, step in enumerate(steps) if step is None), default=-1)
        self.on_cpu: list[Spec] = list(transforms[:start])
        self.names = [step.name for step in checked.steps[start:]]
        self.steps = [step for step in steps[start:] if step is not None]

    def describe(self) -> str | None:
        """Return a line on what stays on the CPU, or None if nothing does."""
        if not self.missing:
            return None
        before = len(self.on_cpu) - len(self.missing)
        rest = f", and with them {before} that come before the last of them in {self.where}" if before else ""
        return f"data.device_transforms: on the CPU stay {', '.join(self.missing)}{rest}"

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """Augment a batch.

        Args:
            batch: A batch of a `KeypointDataset`: `image` float (B, C, H, W), or (B, T, C, H, W) of clips, whose frames
                move alike; `keypoints`, `visible` and `weight`, and `present` where the model learns it.
            generator: What the draws follow from, on the device of the batch.

        Returns:
            The batch with these replaced. A point under a hole is not `present`, and stays `visible`.
        """
        image = batch["image"]
        with torch.autocast(image.device.type, enabled=False):
            frames = image if image.ndim == 5 else image[:, None]
            draws = Draws(len(frames), sum(step.columns for step in self.steps), generator)
            frames, matrix, holes = self._run(frames.float(), draws)
            moved = self._move(self._covered(batch, holes), matrix) if self.steps else {}
        return {**batch, **moved, "image": frames.reshape(image.shape)}

    def _run(self, frames: Tensor, draws: Draws) -> tuple[Tensor, Tensor | None, list[tuple[Hole, Tensor | None]]]:
        """Return the images, the matrices (B, 3, 3) by which points move, and the holes with those before each."""
        total: Tensor | None = None
        holes: list[tuple[Hole, Tensor | None]] = []
        pending: Tensor | None = None  # moves that have not resampled the images yet
        border: tuple[int, float] | None = None
        for step in self.steps:
            if isinstance(step, Paint):
                frames, pending, border = _resample(frames, pending, border), None, None
                frames = step.paint(frames, draws)
                holes += [(each, total) for each in draws.take_holes()]
                continue
            if None not in (border, step.border) and border != step.border:
                frames, pending, border = _resample(frames, pending, border), None, None
            matrices = step.matrices(draws)
            pending = matrices if pending is None else matrices @ pending
            total = matrices if total is None else matrices @ total
            border = border or step.border
        return _resample(frames, pending, border), total, holes

    def _covered(self, batch: dict[str, Any], holes: list[tuple[Hole, Tensor | None]]) -> dict[str, Any]:
        """Return a batch whose points under a hole are not present."""
        if "present" not in batch or not holes:
            return batch
        pixels = normalized_to_pixel(batch["keypoints"], self.size)
        present = batch["present"]
        for hole, matrix in holes:
            at = pixels if matrix is None else project_batch(pixels, matrix.to(pixels.dtype))[0]
            present = torch.where(batch["visible"] & hole.covers(at), 0, present)
        return {**batch, "present": present}

    def _move(self, batch: dict[str, Any], matrix: Tensor | None) -> dict[str, Tensor]:
        """Return the moved points, swapped where the image is mirrored, and absent where they are outside of it.

        As on the CPU, what was outside is absent after any transform.
        """
        if matrix is None:
            return kept_points(batch, inside(normalized_to_pixel(batch["keypoints"], self.size), self.size))
        mirrored = matrix[:, 0, 0] * matrix[:, 1, 1] < matrix[:, 0, 1] * matrix[:, 1, 0]
        return move_points(batch, matrix, mirrored, self.permutation, self.size)


def _build(step: Any, size: Size, can_mirror: bool) -> Move | Paint | None:
    """Return a step of `Augment` as one for the device; None if there is none."""
    build = BUILDERS.get(step.name)
    if build is None:
        return None
    shear = getattr(step.transform, "shear", None)
    if shear is not None and not can_mirror:  # which can mirror, and here nothing would raise
        tangents = [max(abs(math.tan(math.radians(bound))) for bound in shear[axis]) for axis in "xy"]
        if tangents[0] * tangents[1] >= 1:
            return None
    return build(step.transform, size)


def _resample(frames: Tensor, matrix: Tensor | None, border: tuple[int, float] | None) -> Tensor:
    """Move images (B, T, C, H, W) by matrices (B, 3, 3) from pixels to pixels."""
    if matrix is None:
        return frames
    mode, fill = border or NO_BORDER
    padding, centres = BORDERS[mode]
    (a, b, x), (c, d, y) = (row.unbind(-1) for row in matrix[:, :2].unbind(1))
    scale = 1 / (a * d - b * c)
    a, b, c, d = d * scale, -b * scale, -c * scale, a * scale  # the inverse, without asking whether there is one
    height, width = frames.shape[-2:]
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    from_x = a * (middle_x - x) + b * (middle_y - y)  # where the middle comes from, in pixels
    from_y = c * (middle_x - x) + d * (middle_y - y)
    flat = frames.flatten(1, 2)
    # As grid_sample counts: (2 x + edge) / size - 1. A sum for rows and one for columns, in place: `affine_grid`
    # multiplies matrices, which takes three times as long on a CPU.
    edge = 0 if centres else 1
    columns = torch.arange(width, device=flat.device) - middle_x
    rows = torch.arange(height, device=flat.device) - middle_y
    grid = torch.empty(len(flat), height, width, 2, device=flat.device)
    for axis, (along_x, along_y, start, size) in enumerate(((a, b, from_x, width), (c, d, from_y, height))):
        factor = 2 / (size - 1 + edge)
        down = (along_y[:, None] * rows + start[:, None]) * factor + (factor * edge / 2 - 1)
        torch.add(down[:, :, None], (along_x * factor)[:, None, None] * columns, out=grid[..., axis])
    shifted = flat - fill if fill else flat
    moved = F.grid_sample(shifted, grid, padding_mode=padding, align_corners=centres)
    return (moved + fill if fill else moved).view(frames.shape)

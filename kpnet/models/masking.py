"""Noise and hidden patches: what a pretraining does to the images that its encoder sees."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kpnet.config.pretraining import Mask
from kpnet.core.errors import KpnetError


def corrupt(
    images: Tensor, noise: float, mask: Mask | None, blank: Tensor, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Add normal noise to images, then blank some of their patches.

    Args:
        images: Images (B, C, H, W).
        noise: Standard deviation of the noise.
        mask: Side of the patches, and the ratio that is blanked: round(ratio * patches) random ones in each image.
            None: no patch.
        blank: Value of blanked patches, broadcast to (B, C, H, W).
        generator: Source of the random numbers.

    Returns:
        Images (B, C, H, W), and which of their pixels are blanked (B, 1, H, W), bool.
    """
    device, size = images.device, images.shape[-2:]
    if noise:
        images = images + noise * torch.randn(images.shape, generator=generator, device=device, dtype=images.dtype)
    if mask is None:
        return images, torch.zeros(len(images), 1, *size, dtype=torch.bool, device=device)
    rows, columns = _patches(size, mask)
    order = torch.rand(len(images), rows * columns, generator=generator, device=device).argsort(1).argsort(1)
    blanked = (order < _blanked(size, mask)).view(-1, 1, rows, columns)
    blanked = blanked.repeat_interleave(mask.patch, 2).repeat_interleave(mask.patch, 3)[..., : size[0], : size[1]]
    return torch.where(blanked, blank, images), blanked


def check_mask(size: tuple[int, int], mask: Mask | None) -> None:
    """Raise KpnetError where a mask blanks no patch, or all of them."""
    if mask is not None:
        rows, columns = _patches(size, mask)
        blanked = _blanked(size, mask)
        if not 0 < blanked < rows * columns:
            raise KpnetError(
                f"train.mask: a ratio of {mask.ratio:g} blanks {blanked} of the {rows * columns} patches of "
                f"{mask.patch} pixels in an image of {size[0]}x{size[1]}; expected some, not all: give a smaller patch"
            )


def _patches(size: Any, mask: Mask) -> tuple[int, int]:
    return math.ceil(size[0] / mask.patch), math.ceil(size[1] / mask.patch)


def _blanked(size: Any, mask: Mask) -> int:
    return round(mask.ratio * math.prod(_patches(size, mask)))

"""Noise and hidden patches: how many, where, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch

from kpnet.config.pretraining import Mask
from kpnet.models.masking import corrupt


@pytest.mark.parametrize(("share", "patch"), [(0.25, 4), (0.5, 8), (0.9, 2), (0.3, 5), (0.6, 8)])
def test_a_mask_blanks_its_share_of_patches_and_nothing_else(share: float, patch: int) -> None:
    images = torch.rand(6, 3, 16, 24)
    blank = torch.tensor([2.0, 3.0, 4.0]).view(1, 3, 1, 1)
    masked, hidden = corrupt(images, 0.0, Mask(ratio=share, patch=patch), blank)
    blanked = (masked == blank).all(1)
    assert torch.equal(hidden[:, 0], blanked)
    assert torch.equal(masked, torch.where(blanked[:, None], blank, images))
    rows, columns = math.ceil(16 / patch), math.ceil(24 / patch)
    seen = []
    for image in blanked:
        cells = [image[y : y + patch, x : x + patch] for y in range(0, 16, patch) for x in range(0, 24, patch)]
        assert all(cell.all() or not cell.any() for cell in cells)
        seen.append(tuple(bool(cell.all()) for cell in cells))
        assert sum(seen[-1]) == round(share * rows * columns)
    assert len(set(seen)) > 1  # other patches in each image


def test_noise_is_normal_and_of_its_sigma() -> None:
    images = torch.rand(8, 1, 64, 64)
    generator = torch.Generator().manual_seed(0)
    noise = corrupt(images, 0.2, None, torch.zeros(1), generator)[0] - images
    assert noise.mean().abs() < 0.01
    assert noise.std().item() == pytest.approx(0.2, rel=0.02)
    assert (noise.abs() < 0.2).float().mean().item() == pytest.approx(0.683, abs=0.01)
    same, hidden = corrupt(images, 0.0, None, torch.zeros(1))
    assert torch.equal(same, images)
    assert hidden.shape == (8, 1, 64, 64)
    assert not hidden.any()

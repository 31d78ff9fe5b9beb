"""The autoencoder: what goes through the latent, interpolation, noise and masks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.stripes import CONV, MLP, SIDE

from kpnet.config.pretraining import AutoencoderConfig, Mask
from kpnet.core.errors import KpnetError
from kpnet.models.autoencoder import Autoencoder, corrupt, load_autoencoder


def test_every_weight_learns_and_the_finer_maps_are_not_seen() -> None:
    """Skip connections would let the encoder pass the image by its latent."""
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(backbone=CONV, in_channels=1, input_size=(SIDE, SIDE))).eval()
    images = torch.rand(2, 1, SIDE, SIDE)
    model(images).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    coarsest = model.backbone((images - 0.5) / 0.25)[-1]
    assert torch.equal(model.encode(images), coarsest)
    assert torch.equal(model.decode(coarsest), model(images))


def test_images_are_normalised_and_their_reconstruction_is_not() -> None:
    config = AutoencoderConfig(backbone=CONV, in_channels=2, input_size=(SIDE, SIDE), mean=[0.3, 0.4], std=[0.7])
    model = Autoencoder(config).eval()
    images = torch.rand(1, 2, SIDE, SIDE)
    normalised = (images - torch.tensor([0.3, 0.4]).view(1, 2, 1, 1)) / 0.7
    assert torch.equal(model.encode(images), model.backbone(normalised)[-1])
    model.decoder["image"] = torch.nn.Identity()
    torch.testing.assert_close(model.decode(normalised), images)


@pytest.mark.parametrize("latent", [None, 5])
@pytest.mark.parametrize(
    ("backbone", "size", "channels"),
    [(CONV, (16, 24), 1), (CONV, (17, 18), 3), ("test_resnet", (64, 64), 1), (MLP, (16, 16), 3)],
)
def test_any_backbone_gives_back_the_images_size(backbone: Any, size: Any, channels: int, latent: int | None) -> None:
    config = AutoencoderConfig(backbone=backbone, in_channels=channels, input_size=size, latent=latent)
    model = Autoencoder(config)
    images = torch.rand(2, channels, *size)
    assert model(images).shape == images.shape
    if latent is not None:
        assert model.encode(images).shape == (2, latent)
    with pytest.raises(KpnetError, match="expected images"):
        model(torch.rand(2, channels, 40, 40))


@pytest.mark.parametrize("backbone", [CONV, MLP], ids=["conv_sandwich", "mlp"])
def test_interpolation_begins_and_ends_at_the_two_reconstructions(backbone: Any) -> None:
    torch.manual_seed(0)
    model = Autoencoder(AutoencoderConfig(backbone=backbone, in_channels=1, input_size=(SIDE, SIDE))).eval()
    first, second = torch.rand(2, 3, 1, SIDE, SIDE).unbind()
    between = model.interpolate(first, second, 5)
    assert between.shape == (5, 3, 1, SIDE, SIDE)
    assert torch.equal(between[0], model(first))
    assert torch.equal(between[-1], model(second))
    half = (model.encode(first) + model.encode(second)) / 2
    torch.testing.assert_close(between[2], model.decode(half))
    torch.testing.assert_close(model.interpolate(second, first, 5).flip(0), between)


# Noise and masks


@pytest.mark.parametrize(("share", "patch"), [(0.25, 4), (0.5, 8), (0.9, 2), (0.3, 5), (0.6, 8)])
def test_a_mask_blanks_its_share_of_patches_and_nothing_else(share: float, patch: int) -> None:
    images = torch.rand(6, 3, 16, 24)
    blank = torch.tensor([2.0, 3.0, 4.0]).view(1, 3, 1, 1)
    masked = corrupt(images, 0.0, Mask(ratio=share, patch=patch), blank)
    blanked = (masked == blank).all(1)
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
    noise = corrupt(images, 0.2, None, torch.zeros(1), generator) - images
    assert noise.mean().abs() < 0.01
    assert noise.std().item() == pytest.approx(0.2, rel=0.02)
    assert (noise.abs() < 0.2).float().mean().item() == pytest.approx(0.683, abs=0.01)
    assert torch.equal(corrupt(images, 0.0, None, torch.zeros(1)), images)


def test_an_autoencoder_of_an_older_kpnet_is_refused_with_the_new_key(tmp_path: Path) -> None:
    Autoencoder(AutoencoderConfig(backbone="conv_sandwich", in_channels=1)).save(tmp_path)
    path = tmp_path / "model.yaml"
    path.write_text(path.read_text().replace("input:", "stem:"))
    with pytest.raises(KpnetError, match=r'model\.yaml: unknown key "stem": it is called "input" now$'):
        load_autoencoder(tmp_path)

"""The autoencoder: what goes through the latent, and interpolation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.stripes import CONV, MLP, SIDE

from kpnet.config.pretraining import PretrainModelConfig
from kpnet.core.errors import KpnetError
from kpnet.models.autoencoder import Autoencoder, load_autoencoder
from kpnet.models.masked_images import MaskedImageModel


def test_every_weight_learns_and_the_finer_maps_are_not_seen() -> None:
    """Skip connections would let the encoder pass the image by its latent."""
    torch.manual_seed(0)
    model = Autoencoder(PretrainModelConfig(backbone=CONV, in_channels=1, input_size=(SIDE, SIDE))).eval()
    images = torch.rand(2, 1, SIDE, SIDE)
    model(images).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    coarsest = model.backbone((images - 0.5) / 0.25)[-1]
    assert torch.equal(model.encode(images), coarsest)
    assert torch.equal(model.decode(coarsest), model(images))


def test_images_are_normalised_and_their_reconstruction_is_not() -> None:
    config = PretrainModelConfig(backbone=CONV, in_channels=2, input_size=(SIDE, SIDE), mean=[0.3, 0.4], std=[0.7])
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
    config = PretrainModelConfig(backbone=backbone, in_channels=channels, input_size=size, latent=latent)
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
    model = Autoencoder(PretrainModelConfig(backbone=backbone, in_channels=1, input_size=(SIDE, SIDE))).eval()
    first, second = torch.rand(2, 3, 1, SIDE, SIDE).unbind()
    between = model.interpolate(first, second, 5)
    assert between.shape == (5, 3, 1, SIDE, SIDE)
    assert torch.equal(between[0], model(first))
    assert torch.equal(between[-1], model(second))
    half = (model.encode(first) + model.encode(second)) / 2
    torch.testing.assert_close(between[2], model.decode(half))
    torch.testing.assert_close(model.interpolate(second, first, 5).flip(0), between)


def test_an_autoencoder_of_an_older_kpnet_is_refused_with_the_new_key(tmp_path: Path) -> None:
    Autoencoder(PretrainModelConfig(backbone="conv_sandwich", in_channels=1)).save(tmp_path)
    path = tmp_path / "model.yaml"
    path.write_text(path.read_text().replace("input:", "stem:"))
    with pytest.raises(KpnetError, match=r'model\.yaml: unknown key "stem": it is called "input" now$'):
        load_autoencoder(tmp_path)


def test_a_network_of_another_method_is_refused(tmp_path: Path) -> None:
    MaskedImageModel(PretrainModelConfig(backbone="conv_sandwich", method="masked", in_channels=1)).save(tmp_path)
    with pytest.raises(KpnetError, match="holds a network of method masked, not an autoencoder"):
        load_autoencoder(tmp_path)

"""Masked-image modelling: the loss is that of the hidden pixels alone, and every backbone with maps learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.stripes import CONV, MLP, SIDE

from kpnet.config.pretraining import Mask, PretrainModelConfig
from kpnet.core.errors import KpnetError
from kpnet.models.masked_images import MaskedImageModel
from kpnet.models.masking import corrupt


def model(backbone: Any = CONV, **values: Any) -> MaskedImageModel:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"in_channels": 1, "input_size": (SIDE, SIDE), "method": "masked", **values}
    return MaskedImageModel(PretrainModelConfig(backbone=backbone, **settings))


def test_the_loss_is_the_mean_absolute_error_of_the_hidden_pixels() -> None:
    """All pixels are predicted as 0: the hidden ones are 0.9 and 0.2 off, and the visible ones do not count."""
    network = model()
    network.forward = torch.zeros_like  # type: ignore[method-assign, assignment]
    images, hidden = torch.rand(2, 1, SIDE, SIDE), torch.zeros(2, 1, SIDE, SIDE, dtype=torch.bool)
    hidden[0, :, :4, :4] = hidden[1, :, 8:, :] = True
    images[0, :, :4, :4], images[1, :, 8:, :] = 0.9, 0.2
    expected = (16 * 0.9 + 128 * 0.2) / (16 + 128)
    assert network.loss(images, images, hidden).item() == pytest.approx(expected)
    changed = torch.where(hidden, images, 7.0)
    assert network.loss(changed, images, hidden).item() == pytest.approx(expected)
    changed = torch.where(hidden, images + 0.1, images)
    assert network.loss(changed, images, hidden).item() == pytest.approx(expected + 0.1)


def test_a_prediction_does_not_depend_on_what_is_hidden() -> None:
    network = model().eval()
    images, mask = torch.rand(2, 1, SIDE, SIDE), Mask(ratio=0.5, patch=4)
    seen, hidden = corrupt(images, 0.0, mask, network.mean, torch.Generator().manual_seed(0))
    others = torch.where(hidden, torch.rand_like(images), images)
    again, _ = corrupt(others, 0.0, mask, network.mean, torch.Generator().manual_seed(0))
    assert torch.equal(network(seen), network(again))
    assert network.loss(images, seen, hidden) != network.loss(others, again, hidden)


@pytest.mark.parametrize(
    ("backbone", "size", "channels"),
    [
        (CONV, (16, 24), 1),
        (CONV, (17, 18), 3),
        ({"name": "conv_sandwich", "channels": [4, 4, 4, 8]}, (40, 36), 1),
        ("test_resnet", (64, 64), 3),
        ("test_convnext", (64, 64), 3),
        ("test_vit", (64, 64), 1),
        ("torchvision/mobilenet_v3_small", (64, 64), 3),
    ],
    ids=["conv_sandwich", "odd", "stride 4", "resnet", "convnext", "vit", "torchvision"],
)
def test_every_family_learns_in_all_of_its_stages(backbone: Any, size: Any, channels: int) -> None:
    network = model(backbone, input_size=size, in_channels=channels)
    images = torch.rand(2, channels, *size)
    seen, hidden = corrupt(images, 0.0, Mask(ratio=0.6, patch=16 if size[0] > 40 else 4), network.mean)
    assert network(seen).shape == images.shape
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    losses = []
    for _ in range(4):
        losses.append(network.loss(images, seen, hidden))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    unused = [name for name, p in network.named_parameters() if p.grad is None]
    assert not unused, unused


def test_overhanging_patches_count_where_the_image_is() -> None:
    """Patches of 8 in an image of 17x18 pixels: the last row of patches is one pixel high."""
    network = model(input_size=(17, 18))
    network.forward = torch.zeros_like  # type: ignore[method-assign, assignment]
    images = torch.full((3, 1, 17, 18), 0.25)
    _, hidden = corrupt(images, 0.0, Mask(ratio=0.6, patch=8), network.mean)
    assert network.loss(images, images, hidden).item() == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("backbone", "values", "words"),
    [
        (MLP, {}, r"model\.method: masked: the backbone gives one vector .* use method autoencoder"),
        (CONV, {"latent": 4}, r"model\.latent: method masked has no latent vector: leave it out"),
    ],
)
def test_what_it_cannot_take(backbone: Any, values: dict[str, Any], words: str) -> None:
    with pytest.raises(KpnetError, match=words):
        model(backbone, **values)

"""The errors of reconstructions, by hand, and what is drawn of them."""

from __future__ import annotations

import pytest
import torch
from support.stripes import CONV, SIDE
from torch import Tensor

from kpnet.config.pretraining import Mask, PretrainModelConfig
from kpnet.models.autoencoder import Autoencoder
from kpnet.models.masked_images import MaskedImageModel
from kpnet.training import reconstructions
from kpnet.training.reconstructions import draw, measure

CONFIG = PretrainModelConfig(backbone=CONV, in_channels=1, input_size=(SIDE, SIDE))
DATASET = [{"image": torch.full((1, SIDE, SIDE), grey)} for grey in (0.2, 0.6)]


def test_an_autoencoder_measured_by_hand() -> None:
    """Two flat images, 0.2 and 0.6, are given back as 0.5: 0.09 and 0.01; their mean 0.4 is 0.04 off."""
    model = Autoencoder(CONFIG)
    model.forward = lambda images: torch.full_like(images, 0.5)  # type: ignore[method-assign]
    found = measure(model, DATASET, batch_size=1)  # type: ignore[arg-type]
    assert found == {"mse": pytest.approx(0.05), "mean_image_mse": pytest.approx(0.04)}


def test_hidden_patches_measured_by_hand() -> None:
    """Visible pixels are given back wrong and do not count; hidden ones as 0.5: 0.3 and 0.1 off, their mean 0.2."""
    model = MaskedImageModel(CONFIG)
    model.forward = lambda seen: torch.where(seen == model.mean, 0.5, 9.0)  # type: ignore[method-assign, assignment]
    found = measure(model, DATASET, Mask(ratio=0.5, patch=4), batch_size=1)  # type: ignore[arg-type]
    assert found == {"hidden_l1": pytest.approx(0.2), "mean_image_l1": pytest.approx(0.2)}


@pytest.mark.parametrize(("model", "key"), [(Autoencoder, "mse"), (MaskedImageModel, "hidden_l1")])
def test_one_image_is_not_compared_with_its_own_mean(model: type[Autoencoder | MaskedImageModel], key: str) -> None:
    found = measure(model(CONFIG), DATASET[:1], Mask(ratio=0.5, patch=4))  # type: ignore[arg-type]
    assert list(found) == [key]


def test_only_hidden_patches_are_drawn_as_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Tensor] = []
    monkeypatch.setattr(reconstructions.plot, "draw_mosaic", lambda rows, *_, **__: drawn.append(rows))
    images, hidden = torch.rand(2, 1, SIDE, SIDE), torch.zeros(2, 1, SIDE, SIDE, dtype=torch.bool)
    hidden[..., :8] = True
    model = MaskedImageModel(CONFIG)
    assert list(draw(model, images, images.masked_fill(hidden, 0.5), hidden)) == ["reconstructions"]
    assert torch.equal(drawn[0][1][..., 8:], images[..., 8:])
    assert not torch.isclose(drawn[0][1][..., :8], images[..., :8]).all()
    assert list(draw(Autoencoder(CONFIG), images, images, hidden)) == ["reconstructions", "interpolations"]

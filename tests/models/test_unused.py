"""Parameters that the head does not depend on: an HRNet's for a head that reads its coarsest map alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kpnet import build_model, load_model
from kpnet.models.memory import check_training_memory
from kpnet.models.unused import find_unused


@pytest.mark.parametrize(("head", "unused"), [("regression", 66), ("heatmap", 0)])
def test_they_are_frozen_when_the_model_is_built(head: str, unused: int) -> None:
    """The gradients of a training step are the reference."""
    model = build_model(backbone="hrnet_w18_small", head=head, num_keypoints=3, input_size=64)
    model.output(torch.rand(2, 3, 64, 64)).xy.sum().backward()
    without = {name for name, parameter in model.backbone.named_parameters() if parameter.grad is None}
    assert model.unused_parameters == without
    assert len(without) == unused
    model.freeze_backbone()
    model.unfreeze_backbone()
    frozen = {name for name, parameter in model.backbone.named_parameters() if not parameter.requires_grad}
    assert frozen == without


class Own(nn.Module):
    """A network that looks at values, which shapes alone do not have; part of it does nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Conv2d(1, 4, 3, stride=4, padding=1), nn.Conv2d(1, 4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.used(images)
        return maps if images.sum() < 1e9 else self.idle(images)


def test_a_network_that_needs_values_stays_as_it_is() -> None:
    model = build_model(backbone=Own(), head="regression", num_keypoints=3, in_channels=1, input_size=32)
    assert find_unused(model) == []
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_that_is_loaded_is_not_searched(tmp_path: Path) -> None:
    build_model(backbone="conv_sandwich", head="regression", num_keypoints=3, in_channels=1).save(tmp_path)
    assert load_model(tmp_path).unused_parameters == frozenset()


class Noisy(nn.Module):
    """A network that has a parameter for training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.norm = nn.Conv2d(1, 4, 3, stride=4, padding=1), nn.BatchNorm2d(4)
        self.noise = nn.Parameter(torch.ones(1, 4, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.norm(self.used(images))
        return maps + self.noise * torch.rand_like(maps) if self.training else maps


def test_what_is_used_in_training_alone_is_used() -> None:
    model = build_model(backbone=Noisy(), head="regression", num_keypoints=3, in_channels=1, input_size=32)
    assert model.unused_parameters == frozenset()
    assert all(module.training for module in model.modules())
    assert all(value == 0 for value in (model.state_dict()[k] for k in model.state_dict() if "num_batches" in k))


def test_what_presence_alone_reads_is_trained() -> None:
    model = build_model(backbone="hrnet_w18_small", head="rle", num_keypoints=3, input_size=64, presence=True)
    assert model.unused_parameters == frozenset()


class Shared(nn.Module):
    """A network that has one layer under two names, and one tensor in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one = nn.Conv2d(1, 4, 3, stride=4, padding=1), nn.Conv2d(4, 4, 1)
        self.same, self.other, self.idle = self.one, nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.other.weight = self.one.weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.other(self.same(self.one(self.stem(images))))
        return maps


def test_what_has_two_names_keeps_its_values() -> None:
    network = Shared()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    model = build_model(backbone=network, head="regression", num_keypoints=3, in_channels=1, input_size=32)
    check_training_memory(model, 1)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.other.weight is network.one.weight is network.same.weight
    assert {name.split(".")[-2] for name in model.unused_parameters} == {"idle"}


class Filling(nn.Module):
    """A network of somebody's own: buffers that the first pass fills, and a method of the torch before 2.0."""

    run: torch.Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, stride=4, padding=1)
        self.register_buffer("run", None)

    def named_parameters(self, prefix: str = "", recurse: bool = True) -> Any:  # type: ignore[override]
        return super().named_parameters(prefix, recurse)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.stem(images)
        self.run = maps.detach().mean() if self.run is None else self.run + maps.detach().mean()
        return maps


def test_what_a_pass_writes_stays_as_it_was() -> None:
    network = Filling()
    model = build_model(backbone=network, head="regression", num_keypoints=3, in_channels=1, input_size=32)
    before = model.backbone.state_dict().keys()
    assert find_unused(model) == []
    check_training_memory(model, 1)
    assert model.backbone.state_dict().keys() == before
    assert all(value.device.type == "cpu" for value in model.state_dict().values())
    model.infer(torch.rand(2, 1, 32, 32))

"""Batch norms folded into convolutions: the same points, and no fold that is not safe."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kpnet import KeypointModel, KpnetError, Predictor, build_model
from kpnet.models.folding import fold_batch_norms

SIZE = (64, 96)
SANDWICH = {"name": "conv_sandwich", "channels": [8, 16, 16], "norm": "batch", "residual": 1}


def trained_like(model: KeypointModel) -> KeypointModel:
    """Give the norms the statistics of random images, and factors that are not 1."""
    torch.manual_seed(0)
    for norm in (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)):
        norm.momentum = None
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0, 0.2)
    with torch.no_grad():
        model.train()(torch.rand(4, 3, *SIZE))
    return model.eval()


def build(backbone: Any = SANDWICH, head: Any = "heatmap") -> KeypointModel:
    torch.manual_seed(0)
    return trained_like(build_model(backbone=backbone, head=head, num_keypoints=3, in_channels=3, input_size=SIZE))


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        (SANDWICH, "heatmap"),
        (SANDWICH, {"name": "heatmap", "decoder": "deconv"}),
        (SANDWICH, {"name": "heatmap", "decoder": "unet", "stages": 2}),
        (SANDWICH, {"name": "heatmap", "decoder": "aspp"}),
        (SANDWICH, "regression"),
        ("resnet18", "offset"),
        ("mobilenetv3_small_050", "simcc"),
        ("torchvision/mobilenet_v3_small", "rle"),
    ],
)
def test_a_folded_model_predicts_as_exactly(backbone: Any, head: Any) -> None:
    model = build(backbone, head)
    folded = fold_batch_norms(model)
    assert norms(model) > 0
    assert norms(folded) == 0
    images = torch.rand(3, 3, *SIZE)
    exact = copy.deepcopy(model).double().infer(images.double()).keypoints
    own = (model.infer(images).keypoints - exact).abs().max()
    assert (folded.infer(images).keypoints - exact).abs().max() < 3 * own + 1e-6


def test_the_model_itself_stays_as_it_is() -> None:
    model = build().train()
    before = copy.deepcopy(model.state_dict())
    folded = fold_batch_norms(model)
    assert all(module.training for module in model.modules())
    assert not any(module.training for module in folded.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.is_folded
    assert folded.is_folded


class Unsafe(nn.Module):
    """A backbone of a convolution and a norm, which `way` makes unsafe to fold."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv, self.norm = nn.Conv2d(3, 4, 3, 4, 1), nn.BatchNorm2d(4)
        if way == "other weights":
            self.conv = nn.utils.parametrizations.weight_norm(self.conv)
        if way == "hook":
            self.conv.register_forward_hook(lambda module, inputs, output: output.abs())
        if way == "own statistics":
            self.norm = nn.BatchNorm2d(4, track_running_stats=False)
        self.layers = [self.conv, self.norm] if way == "list" else []

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        if self.way == "skip":
            return x + self.norm(x)
        if self.way == "twice":
            return self.norm(self.norm(x))
        if self.way == "shared":
            return self.norm(x) + self.norm(self.conv(images.flip(-1)))
        if self.way == "between":
            return self.norm(x.relu())
        if self.way == "list":
            return self.layers[1](x)
        return self.norm(x)


@pytest.mark.parametrize(
    "way", ["skip", "twice", "shared", "between", "list", "other weights", "hook", "own statistics"]
)
def test_what_is_not_safe_is_left(way: str) -> None:
    model = build(Unsafe(way), "heatmap")
    folded = fold_batch_norms(model)
    images = torch.rand(3, 3, *SIZE)
    assert torch.allclose(folded.infer(images).keypoints, model.infer(images).keypoints, atol=1e-6)
    assert isinstance(folded.get_submodule("backbone.net.norm"), nn.BatchNorm2d)
    assert norms(folded) == (norms(model) if way == "list" else 1)  # the head's are folded


def test_a_safe_backbone_of_ones_own_is_folded() -> None:
    assert norms(fold_batch_norms(build(Unsafe("not"), "heatmap"))) == 0


def test_models_that_a_predictor_loads_are_folded_and_given_ones_are_not(tmp_path: Path) -> None:
    model = build()
    model.save(tmp_path)
    predictor = Predictor(tmp_path)
    image = (torch.rand(*SIZE, 3) * 255).byte().numpy()
    given = Predictor(model)
    assert given.model is model
    assert norms(predictor.model) == 0
    assert abs(predictor(image).keypoints - given(image).keypoints).max() < 1e-4  # pixels
    with pytest.raises(KpnetError, match="save the one that"):
        predictor.model.save(tmp_path)  # type: ignore[operator]

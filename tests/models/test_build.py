"""build_model: parts as objects, and models that no memory holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.recipes import SANDWICH, small
from torch import Tensor, nn

from kpnet import KpnetError, build_model, load_model
from kpnet.core import memory
from kpnet.heads import Head, HeadOutput, PyramidInfo
from kpnet.heads.heatmap import HeatmapHead


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 4, 4), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Viewer(Head):
    """A head that takes memory to be contiguous, as much code does, with a 3D convolution."""

    def __init__(self, points: int = 3) -> None:
        super().__init__()
        self.conv, self.conv3d, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Conv3d(8, 1, 1), nn.Linear(64, 2 * points)

    def forward(self, features: list[Tensor]) -> HeadOutput:
        x = self.conv(features[-1])
        assert x.view(len(x), -1).shape[1] == x[0].numel()
        x = features[-1].view(len(x), 8, 1, 8, 8)
        return HeadOutput(self.last(self.conv3d(x).view(len(x), 64)).view(len(x), -1, 2))


def with_objects(head: Any = "heatmap", **changes: Any) -> Any:
    torch.manual_seed(1)
    values = {"backbone": Net(), "head": head, "num_keypoints": 3, "in_channels": 1, "input_size": 32}
    return build_model(**{**values, **changes})


@pytest.mark.parametrize(
    "head", ["heatmap", Viewer(), HeatmapHead(PyramidInfo([8], [4], [(8, 8)]), 3)], ids=["named", "own", "kpnet's"]
)
def test_parts_as_objects(head: Any, tmp_path: Path) -> None:
    model = with_objects(head)
    assert model.backbone.strides == [4]
    images = torch.rand(2, 1, 32, 32)
    model(images).square().sum().backward()
    assert model.backbone.net.conv.weight.grad.abs().sum() > 0
    model.save(tmp_path)
    with pytest.raises(KpnetError, match=r"backbone was given to build_model as a module \(\S*Net\).*load_state_dict"):
        load_model(tmp_path)
    again = with_objects(head if head == "heatmap" else type(head)() if isinstance(head, Viewer) else head)
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(again.infer(images).keypoints, model.infer(images).keypoints)


def test_maps_of_a_channels_last_backbone_reach_a_foreign_head_contiguous() -> None:
    model = with_objects(Viewer(), backbone={**SANDWICH, "channels": [4, 8]}, input_size=32)
    assert model(torch.rand(2, 1, 32, 32).to(memory_format=torch.channels_last)).shape == (2, 3, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": Net}, "backbone: expected a name, a mapping with a name, or a module .* found the class Net"),
        ({"backbone": 3}, "backbone: expected a name, .* found a int"),
        ({"head": nn.Linear(2, 2)}, "head: expected a name, .* kpnet.heads.Head, found a Linear"),
        ({"head": Viewer}, "head: .* found the class Viewer"),
        ({"head": Viewer(4)}, r"head Viewer: expected a HeadOutput with points \(1, 3, 2\), found points \(1, 4, 2\)"),
        (
            {"head": Viewer(), "input_size": 64},
            r"head Viewer does not take the backbone's maps \(8 channels of stride 4\)",
        ),
        ({"pretrained": True}, "pretrained: the backbone is given as a module"),
        ({"backbone": nn.Sequential(nn.Flatten(), nn.Linear(1024, 2))}, "expected feature maps"),
        ({"num_keypoints": None}, "num_keypoints is missing"),
    ],
)
def test_wrong_objects_are_said_shortly(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(KpnetError, match=message) as caught:
        with_objects(**changes)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": {"name": "conv_sandwich", "channels": [100000, 100000]}},
        {"backbone": {"name": "conv_sandwich", "channels": [20000] * 4}},
        {"backbone": {"name": "mlp", "latent": 10**9}},
        {"backbone": "resnet18", "in_channels": 65_536, "input_size": 4096},
        {"head": {"name": "regression", "hidden": [10**6, 10**6]}},
        {"head": {"name": "simcc", "bins": 1e9}},
        {"head": {"name": "heatmap", "decoder": {"name": "top_down", "width": 10**6}}},
    ],
    ids=str,
)
def test_what_no_memory_holds_is_refused_before_it_is_taken(changes: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 2.0**34)
    with pytest.raises(KpnetError, match=r"the model needs at least \S+ .iB of memory, 16 GiB are available"):
        small(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 10**9}, "in_channels"),
        ({"num_keypoints": 10**9}, "num_keypoints"),
        ({"head": {"name": "heatmap", "stages": 10**6}}, "stages"),
        ({"head": {"name": "regression", "hidden": [1] * 1000}}, "hidden"),
        ({"head": {"name": "temporal", "past": 10**6}}, "past"),
        ({"backbone": {"name": "conv_sandwich", "channels": [1] * 100}}, "at most 16 blocks"),
        ({"backbone": {"name": "conv_sandwich", "residual": 10**6}}, "residual"),
    ],
)
def test_numbers_of_layers_are_bounded(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(KpnetError, match=message):
        small(**changes)

"""Any module as a backbone."""

from __future__ import annotations

import re
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from kpnet import KpnetError
from kpnet.backbones.conv_sandwich import ConvSandwich
from kpnet.backbones.module import wrap_module


class Maps(nn.Module):
    """Maps of the strides 2, 4 and 4, in the form that `pack` gives them."""

    def __init__(self, pack: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 2, 2), nn.Conv2d(4, 5, 2, 2), nn.Conv2d(5, 6, 3, padding=1)])
        self.norm, self.pack = nn.BatchNorm2d(4), pack

    def forward(self, x: Tensor) -> Any:
        a = self.norm(self.layers[0](x))
        b = self.layers[1](a)
        return self.pack([a, b, self.layers[2](b)])


@pytest.mark.parametrize(
    ("pack", "channels", "strides"),
    [
        (list, [4, 6], [2, 4]),
        (tuple, [4, 6], [2, 4]),
        (lambda maps: {"a": maps[1], "b": maps[0]}, [4, 5], [2, 4]),
        (lambda maps: maps[1], [5], [4]),
    ],
    ids=["list", "tuple", "dict, coarsest first", "one map"],
)
def test_maps_in_any_form(pack: Any, channels: list[int], strides: list[int]) -> None:
    net = Maps(pack).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    backbone = wrap_module(net, 3, (16, 24))
    assert (backbone.channels, backbone.strides, backbone.in_channels) == (channels, strides, 3)
    assert backbone.has_norm_layers
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items()), "no buffer has moved"
    shapes = [tuple(m.shape[1:]) for m in backbone(torch.rand(1, 3, 32, 40))]
    assert shapes == [(c, 32 // s, 40 // s) for c, s in zip(channels, strides, strict=True)]
    assert not backbone.load_state_dict({f"net.{k}": v for k, v in net.state_dict().items()}).missing_keys


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_timms_own_networks(name: str) -> None:
    options: dict[str, Any] = {"img_size": 64} if "swin" in name else {}
    net: Any = timm.create_model(name, features_only=True, **options)
    backbone = wrap_module(net, 3, (64, 64))
    info = net.feature_info
    assert backbone.strides == info.reduction()
    assert backbone.channels == info.channels()
    assert backbone.mean == pytest.approx((0.485, 0.456, 0.406))


def test_a_backbone_is_itself() -> None:
    own = ConvSandwich(1)
    assert wrap_module(own, 1, (32, 32)) is own
    with pytest.raises(KpnetError, match="built for in_channels 1, found 3"):
        wrap_module(own, 3, (32, 32))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 10)), r"expected feature maps .* found a tensor \(1, 10\)"),
        (Maps(lambda maps: {"out": 3}), "found a int"),
        (Maps(lambda maps: []), "found none"),
        (nn.Conv2d(5, 3, 1), r"does not take images \(3, 16, 16\): RuntimeError"),
        (nn.Conv2d(3, 4, 6), "a map of 11x11 cells does not cover an image of 16x16 pixels"),
    ],
    ids=["a classifier", "a number", "no map", "other channels", "no padding"],
)
def test_what_is_no_backbone(net: nn.Module, message: str) -> None:
    with pytest.raises(KpnetError, match=message) as caught:
        wrap_module(net, 3, (16, 16))
    assert re.match(r"backbone \"\w+ \(module\)\"", str(caught.value))
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)

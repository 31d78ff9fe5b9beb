"""The contract of every backbone: covering maps, the said channels and strides, centred cells, gradients."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any, ClassVar

import pytest
import timm
import torch
from torch import Tensor, nn

from kpnet.backbones import BACKBONES, Backbone, build_backbone, list_backbones
from kpnet.core.errors import KpnetError


def _linear(net: nn.Module) -> nn.Module:
    """The network as one positive average: the gradient of a cell is then its receptive field, without noise."""
    for module in list(net.modules()):
        for key, child in list(module.named_children()):
            if isinstance(child, nn.MaxPool2d):
                args = (child.kernel_size, child.stride, child.padding, child.ceil_mode, False)
                setattr(module, key, nn.AvgPool2d(*args))
            elif isinstance(child, nn.LayerNorm | nn.GroupNorm | nn.InstanceNorm2d):
                setattr(module, key, nn.Identity())
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return net.eval()


def _centre(maps: Tensor, images: Tensor, cell: int, axis: int) -> float:
    """Centroid, in pixels along H (axis 0) or W (axis 1), of what a row or column of cells sees."""
    (gradient,) = torch.autograd.grad(maps.select(2 + axis, cell).sum(), images, retain_graph=True)
    profile = gradient.abs().sum((0, 1, 3 - axis)).double()
    profile = profile - profile.min()  # global pooling and attention see a little of everything
    return float((profile * torch.arange(len(profile))).sum() / profile.sum())


class Contract:
    """The tests of one backbone: subclass it, and say what the backbone is."""

    spec: ClassVar[str | dict[str, Any]]
    strides: ClassVar[tuple[int, ...]]
    channels: ClassVar[tuple[int, ...]]
    long = 320  # a side that is long enough for the deepest cells to have a middle

    @pytest.fixture(params=[1, 3, 4])
    def in_channels(self, request: pytest.FixtureRequest) -> int:
        return int(request.param)

    def test_maps(self, in_channels: int) -> None:
        net = build_backbone(self.spec, in_channels, input_size=(64, 96)).eval()
        assert (tuple(net.strides), tuple(net.channels)) == (self.strides, self.channels)
        assert len(net.mean) == len(net.std) == in_channels
        for size in [(64, 96), (96, 64), (97, 75), (70, 98)]:
            with torch.no_grad():
                maps = net(torch.rand(2, in_channels, *size))
            expected = [
                (2, c, -(-size[0] // s), -(-size[1] // s)) for c, s in zip(net.channels, net.strides, strict=True)
            ]
            assert [tuple(m.shape) for m in maps] == expected

    def test_every_parameter_learns(self) -> None:
        torch.manual_seed(0)
        net = build_backbone(self.spec, 3, input_size=(64, 96)).eval()
        images = torch.rand(2, 3, 64, 96, requires_grad=True)
        sum((m * torch.randn_like(m)).sum() for m in net(images)).backward()
        assert images.grad is not None
        assert images.grad.abs().sum() > 0
        assert not [name for name, p in net.named_parameters() if p.grad is None]
        first = next(p for p in net.parameters() if p.ndim == 4)
        assert first.grad is not None
        assert first.grad.abs().sum() > 0

    @pytest.mark.parametrize("axis", [0, 1])
    def test_cells_are_centred(self, axis: int) -> None:
        size = (96, self.long) if axis else (self.long, 96)
        net = build_backbone(self.spec, 1, input_size=size)
        _linear(net)
        images = torch.ones(1, 1, *size, requires_grad=True)
        for maps, stride in zip(net(images), net.strides, strict=True):
            cell = (self.long // stride - 1) // 2
            expected = stride * cell + (stride - 1) / 2
            assert abs(_centre(maps, images, cell, axis) - expected) < max(stride / 2, 1e-3)

    def test_copies(self) -> None:
        net = build_backbone(self.spec, 3, input_size=(64, 64)).eval()
        twin = copy.deepcopy(net)
        images = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            twin.load_state_dict(net.state_dict())
            assert all(torch.equal(a, b) for a, b in zip(net(images), twin(images), strict=True))


class TestConvSandwich(Contract):
    spec, strides, channels = "conv_sandwich", (2, 4, 8, 16), (32, 64, 128, 256)


class TestConvSandwichResidual(Contract):
    spec: ClassVar[str | dict[str, Any]] = {
        "name": "conv_sandwich",
        "channels": [8, 16, 12],
        "norm": "batch",
        "dropout": 0.1,
        "residual": 1,
    }
    strides, channels = (2, 4, 8), (8, 16, 12)


class TestResNet18(Contract):
    spec, strides, channels, long = "resnet18", (2, 4, 8, 16, 32), (64, 64, 128, 256, 512), 480


class TestConvNeXt(Contract):
    spec, strides, channels = "convnext_atto", (4, 8, 16, 32), (40, 80, 160, 320)


class TestMobileNet(Contract):
    spec, strides, channels = "mobilenetv3_small_100", (2, 4, 8, 16, 32), (16, 16, 24, 48, 576)


class TestEfficientNet(Contract):
    spec, strides, channels = "efficientnet_b0", (2, 4, 8, 16, 32), (16, 24, 40, 112, 320)


class TestViT(Contract):
    spec, strides, channels = "vit_tiny_patch16_224", (16,), (192,)


class TestAlexNet(Contract):
    spec, strides, channels = "torchvision/alexnet", (4, 8, 16, 32), (64, 192, 256, 256)


class TestSqueezeNet(Contract):
    spec, strides, channels = "torchvision/squeezenet1_0", (2, 4, 8, 16), (96, 256, 512, 512)


class TestVGG(Contract):
    spec, strides, channels, long = "torchvision/vgg11", (1, 2, 4, 8, 16, 32), (64, 128, 256, 512, 512, 512), 192


class TestTorchvisionResNet(Contract):
    spec, strides, channels, long = "torchvision/resnet18", (2, 4, 8, 16, 32), (64, 64, 128, 256, 512), 480


def test_channels_last_features_come_channels_first() -> None:
    net = build_backbone("swin_tiny_patch4_window7_224", 3, input_size=(64, 96)).eval()
    with torch.no_grad():
        shapes = [tuple(m.shape[1:]) for m in net(torch.rand(1, 3, 64, 96))]
    assert shapes == [(96, 16, 24), (192, 8, 12), (384, 4, 6), (768, 2, 3)]


def test_a_network_that_cannot_cover_is_refused() -> None:
    with pytest.raises(KpnetError, match="stride 2 does not cover an image of 128x128 pixels: 61x61 cells"):
        build_backbone("inception_v3", 3, input_size=(128, 128))


def test_options_reach_timm() -> None:
    net = build_backbone({"name": "convnext_atto", "drop_path_rate": 0.5}, 3, input_size=(32, 32))
    rates: list[Any] = [m.drop_prob for m in net.modules() if type(m).__name__ == "DropPath"]
    assert max(rates) == pytest.approx(0.5)


checks_hrnet = pytest.mark.skipif(
    tuple(map(int, timm.__version__.split(".")[:3])) < (1, 0, 31),
    reason="timm before 1.0.31 drops unknown options of HRNet without a word",
)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet81", "unknown backbone .*did you mean"),
        ("conv_sandwhich", 'did you mean "conv_sandwich"'),
        ("torchvision/alexne", 'did you mean "torchvision/alexnet"'),
        ({"name": "resnet18", "widht": 2}, 'unknown key "widht"'),
        pytest.param({"name": "hrnet_w18_small", "widht": 2}, 'unknown key "widht"', marks=checks_hrnet),
        ({"name": "resnet18", "in_chans": 1}, '"in_chans" is set by kpnet'),
        ({"name": "torchvision/alexnet", "dropout": 0.1}, 'unknown key "dropout"'),
        ({"name": "conv_sandwich", "dropuot": 0.1}, 'did you mean "dropout"'),
        ({"channels": [8]}, 'expected a name or a mapping with a "name"'),
    ],
)
def test_bad_specs(spec: str | dict, message: str) -> None:
    with pytest.raises(KpnetError, match=message) as caught:
        build_backbone(spec, 3)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["conv_sandwich", "resnet18", "torchvision/alexnet"])
def test_no_input_channels(spec: str) -> None:
    with pytest.raises(KpnetError, match="in_channels: expected at least 1, found 0"):
        build_backbone(spec, 0)


def test_list_backbones() -> None:
    names = list_backbones()
    assert names[0] == "conv_sandwich"
    assert len(names) == len(set(names)) > 1000
    assert {"resnet18", "torchvision/vgg11", *BACKBONES} <= set(names)
    published = list_backbones(pretrained=True)
    assert {"torchvision/squeezenet1_0", "resnet18", "vit_small_patch16_224"} <= set(published) < set(names)
    assert not {"conv_sandwich", "coatnet_0_224"} & set(published)  # timm has no weights of the latter
    assert "coatnet_0_224" in names
    assert list_backbones("torchvision/squeezenet") == ["torchvision/squeezenet1_0", "torchvision/squeezenet1_1"]


def test_own_backbones_import_neither_timm_nor_torchvision() -> None:
    code = (
        "import sys; from kpnet.backbones import build_backbone; build_backbone('conv_sandwich', 1);"
        "assert not {'timm', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_registered_backbone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tiny(Backbone):
        def __init__(self, in_channels: int, *, width: int = 2) -> None:
            super().__init__()
            self.channels, self.strides = [width], [1]
            self.conv = nn.Conv2d(in_channels, width, 1)

        def forward(self, images: Tensor) -> list[Tensor]:
            return [self.conv(images)]

    monkeypatch.setitem(BACKBONES, "tiny", Tiny)
    assert build_backbone({"name": "tiny", "width": 5}, 1).channels == [5]

"""The layer table against the slides' closed forms, PyTorch's own counter and gradients."""

import copy
import io
from dataclasses import dataclass

import pytest
import torch
import torchvision
from support.networks import Decoder, course_network
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kpnet.core.console import PlainConsole
from kpnet.models.summary import Layer, render, summarize


def only(module: nn.Module, shape: tuple[int, int, int]) -> Layer:
    (layer,) = summarize(nn.Sequential(module), shape).layers
    return layer


def test_the_course_network() -> None:
    summary = summarize(course_network(), (1, 96, 96))
    first, pool = summary.layers[:2]
    assert (first.name, first.type, first.input_shape, first.output_shape) == ("0", "Conv2d", (1, 96, 96), (32, 96, 96))
    assert first.formula == "(96 − 3 + 2·1)/1 + 1 = 96"
    assert first.parameters == 32 * (9 + 1) == 320
    assert first.macs == 96 * 96 * 32 * 9
    assert first.activation_bytes == 32 * 96 * 96 * 4
    assert pool.formula == "(96 − 2)/2 + 1 = 48"
    assert pool.parameters == pool.macs == 0
    # 3, then 3 + 1 = 4; 4 + 2·2 = 8, 8 + 2 = 10; 10 + 2·4 = 18, 18 + 4 = 22; 22 + 2·8 = 38, 38 + 8 = 46
    fields = [layer.receptive_field for layer in summary.layers if layer.type != "ReLU"][:8]
    assert fields == [(n, n) for n in (3, 4, 8, 10, 18, 22, 38, 46)]
    assert summary.layers[11].jump == (16, 16)
    assert summary.layers[12].receptive_field is None
    assert not summary.layers[12].sees_all  # flattened, not yet mixed
    assert all(layer.sees_all for layer in summary.layers[13:])
    expected = 320 + 64 * (32 * 9 + 1) + 128 * (64 * 9 + 1) + 256 * (128 * 9 + 1) + 256 * 9217 + 30 * 257
    assert summary.parameters == summary.trainable == expected
    assert summary.model_bytes == 4 * expected
    assert summary.macs == sum(layer.macs for layer in summary.layers)


def test_alexnet_as_on_the_slide() -> None:
    conv, pool = summarize(nn.Sequential(nn.Conv2d(3, 96, 11, 4), nn.MaxPool2d(3, 2)), (3, 227, 227)).layers
    assert conv.output_shape == (96, 55, 55)
    assert conv.formula == "(227 − 11)/4 + 1 = 55"
    assert conv.parameters == 3 * 11 * 11 * 96 + 96
    assert pool.output_shape == (96, 27, 27)
    assert pool.formula == "(55 − 3)/2 + 1 = 27"
    assert pool.parameters == 0
    assert not conv.warning
    assert not pool.warning


@pytest.mark.parametrize(
    ("module", "shape", "formula", "warning"),
    [
        (nn.Conv2d(1, 1, 3, 3), (1, 7, 7), "(7 − 3)/3 + 1 = 2.33 → 2", "1 row and 1 column lost"),
        (nn.Conv2d(1, 1, 3, 3), (1, 6, 8), "H: (6 − 3)/3 + 1 = 2; W: (8 − 3)/3 + 1 = 2.67 → 2", "2 columns lost"),
        (
            nn.MaxPool2d(2, ceil_mode=True),
            (1, 7, 6),
            "H: (7 − 2)/2 + 1 = 3.5 → 4; W: (6 − 2)/2 + 1 = 3",
            "1 row outside",
        ),
        (nn.Conv2d(1, 1, 3, 2, 1), (1, 8, 8), "(8 − 3 + 2·1)/2 + 1 = 4.5 → 4", "only padding is skipped"),
    ],
)
def test_a_stride_that_does_not_divide_is_warned_of(
    module: nn.Module, shape: tuple, formula: str, warning: str
) -> None:
    layer = only(module, shape)
    assert layer.formula == formula
    assert layer.warning.startswith("stride does not divide: ")
    assert layer.warning.endswith(warning)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"), [(3, 3, 0, 7), (3, 3, 0, 8), (3, 2, 1, 8), (5, 4, 1, 18)]
)
def test_the_rows_said_to_be_lost_have_no_gradient(kernel: int, stride: int, padding: int, size: int) -> None:
    conv = nn.Conv2d(1, 1, kernel, stride, padding)
    image = torch.ones(1, 1, size, size, requires_grad=True)
    conv(image).sum().backward()
    assert image.grad is not None
    lost = int((image.grad[0, 0].abs().sum(1) == 0).sum())
    warning = only(conv, (1, size, size)).warning
    assert f"{lost} row" in warning if lost else "only padding" in warning


@pytest.mark.parametrize(
    ("module", "formula"),
    [
        (nn.Conv2d(1, 1, 3, padding=2, dilation=2), "(20 − 5 + 2·2)/1 + 1 = 20"),
        (nn.Conv2d(1, 1, 5, padding="same"), "(20 − 5 + 4)/1 + 1 = 20"),
        (nn.ConvTranspose2d(1, 1, 4, 2, 1), "(20 − 1)·2 − 2·1 + 4 = 40"),
        (nn.ConvTranspose2d(1, 1, 3, 2, 1, 1), "(20 − 1)·2 − 2·1 + 3 + 1 = 40"),
        (nn.ReLU(), ""),
    ],
)
def test_formulas(module: nn.Module, formula: str) -> None:
    assert only(module, (1, 20, 20)).formula == formula


@pytest.mark.parametrize("network", [torchvision.models.resnet18(), Decoder("bilinear"), course_network()])
def test_macs_are_half_of_pytorchs_flops(network: nn.Module) -> None:
    channels, size = (3, 128) if isinstance(network, torchvision.models.ResNet) else (1, 96)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, channels, size, size))
    assert 2 * summarize(network, (channels, size, size)).macs == counter.get_total_flops()


@dataclass
class Result:
    xy: Tensor
    maps: list[Tensor] | None = None


def test_modes_hooks_frozen_and_shared_layers_are_as_they_were() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(2)
            self.spare = nn.Linear(3, 3)

        def forward(self, image: Tensor) -> Result:
            x = self.relu(self.conv(image))
            return Result(self.relu(self.norm(self.conv(x))), [x])

    net = Net().train()
    net.norm.eval()
    net.conv.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    summary = summarize(net, (2, 8, 6))
    assert net.training
    assert not net.norm.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())
    assert [layer.name for layer in summary.layers] == ["conv", "relu", "conv", "norm", "relu"]
    assert [layer.parameters for layer in summary.layers] == [38, 0, 0, 4, 0]
    assert [layer.activation_bytes for layer in summary.layers] == [384, 0, 384, 384, 0]
    assert (summary.parameters, summary.trainable, summary.frozen) == (38 + 4 + 12, 16, 38)
    assert summary.layers[2].receptive_field == (5, 5)


def test_hooks_are_removed_when_the_model_fails() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Linear(3, 1)).train()
    with pytest.raises(RuntimeError):
        summarize(net, (1, 8, 8))
    assert net[0].training
    assert not any(m._forward_hooks for m in net.modules())


def test_the_table_says_it_all() -> None:
    def text(network: nn.Module, shape: tuple[int, int, int]) -> str:
        console = PlainConsole(width=130, file=io.StringIO())
        console.print(render(summarize(network, shape)))
        return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]

    course = text(course_network(), (1, 96, 96))
    for part in ("(96 − 3 + 2·1)/1 + 1 = 96", "2,359,552", "42.47 M", "1.125 MiB", "all", "–", "2,755,102 trainable"):
        assert part in course
    lost = text(nn.Sequential(nn.Conv2d(1, 1, 3, 3)), (1, 7, 7))
    assert " stride does not divide: 1 row and 1 column lost " in lost

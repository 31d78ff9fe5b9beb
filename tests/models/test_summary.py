"""Summaries and receptive fields against the slides' closed forms, PyTorch's own counter and gradients."""

import copy
import io
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
import torchvision
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kpnet.models.receptive_field import ReceptiveFields
from kpnet.models.summary import Layer, render, summarize


def course_network() -> nn.Sequential:
    """I2DL, exercise 9."""
    layers: list[nn.Module] = []
    for inp, out in ((1, 32), (32, 64), (64, 128), (128, 256)):
        layers += [nn.Conv2d(inp, out, 3, 1, 1), nn.MaxPool2d(2, 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256 * 6 * 6, 256), nn.ReLU(), nn.Linear(256, 30))


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


@pytest.mark.parametrize(("depth", "kernel"), [(1, 3), (4, 3), (3, 5), (2, 7)])
def test_stacked_convolutions_see_one_plus_l_times_k_minus_one(depth: int, kernel: int) -> None:
    layers = summarize(nn.Sequential(*(nn.Conv2d(1, 1, kernel) for _ in range(depth))), (1, 40, 40)).layers
    assert layers[-1].receptive_field == (1 + depth * (kernel - 1),) * 2


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
        (nn.Conv2d(1, 1, 3, 2, 1), (1, 8, 8), "(8 − 3 + 2·1)/2 + 1 = 4.5 → 4", "only padding is left out"),
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


class Decoder(nn.Module):
    """Branches, sums, concatenations and up-sampling as functions, a mapping of results."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(1, 4, 5, 2, 2), nn.Conv2d(4, 4, 3, 2, 1)
        self.up, self.lateral = nn.ConvTranspose2d(4, 4, 4, 2, 1), nn.Conv2d(4, 4, 1)
        self.mix, self.mode = nn.Conv2d(8, 4, 3, padding=1, groups=4), mode

    def forward(self, image: Tensor) -> dict[str, list[Tensor]]:
        fine = self.fine(image)
        coarse = self.coarse(fine)
        up = F.interpolate(self.coarse(coarse), scale_factor=2, mode=self.mode) + coarse
        mixed = self.mix(torch.cat([self.up(up), self.lateral(fine)], 1))
        return {"maps": [mixed, F.interpolate(mixed, scale_factor=2, mode=self.mode)]}


@pytest.mark.parametrize("network", [torchvision.models.resnet18(), Decoder("bilinear"), course_network()])
def test_macs_are_half_of_pytorchs_flops(network: nn.Module) -> None:
    channels, size = (3, 128) if isinstance(network, torchvision.models.ResNet) else (1, 96)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, channels, size, size))
    assert 2 * summarize(network, (channels, size, size)).macs == counter.get_total_flops()


def footprint(network: nn.Module, size: int) -> tuple[int, int]:
    """Rows and columns of the image that the widest-looking cells of the last map depend on, by gradient."""
    network = copy.deepcopy(network).double().eval()
    for p in network.parameters():
        nn.init.ones_(p)
    image = torch.ones(1, 1, size, size, dtype=torch.float64, requires_grad=True)
    out = network(image)
    out = (out["maps"][-1] if isinstance(out, dict) else out)[0].sum(0)
    widest = [0, 0]
    for d in (0, 1):
        for cell in range(out.shape[d] // 2 - 3, out.shape[d] // 2 + 3):
            (gradient,) = torch.autograd.grad(out.sum(1 - d)[cell], image, retain_graph=True)
            widest[d] = max(widest[d], int((gradient[0, 0].abs().sum(1 - d) > 0).sum()))
    return widest[0], widest[1]


NETWORKS = {
    "course": nn.Sequential(
        *(m for i in range(4) for m in (nn.Conv2d(1, 1, 3, padding=1), nn.AvgPool2d(2), nn.ReLU()))
    ),
    "rows and columns": nn.Sequential(nn.Conv2d(1, 1, (3, 5), (1, 2)), nn.Conv2d(1, 1, (5, 1), dilation=2)),
    "nearest": Decoder("nearest"),
    "bilinear": Decoder("bilinear"),
    "bicubic": nn.Sequential(nn.Conv2d(1, 1, 3, 2), nn.Upsample(scale_factor=3, mode="bicubic")),
    "aligned corners": nn.Sequential(
        nn.Conv2d(1, 1, 4, 4), nn.UpsamplingBilinear2d(scale_factor=2), nn.Conv2d(1, 1, 3)
    ),
    "padding": nn.Sequential(nn.ZeroPad2d((0, 1, 2, 0)), nn.Conv2d(1, 1, 2, padding=1), nn.AdaptiveAvgPool2d(7)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_receptive_fields_are_the_gradients_footprints(name: str) -> None:
    image = torch.zeros(1, 1, 96, 96)
    with torch.no_grad(), ReceptiveFields(image) as fields:
        out = NETWORKS[name].eval()(image)
        out = out["maps"][-1] if isinstance(out, dict) else out
        rows, columns = fields.of(out)
        found = rows.extent(out.shape[-2]), columns.extent(out.shape[-1])  # type: ignore[union-attr]
    assert found == footprint(NETWORKS[name], 96)


class Odd(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv, self.after = kind, nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3)
        self.norm = nn.InstanceNorm2d(4)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image)
        if self.kind == "gate":
            x = x * x.mean((2, 3), keepdim=True).sigmoid()
        elif self.kind == "norm":
            x = self.norm(x)
        elif self.kind == "roll":
            x = x.roll(5, 3)
        elif self.kind == "transpose":
            x = x.transpose(2, 3)
        elif self.kind == "buffer":
            buffer = torch.zeros(x.shape)
            buffer[:, :2] = x[:, :2]
            x = x + buffer.flip(3)
        elif self.kind == "alias":
            buffer = torch.zeros(x.shape)
            buffer.view(-1).copy_(x.flip(3).reshape(-1))
            x = x + buffer
        elif self.kind == "part":
            copy = x.clone()
            copy[:, :2] = x[:, :2].flip(3)
            x = copy + 1
        return self.after(x)


@pytest.mark.parametrize(
    ("kind", "sees_all"),
    [
        ("gate", True),
        ("norm", True),
        ("roll", False),
        ("transpose", False),
        ("buffer", False),
        ("alias", False),
        ("part", False),
    ],
)
def test_what_mixes_everything_sees_all_and_the_rest_is_never_guessed(kind: str, sees_all: bool) -> None:
    last = summarize(Odd(kind), (1, 24, 24)).layers[-1]
    assert last.receptive_field is None
    assert last.sees_all is sees_all


def test_resnet18_sees_435_pixels() -> None:
    # Araujo et al. 2019, "Computing receptive fields of convolutional neural networks": the value of its table
    layer = next(x for x in summarize(torchvision.models.resnet18(), (3, 96, 64)).layers if x.name == "layer4.1.conv2")
    assert layer.receptive_field == (435, 435)
    assert layer.jump == (32, 32)


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
        console = Console(width=130, file=io.StringIO())
        console.print(render(summarize(network, shape)))
        return " ".join(console.file.getvalue().split())  # type: ignore[attr-defined]

    course = text(course_network(), (1, 96, 96))
    for part in ("(96 − 3 + 2·1)/1 + 1 = 96", "2,359,552", "42.47 M", "1.125 MiB", "all", "–", "2,755,102 trainable"):
        assert part in course
    assert "1 row and 1 column lost" in text(nn.Sequential(nn.Conv2d(1, 1, 3, 3)), (1, 7, 7))

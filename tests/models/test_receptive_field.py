"""Receptive fields against closed forms and against the footprints of gradients."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from support.networks import Decoder
from torch import Tensor, nn

from kpnet.models.neck import resample
from kpnet.models.receptive_field import ReceptiveFields
from kpnet.models.summary import summarize


@pytest.mark.parametrize(("depth", "kernel"), [(1, 3), (4, 3), (3, 5), (2, 7)])
def test_stacked_convolutions_see_one_plus_l_times_k_minus_one(depth: int, kernel: int) -> None:
    layers = summarize(nn.Sequential(*(nn.Conv2d(1, 1, kernel) for _ in range(depth))), (1, 40, 40)).layers
    assert layers[-1].receptive_field == (1 + depth * (kernel - 1),) * 2


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


class Shifted(nn.Module):
    """A map, plus what a window beside each of its cells holds."""

    def __init__(self, pads: tuple[int, int, int, int], kernel: tuple[int, int]) -> None:
        super().__init__()
        self.beside = nn.Sequential(nn.ZeroPad2d(pads), nn.Conv2d(1, 1, kernel))

    def forward(self, image: Tensor) -> Tensor:
        return image + self.beside(image)


class Resampled(nn.Module):
    """A neck's change of stride, to a size that cuts the last cell off."""

    def __init__(self, source: int, target: int) -> None:
        super().__init__()
        self.strides = source, target

    def forward(self, x: Tensor) -> Tensor:
        source, target = self.strides
        size = (source * x.shape[-2] - 1, source * x.shape[-1] - 1)
        return resample(x, source, target, size)


NETWORKS = {
    "axes": nn.Sequential(nn.Conv2d(1, 1, (3, 5), (1, 3), (1, 0)), nn.Conv2d(1, 1, 3, (2, 1))),
    "left": Shifted((2, 0, 0, 0), (1, 3)),
    "right": Shifted((0, 4, 0, 0), (1, 5)),
    "above": Shifted((0, 0, 3, 0), (4, 1)),
    "below": Shifted((0, 0, 0, 3), (4, 1)),
    "resampled": nn.Sequential(nn.Conv2d(1, 1, 4, 4), Resampled(4, 3)),
    "cubic corners": nn.Sequential(
        nn.Conv2d(1, 1, 4, 4), nn.Upsample(scale_factor=2, mode="bicubic", align_corners=True)
    ),
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
        found = rows.extent(out.shape[-2]), columns.extent(out.shape[-1])
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


def test_a_vector_of_a_map_is_followed_to_a_linear_layer() -> None:
    image = torch.zeros(1, 1, 8, 8)
    with torch.no_grad(), ReceptiveFields(image) as fields:
        flat = image.flatten(1)
        assert fields.of(flat) == fields.of(flat.sin()) == "flat"
        assert fields.of(nn.Linear(64, 3)(flat)) == "all"
        assert fields.of(flat.cumsum(1)) == fields.of(image.mean()) == "unknown"


def test_resnet18_sees_435_pixels() -> None:
    # Araujo et al. 2019, "Computing receptive fields of convolutional neural networks": the value of its table
    layer = next(x for x in summarize(torchvision.models.resnet18(), (3, 96, 64)).layers if x.name == "layer4.1.conv2")
    assert layer.receptive_field == (435, 435)
    assert layer.jump == (32, 32)

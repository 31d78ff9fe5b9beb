"""The course's network: its layers, its initialisation, and its symmetry."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

from kpnet.backbones import build_backbone
from kpnet.backbones.conv_sandwich import MaxPool2x2
from kpnet.core.errors import KpnetError


def _course(channels: list[int]) -> nn.Sequential:
    """As the course writes it."""

    def sandwich(inp: int, out: int) -> nn.Sequential:
        conv = nn.Conv2d(inp, out, 3, 1, 1)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        return nn.Sequential(conv, nn.MaxPool2d(2, 2), nn.ReLU())

    return nn.Sequential(*(sandwich(i, o) for i, o in itertools.pairwise(channels)))


def test_is_the_course_network() -> None:
    torch.manual_seed(3)
    course = _course([1, 32, 64, 128, 256])
    torch.manual_seed(3)
    net = build_backbone("conv_sandwich", 1)
    images = torch.rand(2, 1, 96, 96)
    assert torch.equal(net(images)[-1], course(images))
    assert net(images)[-1].shape == (2, 256, 6, 6)


@pytest.mark.parametrize("size", [(8, 12), (7, 12), (8, 5), (1, 1)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pooling_without_a_gradient_is_torchs(size: tuple[int, int], memory_format: torch.memory_format) -> None:
    maps = torch.randn(2, 16, *size).to(memory_format=memory_format)
    maps[0, 0, 0, 0], maps[0, 1, -1, -1], maps[1, 2] = math.nan, math.inf, -math.inf
    expected = nn.MaxPool2d(2, 2, ceil_mode=True)(maps)
    with torch.no_grad():
        pooled = MaxPool2x2()(maps)
    assert torch.equal(pooled.nan_to_num(7), expected.nan_to_num(7))
    assert pooled.is_contiguous(memory_format=memory_format)


def test_an_exported_program_has_a_pooling() -> None:
    with torch.no_grad():
        program = torch.export.export(MaxPool2x2(), (torch.rand(1, 2, 8, 8),))
    assert "max_pool2d" in str(program.graph)


def test_kaiming_normal() -> None:
    net = build_backbone({"name": "conv_sandwich", "channels": [32, 256, 128, 256], "norm": "batch"}, 1)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convs] == [32, 256, 128, 256]
    for conv in convs[1:]:
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (conv.in_channels * 9)), rel=0.02)


@pytest.mark.parametrize("axis", [-1, -2])
def test_mirror_equivariance(axis: int) -> None:
    net = build_backbone({"name": "conv_sandwich", "channels": [8, 8, 8]}, 1).double()
    images = torch.rand(2, 1, 32, 48, dtype=torch.float64)
    maps = net(images)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.endswith("weight"):
                parameter.copy_(parameter.flip(axis))
    for ours, mirrored in zip(maps, net(images.flip(axis)), strict=True):
        torch.testing.assert_close(mirrored.flip(axis), ours, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        ("none", None),
        ("batch", nn.BatchNorm2d),
        ("instance", nn.InstanceNorm2d),
        ("layer", nn.GroupNorm),
        ("group", nn.GroupNorm),
    ],
)
def test_norms(norm: str, kind: type | None) -> None:
    net = build_backbone({"name": "conv_sandwich", "channels": [12, 50], "norm": norm, "residual": 1}, 2)
    convs = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    norms: list[Any] = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d | nn.InstanceNorm2d | nn.GroupNorm)]
    assert len(norms) == (0 if kind is None else len(convs))
    assert all(type(m) is kind for m in norms)
    assert all((c.bias is None) == (kind is not None) for c in convs)
    if norm == "layer":
        assert {m.num_groups for m in norms} == {1}
    if norm == "group":
        assert all(1 < m.num_groups <= 32 for m in norms)
    assert [tuple(m.shape) for m in net(torch.rand(2, 2, 31, 20))] == [(2, 12, 16, 10), (2, 50, 8, 5)]


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_residual_branches_start_at_zero(norm: str) -> None:
    spec = {"name": "conv_sandwich", "channels": [8, 16], "norm": norm}
    plain, deep = build_backbone(spec, 1).eval(), build_backbone({**spec, "residual": 2}, 1).eval()
    deep.load_state_dict(plain.state_dict(), strict=False)
    images = torch.rand(1, 1, 16, 16)
    assert all(torch.equal(a, b) for a, b in zip(plain(images), deep(images), strict=True))


def test_dropout_is_spatial() -> None:
    torch.manual_seed(0)
    net = build_backbone({"name": "conv_sandwich", "channels": [64], "dropout": 0.5}, 1)
    nn.init.ones_(net.get_parameter("blocks.0.0.bias"))
    images = torch.rand(4, 1, 32, 32)
    live = net(images)[0].ne(0).flatten(2).float().mean(2)
    whole = net.eval()(images)[0].ne(0).flatten(2).float().mean(2)
    # A channel is dropped as a whole, or not touched at all.
    assert torch.all((live == 0) | (live == whole))
    assert 0.3 < (live == 0).float().mean() < 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "dropout: expected 0 <= p < 1, found 1.0"),
        ({"dropout": -0.1}, "dropout: expected 0 <= p < 1"),
        ({"channels": []}, "channels: expected one positive number per block"),
        ({"channels": [8, 0]}, "channels: expected one positive number per block"),
        ({"channels": 8}, "channels"),
        ({"residual": -1}, "residual: expected 0 to 1000"),
        ({"norm": "bacth"}, "norm: .*'batch'.*found 'bacth'"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(KpnetError, match=message):
        build_backbone({"name": "conv_sandwich", **options}, 1)

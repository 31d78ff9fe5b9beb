"""Map decoders: where a blob of each level lands, and the strides that they serve."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kpnet.backbones import build_backbone
from kpnet.core.errors import KpnetError
from kpnet.heads import PyramidInfo
from kpnet.heads.decoders import DECODERS
from kpnet.heads.decoders.aspp import ASPP
from kpnet.heads.decoders.base import doublings, upsample_to

STRIDES = [2, 4, 8, 16, 32]


def pyramid(size: tuple[int, int], strides: list[int], channels: int = 1) -> PyramidInfo:
    return PyramidInfo([channels] * len(strides), strides, [(-(-size[0] // s), -(-size[1] // s)) for s in strides])


def empty_maps(info: PyramidInfo) -> list[Tensor]:
    return [torch.zeros(1, c, *size) for c, size in zip(info.channels, info.sizes, strict=True)]


def transparent(decoder: nn.Module) -> nn.Module:
    """Weights that pass a one-channel map through: what remains is the decoder's geometry."""
    with torch.no_grad():
        for layer in decoder.modules():
            if isinstance(layer, nn.ConvTranspose2d):  # bilinear
                tap = torch.tensor([0.25, 0.75, 0.75, 0.25])
                layer.weight[:] = tap[:, None] * tap
            elif isinstance(layer, nn.Conv2d):
                layer.weight.zero_()
                layer.weight[..., layer.kernel_size[0] // 2, layer.kernel_size[1] // 2] = 1
                if layer.bias is not None:
                    layer.bias.zero_()
    return decoder.eval()


def centroid(maps: Tensor) -> tuple[float, float]:
    m = maps[0, 0].double()
    x = (m.sum(0) * torch.arange(m.shape[1])).sum() / m.sum()
    y = (m.sum(1) * torch.arange(m.shape[0])).sum() / m.sum()
    return x.item(), y.item()


# Sizes that the coarse strides do not divide


@pytest.mark.parametrize("size", [(100, 100), (100, 132), (164, 76), (96, 96)])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize(
    ("name", "levels"),
    [("top_down", [0, 1, 2, 3, 4]), ("unet", [0, 1, 2, 3, 4]), ("deconv", [4]), ("upsample", [4]), ("aspp", [4])],
)
def test_a_cell_of_any_level_lands_where_it_stands(
    name: str, levels: list[int], stride: int, size: tuple[int, int]
) -> None:
    info = pyramid(size, STRIDES)
    decoder = transparent(DECODERS.build({"name": name, "width": 1}, info, stride))
    if isinstance(decoder, ASPP):  # the image's mean has no place
        for parameter in decoder.pooled.parameters():
            nn.init.zeros_(parameter)
    for level in levels:
        s = STRIDES[level]
        if s < stride:
            continue
        maps = empty_maps(info)
        # Where no spread of the upsampling reaches a border; coarse levels have one cell only for that.
        x, y = min(info.sizes[level][1] // 2, size[1] // s - 2), min(info.sizes[level][0] // 2, size[0] // s - 2)
        maps[level][0, 0, y, x] = 1
        out = decoder(maps)
        assert out.shape == (1, 1, size[0] // stride, size[1] // stride)
        # The cell's centre is that of pixels s j … s (j + 1) - 1, here in cells of `stride` pixels.
        expected = [(c + 0.5) * s / stride - 0.5 for c in (x, y)]
        if y >= 1 and x >= 1:
            assert centroid(out) == pytest.approx(expected, abs=1e-3), f"level {level}"


@pytest.mark.parametrize("size", [(25, 25), (24, 25), (24, 24), (26, 27)])
def test_upsample_to_keeps_cell_0_in_place(size: tuple[int, int]) -> None:
    x = torch.rand(2, 3, 13, 13)
    up = upsample_to(x, 2, size)
    assert up.shape == (2, 3, *size)
    whole = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
    h, w = min(size[0], 26), min(size[1], 26)
    assert torch.equal(up[..., :h, :w], whole[..., :h, :w])
    if size[1] > 26:  # edge-padded
        assert torch.equal(up[..., 26], up[..., 25])


@pytest.mark.parametrize("name", sorted(DECODERS))
@pytest.mark.parametrize("size", [(100, 100), (52, 84)])
def test_a_real_backbones_maps_fit(name: str, size: tuple[int, int]) -> None:
    net = build_backbone({"name": "conv_sandwich", "channels": [3, 4, 5, 6, 7]}, 1)
    info = PyramidInfo(net.channels, net.strides, [(-(-size[0] // s), -(-size[1] // s)) for s in net.strides])
    decoder = DECODERS.build(name, info, 4)
    features = net(torch.rand(2, 1, *size))
    assert [tuple(f.shape[-2:]) for f in features] == info.sizes
    assert decoder(features).shape == (2, decoder.channels, size[0] // 4, size[1] // 4)


# Strides


@pytest.mark.parametrize("name", sorted(DECODERS))
@pytest.mark.parametrize(
    ("strides", "stride"),
    [
        (STRIDES, 1),  # finer than the finest map
        (STRIDES, 32),
        ([4, 8, 16, 32], 2),
        ([3, 6, 12], 3),
        ([3, 6, 12], 6),
        ([5, 10], 5),
        ([16, 16, 16], 4),  # a ViT's
        ([14], 7),
        ([8], 8),
    ],
)
def test_strides_that_are_served(name: str, strides: list[int], stride: int) -> None:
    size = (2 * max(strides) * stride, 3 * max(strides) * stride)
    info = pyramid(size, strides, 2)
    decoder = DECODERS.build({"name": name, "width": 4}, info, stride)
    assert size[0] % decoder.size_divisor == size[1] % decoder.size_divisor == 0
    assert decoder(empty_maps(info)).shape == (1, decoder.channels, size[0] // stride, size[1] // stride)


@pytest.mark.parametrize("name", sorted(DECODERS))
@pytest.mark.parametrize("strides", [STRIDES, [4, 8], [3, 6, 12], [16, 16]])
def test_every_multiple_is_enough(name: str, strides: list[int]) -> None:
    """What `multiple` promises: any multiple of it gives maps of exactly H / stride."""
    for stride in {strides[0], strides[-1], max(1, strides[0] // 2) if strides[0] % 2 == 0 else strides[0]}:
        for times in range(1, 8):
            multiple = DECODERS.build({"name": name, "width": 1}, pyramid((64, 64), strides), stride).size_divisor
            assert multiple % stride == 0
            size = (multiple * times, multiple * (8 - times))
            info = pyramid(size, strides)
            decoder = DECODERS.build({"name": name, "width": 1}, info, stride).eval()
            assert decoder(empty_maps(info)).shape[-2:] == (size[0] // stride, size[1] // stride)


@pytest.mark.parametrize("name", sorted(DECODERS))
@pytest.mark.parametrize(
    ("strides", "stride", "message"),
    [
        (STRIDES, 64, r"stride 64 is coarser than the backbone's coarsest map \(its strides: 2, 4, 8, 16, 32\)"),
        (STRIDES, 3, "to stride 3 by doubling the map"),
        ([4, 8], 6, "to stride 6 by doubling the map"),
        ([3, 6, 12], 2, "to stride 2 by doubling the map"),
        ([14], 4, "stride 14 cannot be brought to stride 4 by doubling the map"),
    ],
)
def test_strides_that_are_refused(name: str, strides: list[int], stride: int, message: str) -> None:
    with pytest.raises(KpnetError, match=f"{name}.*{message}") as caught:
        DECODERS.build(name, pyramid((96, 96), strides), stride)
    assert "\n" not in str(caught.value)


def test_levels_that_are_no_doubling_of_each_other() -> None:
    info = pyramid((96, 96), [2, 6])
    with pytest.raises(KpnetError, match="stride 6 cannot be brought to stride 2"):
        DECODERS.build("top_down", info, 2)
    assert DECODERS.build("top_down", info, 6)(empty_maps(info)).shape == (1, 64, 16, 16)


def test_doublings() -> None:
    assert [doublings(c, f, "x") for c, f in ((8, 8), (8, 4), (32, 1), (12, 3))] == [0, 1, 5, 2]
    for coarse, fine in ((4, 8), (12, 8), (7, 2)):
        with pytest.raises(KpnetError):
            doublings(coarse, fine, "x")


# Contents


@pytest.mark.parametrize("name", ["top_down", "unet"])
def test_every_level_from_its_stride_up_is_used_and_none_below(name: str) -> None:
    info = pyramid((64, 64), STRIDES, 2)
    torch.manual_seed(0)
    decoder = DECODERS.build({"name": name, "width": 4}, info, 8).eval()
    maps = [torch.rand(1, 2, *size, requires_grad=True) for size in info.sizes]
    decoder(maps).square().sum().backward()
    assert [m.grad is not None and m.grad.abs().sum().item() > 0 for m in maps] == [False, False, True, True, True]


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_width_is_the_channels_between(name: str) -> None:
    decoder = DECODERS.build({"name": name, "width": 24}, pyramid((64, 64), STRIDES, 2), 4)
    assert decoder.channels == 24
    assert decoder(empty_maps(pyramid((64, 64), STRIDES, 2))).shape == (1, 24, 16, 16)


def test_aspp_joins_the_coarsest_map_and_the_one_at_its_stride() -> None:
    info = pyramid((64, 64), STRIDES, 2)
    torch.manual_seed(0)
    maps = [torch.rand(1, 2, *size, requires_grad=True) for size in info.sizes]
    for stride, used in ((4, [1, 4]), (1, [4]), (32, [4])):
        for m in maps:
            m.grad = None
        DECODERS.build({"name": "aspp", "width": 4}, info, stride).eval()(maps).square().sum().backward()
        assert [i for i, m in enumerate(maps) if m.grad is not None] == used


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_the_coarsest_map_always_gets_a_gradient(name: str) -> None:
    """Or the end of the backbone would not train, and distributed training stop."""
    info = pyramid((64, 64), STRIDES, 2)
    torch.manual_seed(0)
    maps = [torch.rand(2, 2, *size, requires_grad=True) for size in info.sizes]
    DECODERS.build(name, info, 4)(maps).square().sum().backward()
    assert maps[-1].grad is not None
    assert maps[-1].grad.abs().sum() > 0

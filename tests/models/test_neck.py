"""The neck between backbone and head: where a cell stands after it, when there is one, and which strides it serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kpnet
from kpnet import KpnetError, build_model
from kpnet.backbones import Backbone
from kpnet.heads.base import strides_of
from kpnet.heads.decoders import DECODERS
from kpnet.models.neck import resample


class Places(Backbone):
    """Maps whose cells hold the pixel that they stand for, x and y."""

    def __init__(self, strides: list[int]) -> None:
        super().__init__()
        self.strides, self.channels, self.mean, self.std = strides, [2] * len(strides), (0.0,), (1.0,)

    def forward(self, images: Tensor) -> list[Tensor]:
        size = (images.shape[-2], images.shape[-1])
        return [places(s, size).expand(len(images), -1, -1, -1) for s in self.strides]


def places(stride: int, size: tuple[int, int]) -> Tensor:
    ys, xs = (stride * torch.arange(-(-side // stride)) + (stride - 1) / 2 for side in size)
    return torch.stack(torch.meshgrid(xs, ys, indexing="xy"))[None]


@pytest.mark.parametrize("size", [(96, 96), (100, 84), (61, 256)])
@pytest.mark.parametrize(
    ("source", "target"), [(14, 4), (14, 8), (14, 16), (16, 4), (16, 12), (32, 3), (7, 5), (6, 11), (12, 11), (8, 8)]
)
def test_a_cell_says_its_place_after_the_neck(source: int, target: int, size: tuple[int, int]) -> None:
    found, expected = resample(places(source, size), source, target, size), places(target, size)
    assert found.shape == expected.shape
    # Beyond the centres of the first and last cells of the source, the map is held constant.
    edges = places(source, size).amax((-2, -1), keepdim=True)
    expected = expected.clamp(min=(source - 1) / 2).minimum(edges)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_the_head_is_given_maps_that_say_their_places() -> None:
    model = build_model(
        backbone=Places([7, 14, 28]), head="heatmap", num_keypoints=1, in_channels=1, input_size=(100, 84)
    ).eval()
    maps = model.features(torch.zeros(1, 1, 100, 84))
    for stride, source, found in zip([4, 8, 16], [7, 14, 28], maps, strict=True):
        inside = (places(stride, (100, 84)) - places(source, (100, 84)).amax((-2, -1), keepdim=True)).amax(1) <= 0
        inside &= places(stride, (100, 84)).amin(1) >= (source - 1) / 2
        assert inside.sum() > 9
        wrong = (found - places(stride, (100, 84))).abs().amax(1)
        assert wrong[inside].max() < 1e-4


def head_of(model: kpnet.KeypointModel) -> Any:
    return model.neck.pyramid.strides if model.neck is not None else None


@pytest.mark.parametrize(
    ("strides", "stride", "size", "expected"),
    [
        ([14], 4, 96, [4]),
        ([14], 7, 98, None),  # doubling leads there
        ([14], 16, 96, [16]),
        ([16], 4, 96, None),
        ([16], 4, 100, [4]),  # 16 does not divide 100
        ([2, 4, 8, 16, 32], 4, 100, None),
        ([2, 4, 8, 16, 32], 3, 96, [3, 6, 12, 24]),
        ([2, 6], 2, 96, [2, 4]),
        ([7, 14, 28], 4, 96, [4, 8, 16]),
    ],
)
def test_when_there_is_a_neck(strides: list[int], stride: int, size: int, expected: list[int] | None) -> None:
    head = {"name": "heatmap", "stride": stride}
    model = build_model(backbone=Places(strides), head=head, num_keypoints=2, in_channels=1, input_size=size).eval()
    assert head_of(model) == expected
    with torch.no_grad():
        assert model(torch.rand(2, 1, size, size)).shape == (2, 2, 2)
    assert not [name for name in model.state_dict() if "neck" in name]


@pytest.mark.parametrize("decoder", sorted(DECODERS))
def test_every_decoder_learns_through_a_neck(decoder: str) -> None:
    head = {"name": "heatmap", "decoder": {"name": decoder, "width": 4}}
    backbone = nn.Conv2d(1, 3, 14, 14, padding=0)
    net = nn.Sequential(nn.ZeroPad2d((0, 2, 0, 2)), backbone)  # 96 to 98
    model = build_model(backbone=net, head=head, num_keypoints=2, in_channels=1, input_size=96)
    model(torch.rand(2, 1, 96, 96)).square().sum().backward()
    assert backbone.weight.grad is not None
    assert backbone.weight.grad.abs().sum() > 0


def test_strides_that_several_heads_need() -> None:
    head = {"name": "multi", "heads": {"fine": "heatmap", "coarse": "offset", "points": "regression"}}
    assert strides_of(head) == [4, 8]
    assert strides_of({"name": "temporal", "head": {"name": "heatmap", "stride": 2}}) == [2]
    assert strides_of("temporal") == strides_of("centers") == strides_of("simcc") == [4]
    model = build_model(backbone=Places([14]), head=head, num_keypoints=2, in_channels=1, input_size=96)
    assert head_of(model) == [4, 8]


def test_a_temporal_head_takes_clips_through_a_neck() -> None:
    head = {"name": "temporal", "past": 1, "width": 4}
    model = build_model(backbone=Places([14]), head=head, num_keypoints=2, in_channels=1, input_size=96).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, 1, 96, 96)).shape == (4, 2, 2)


@pytest.mark.parametrize(("strides", "stride"), [([14], 28), ([2, 4, 8], 16), ([2, 4, 8], 64)])
def test_a_stride_that_is_far_too_coarse(strides: list[int], stride: int) -> None:
    with pytest.raises(KpnetError, match=f"stride {stride} is coarser than the backbone's coarsest map"):
        build_model(
            backbone=Places(strides), head={"name": "heatmap", "stride": stride}, num_keypoints=2, input_size=448
        )


def test_a_size_that_the_heads_stride_does_not_divide() -> None:
    with pytest.raises(KpnetError, match=r"multiples of 4; nearest: \[96, 84\]"):
        build_model(backbone=Places([14]), head="heatmap", num_keypoints=2, in_channels=1, input_size=(97, 85))


def test_a_saved_model_with_a_neck(tmp_path: Path) -> None:
    values: dict[str, Any] = {"backbone": "test_vit", "num_keypoints": 2, "in_channels": 1, "input_size": (36, 52)}
    model = build_model(**values, head="heatmap").eval()
    assert head_of(model) == [4]
    model.save(tmp_path)
    images = torch.rand(2, 1, 36, 52)
    with torch.no_grad():
        assert torch.equal(kpnet.load_model(tmp_path)(images), model(images))
    assert [tuple(each.shape[-2:]) for each in model.features(images)] == [(9, 13)]

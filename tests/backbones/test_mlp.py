"""The case study's fully connected network: its layers, its mirror, its one cell, and what does not fit on it."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kpnet import build_model, load_model
from kpnet.backbones import build_backbone
from kpnet.core.errors import KpnetError


def mlp(channels: int = 1, size: int = 16, **options: Any) -> Any:
    torch.manual_seed(0)
    return build_backbone({"name": "mlp", "hidden": 16, "latent": 4, **options}, channels, input_size=(size, size))


def linear(inp: int, out: int) -> int:
    return inp * out + out


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_widths_and_parameters() -> None:
    net: Any = build_backbone("mlp", 3, input_size=(20, 20))
    widths = [3 * 20 * 20, 392, 196, 98, 49, 32]
    found = [(m.in_features, m.out_features) for m in net.modules() if isinstance(m, nn.Linear)]
    assert found == list(itertools.pairwise(widths))
    pairs = sum(linear(a, b) for a, b in itertools.pairwise(widths))
    norms = sum(2 * width for width in widths[1:-1])
    assert count(net) == pairs + norms
    kinds = [type(m).__name__ for m in net.layers]
    assert kinds == ["Linear", "BatchNorm", "ReLU"] * 4 + ["Linear"]


def test_encoder_and_mirror_are_as_large_as_the_slides_say() -> None:
    """'Your model has 0.824 mio. params', on 28x28 grey images."""
    net = build_backbone("mlp", 1, input_size=(28, 28))
    mirror = net.mirror()
    assert mirror is not None
    assert 0.824e6 <= count(net) + count(mirror) < 0.825e6


def test_the_mirror_gives_images_by_the_same_widths_in_reverse() -> None:
    net = mlp(channels=3)
    mirror = net.mirror()
    ahead = [(m.in_features, m.out_features) for m in net.modules() if isinstance(m, nn.Linear)]
    back = [(m.out_features, m.in_features) for m in mirror.modules() if isinstance(m, nn.Linear)]
    assert back[::-1] == ahead
    images = torch.rand(5, 3, 16, 16)
    assert mirror(net(images)[-1]).shape == images.shape


def test_is_the_slides_chain_of_layers() -> None:
    net = mlp().eval()
    x = torch.rand(3, 1, 16, 16)
    expected = x.flatten(1)
    for i in range(0, 12, 3):
        norm = net.layers[i + 1]
        expected = F.linear(expected, net.layers[i].weight, net.layers[i].bias)
        expected = (expected - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        expected = expected.clamp(min=0)
    expected = F.linear(expected, net.layers[12].weight, net.layers[12].bias)  # no norm, no ReLU
    (found,) = net(x)
    torch.testing.assert_close(found, expected[:, :, None, None])
    assert (net.strides, net.channels) == ([16], [4])
    assert len(net.mean) == len(net.std) == 1


def test_a_batch_of_one_trains_by_the_running_statistics() -> None:
    """The last batch of an epoch may be of one, and so is --overfit 1."""
    net = mlp()
    net(torch.rand(8, 1, 16, 16))
    twin = copy.deepcopy(net).eval()
    one = torch.rand(1, 1, 16, 16)
    before = {name: value.clone() for name, value in net.named_buffers()}
    assert torch.equal(net(one)[0], twin(one)[0])
    assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
    many = torch.rand(8, 1, 16, 16)
    assert not torch.allclose(net(many)[0], twin(many)[0])


@pytest.mark.parametrize("head", ["regression", "rle", {"name": "regression", "pool": "avg", "hidden": []}])
def test_regression_heads_work_on_it(head: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model(
        backbone={"name": "mlp", "hidden": 16}, head=head, num_keypoints=3, in_channels=1, input_size=16
    )
    images = torch.rand(4, 1, 16, 16)
    xy = model(images)
    assert xy.shape == (4, 3, 2)
    model.head.loss(model.output(images), torch.zeros(4, 3, 2), torch.ones(4, 3))
    xy.square().sum().backward()
    assert all(p.grad is not None for p in model.backbone.parameters())
    model.save(tmp_path)
    assert torch.equal(load_model(tmp_path)(images), model.eval()(images))


@pytest.mark.parametrize(
    "head", ["heatmap", "simcc", "offset", {"name": "multi", "heads": {"a": "rle", "b": "heatmap"}}]
)
@pytest.mark.parametrize("side", [64, 96])  # of which the first is a power of 2 of a map's cells
def test_heads_that_decode_maps_are_refused(head: Any, side: int) -> None:
    with pytest.raises(
        KpnetError, match="one vector for the whole image, and no map to decode: use the head regression"
    ):
        build_model(backbone="mlp", head=head, num_keypoints=3, in_channels=1, input_size=side)


@pytest.mark.parametrize(
    ("channels", "size", "options", "message"),
    [
        (1, (16, 24), {}, "input_size: expected a square, e.g. 96, found 16x24"),
        (1, None, {}, "input_size: expected a square, e.g. 96, found none"),
        (0, (16, 16), {}, "in_channels: expected at least 1, found 0"),
        (1, (16, 16), {"hidden": 4}, "hidden: Input should be greater than or equal to 8, found 4"),
        (1, (16, 16), {"latnet": 8}, r'unknown key "latnet" \(did you mean "latent"\?\)'),
    ],
)
def test_what_it_cannot_be_built_for(channels: int, size: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(KpnetError, match=f'backbone "mlp": {message}'):
        build_backbone({"name": "mlp", **options}, channels, input_size=size)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(KpnetError, match=r"expected images of 1x16x16.*found 1x16x24"):
        mlp()(torch.rand(1, 1, 16, 24))

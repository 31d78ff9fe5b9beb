"""Networks of timm: downloads without a network, and maps that threads share."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
import timm
import torch
from huggingface_hub import constants
from support.timm_families import LARGE, SMALLEST

from kpnet import KpnetError, build_model
from kpnet.backbones import build_backbone
from kpnet.backbones.timm_networks import TimmBackbone


def test_no_connection_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: list[Any] = []

    class Unplugged:
        def head(self, url: str, timeout: float) -> None:
            requests.append(url)
            raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.utils.get_session", Unplugged)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(KpnetError, match=r"no connection to https://\S+: no route to host\); fetch the file") as caught:
        build_backbone("vit_tiny_patch16_224", 3, True, (32, 32))
    assert len(requests) == 1
    assert "\n" not in str(caught.value)
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.slow  # its networks are large
def test_threads_do_not_mix_the_maps_that_hooks_keep() -> None:
    net = build_backbone("legacy_xception", 3, input_size=(64, 64)).eval()
    assert net._has_hooks
    images = [torch.rand(1, 3, 64, 64) for _ in range(2)]
    failed: list[int] = []

    def run(i: int) -> None:
        for _ in range(4):
            with torch.no_grad():
                failed.extend([i] * (not torch.equal(net(images[i])[-1], expected[i])))

    with torch.no_grad():
        expected = [net(image)[-1] for image in images]
    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


# One network of each family: strides, and what its images are padded to


FAMILIES: dict[str, tuple[list[int], int]] = {
    "test_vit": ([16], 16),
    "eva02_tiny_patch14_224": ([14], 14),
    "vit_tiny_patch16_dinov3_qkvb": ([16], 16),
    "test_convnext": ([4, 8, 16, 32], 32),
    "hrnet_w18_small": ([2, 4, 8, 16, 32], 32),
    "mobilenetv4_conv_small": ([2, 4, 8, 16, 32], 1),
}
LARGER: dict[str, tuple[list[int], int]] = {
    "vit_small_patch14_dinov2": ([14], 14),
    "vit_base_patch16_siglip_224": ([16], 16),
    "swin_tiny_patch4_window7_224": ([4, 8, 16, 32], 32),
}


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGER)])
def test_every_family_takes_any_size(name: str) -> None:
    strides, pad_to = (FAMILIES | LARGER)[name]
    net = build_backbone(name, 3, input_size=(66, 50)).eval()
    assert isinstance(net, TimmBackbone)
    assert (net.strides, net.pad_to) == (strides, pad_to)
    for height, width in ((66, 50), (64, 96), (45, 71)):
        with torch.no_grad():
            found = [tuple(each.shape) for each in net(torch.rand(1, 3, height, width))]
        pairs = zip(net.channels, strides, strict=True)
        assert found == [(1, channels, -(-height // s), -(-width // s)) for channels, s in pairs]


def test_padding_is_on_the_right_and_below() -> None:
    net = build_backbone("test_vit", 3, input_size=(40, 52)).eval()
    assert isinstance(net, TimmBackbone)
    image = torch.rand(1, 3, 40, 52)
    padded = torch.zeros(1, 3, 48, 64)
    padded[..., :40, :52] = image
    with torch.no_grad():
        assert torch.equal(net(image)[0], net(padded)[0])
    assert net.net.model.patch_embed.grid_size == (3, 4)  # position embeddings of the padded size


def test_a_size_without_padding_stays_as_it_is() -> None:
    """Not every multiple of a smaller stride covers: this one does, and is not padded to 32."""
    net = build_backbone("legacy_seresnet18", 3, input_size=(64, 80)).eval()
    assert isinstance(net, TimmBackbone)
    assert net.pad_to == 32
    images = torch.rand(1, 3, 64, 80)
    with torch.no_grad():
        expected = [each for i, each in enumerate(net.net(images)) if i in net._kept]
        assert all(torch.equal(a, b) for a, b in zip(net(images), expected, strict=True))
        assert [tuple(each.shape[-2:]) for each in net(torch.rand(1, 3, 61, 74))][-1] == (2, 3)


def test_a_size_that_a_transformer_cannot_take() -> None:
    with pytest.raises(KpnetError, match=r"64x80 pixels: .*square inputs; the nearest size that it takes: 64x64") as e:
        build_backbone("nest_tiny", 3, input_size=(64, 80))
    assert "\n" not in str(e.value)


@pytest.mark.slow  # the network is large
def test_a_network_that_fails_with_an_index_is_taken_at_the_size_that_is_named() -> None:
    with pytest.raises(KpnetError, match="the nearest size that it takes: 64x64"):
        build_backbone("mvitv2_tiny", 3, input_size=(64, 80))
    assert build_backbone("mvitv2_tiny", 3, input_size=(64, 64)).strides == [4, 8, 16, 32]


REFUSED = {
    "halonet_h1": "the nearest size that it takes: 256x256",  # whole windows of attention
    "convit_tiny": "the nearest size that it takes: 80x80",  # square images alone
    "crossvit_tiny_240": "The size of tensor a",  # one size, with patches of two sizes that do not cover it
    "efficientformer_l1": "the nearest size that it takes: 224x224",  # attention of one size
    "inception_v3": "Kernel size can't be greater than actual input size",  # layers without padding
    "mvitv2_tiny": "the nearest size that it takes: 64x64",
    "nest_tiny": "the nearest size that it takes: 64x64",  # square images alone
    "pit_ti_224": "the map of stride 8 does not cover an image",  # patches that overlap, without padding
}


@pytest.mark.slow
def test_which_of_timms_modules_are_refused() -> None:
    """The smallest network of each module at 64x80, then an odd size; see `docs/guides/transfer.md`."""
    assert set(timm.list_modules()) <= SMALLEST.keys() | LARGE, "add the smallest network of the new module"
    refused = {}
    for module, name in SMALLEST.items():
        if module not in timm.list_modules():  # of a newer timm
            continue
        try:
            model = build_model(backbone=name, head="regression", num_keypoints=2, input_size=(64, 80))
        except KpnetError as error:
            refused[name] = str(error)
            continue
        net = cast("TimmBackbone", model.backbone.eval())
        with torch.no_grad():
            found = [tuple(each.shape[-2:]) for each in net(torch.rand(1, 3, 61, 74))]
        assert found == [(-(-61 // s), -(-74 // s)) for s in net.strides], name
    assert refused.keys() == REFUSED.keys()
    assert not [text for name, text in refused.items() if REFUSED[name] not in text]


@pytest.mark.parametrize("size", [(64, 64), (66, 50)])
def test_padding_of_images_does_not_hide_maps_that_do_not_cover_them(size: tuple[int, int]) -> None:
    """Its stem has no padding, so that its cells do not stand where the stride says."""
    with pytest.raises(KpnetError, match="the map of stride 8 does not cover an image") as caught:
        build_backbone("pit_ti_224", 3, input_size=size)
    assert str(caught.value).startswith("images of 66x50 pixels are padded; backbone" if size[1] == 50 else "backbone")

"""Weights from files and from the libraries' own downloads: bit-equal, or refused with a line that says why."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from support.paths import SHARED
from torch import Tensor

from kpnet.backbones import build_backbone
from kpnet.backbones.weights import load_weights
from kpnet.core.errors import KpnetError

SQUEEZENET = SHARED / "weights/squeezenet1_0_imagenet_fp16.safetensors"


def _full(name: str) -> Any:
    """A classifier with nothing at its initial value, batch statistics included."""
    torch.manual_seed(1)
    net: Any = timm.create_model(name, num_classes=7)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand_like(tensor) * 0.1)
    return net.eval()


def _save(path: Path, state: dict[str, Tensor]) -> Path:
    save = save_file if path.suffix == ".safetensors" else torch.save
    save({k: v.contiguous() for k, v in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def resnet() -> Any:
    return _full("resnet18")


@pytest.mark.skipif(
    not SQUEEZENET.is_file(), reason=f"no {SQUEEZENET.name}; KPNET_SHARED names the folder above weights/"
)
def test_real_squeezenet_file() -> None:
    reference = torchvision.models.squeezenet1_0()
    reference.load_state_dict(load_file(SQUEEZENET))
    net: Any = build_backbone("torchvision/squeezenet1_0", 3, SQUEEZENET)
    ours = net.net.state_dict()
    theirs = {k: v for k, v in reference.state_dict().items() if k.startswith("features.")}
    assert ours.keys() == theirs.keys()
    assert all(v.dtype == torch.float32 and torch.equal(v, theirs[k]) for k, v in ours.items())
    assert net.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "convnext_atto", "test_vit"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_full_classifier_loads(tmp_path: Path, name: str, suffix: str) -> None:
    full = _full(name)
    size = tuple(full.pretrained_cfg["input_size"][1:])
    net = build_backbone(name, 3, _save(tmp_path / f"w{suffix}", full.state_dict()), size).eval()
    images = torch.rand(1, 3, *size)
    with torch.no_grad():
        expected = full.forward_intermediates(images, intermediates_only=True, norm=False)
        assert torch.equal(net(images)[-1], expected[-1])


def test_torchvision_classifier_loads_into_the_same_maps(tmp_path: Path) -> None:
    full = torchvision.models.resnet18().eval()
    net = build_backbone("torchvision/resnet18", 3, _save(tmp_path / "w.pth", full.state_dict())).eval()
    images = torch.rand(1, 3, 64, 64)
    x = full.layer1(full.maxpool(full.relu(full.bn1(full.conv1(images)))))
    for ours, layer in zip(net(images)[2:], (full.layer2, full.layer3, full.layer4), strict=True):
        x = layer(x)
        assert torch.equal(ours, x)


def test_position_embedding_is_resampled(tmp_path: Path) -> None:
    path = _save(tmp_path / "w.safetensors", _full("test_vit").state_dict())
    net: Any = build_backbone("test_vit", 3, path, (64, 96))
    transformer = net.net.model
    assert transformer.pos_embed.shape[1] - transformer.num_prefix_tokens == 4 * 6
    assert net(torch.rand(1, 3, 64, 96))[0].shape == (1, 64, 4, 6)


@pytest.mark.parametrize("wrap", ["module.", "backbone.net.", "model.encoder."])
def test_prefixes_and_half_precision(tmp_path: Path, resnet: Any, wrap: str) -> None:
    state = {wrap + k: v.half() if v.is_floating_point() else v for k, v in resnet.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "w.pth")
    assert torch.float16 not in {v.dtype for v in load_weights(tmp_path / "w.pth").values()}
    net: Any = build_backbone("resnet18", 3, tmp_path / "w.pth").net
    assert torch.equal(net.layer4[1].conv2.weight, resnet.layer4[1].conv2.weight.half().float())


def test_own_backbone_loads_a_path_and_knows_no_download(tmp_path: Path) -> None:
    spec = {"name": "conv_sandwich", "channels": [4, 8], "norm": "batch"}
    source = build_backbone(spec, 1)
    path = _save(tmp_path / "w.safetensors", {f"backbone.{k}": v for k, v in source.state_dict().items()})
    loaded = build_backbone(spec, 1, path)
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in source.state_dict().items())
    with pytest.raises(KpnetError, match=r"w.safetensors: .*blocks.1.0.weight.*\(8, 4, 3, 3\).*expects \(9, 4, 3, 3\)"):
        build_backbone({**spec, "channels": [4, 9]}, 1, path)
    with pytest.raises(KpnetError, match="holds layers that the model does not have"):
        build_backbone({**spec, "channels": [4]}, 1, path)
    with pytest.raises(KpnetError, match="no published weights"):
        build_backbone(spec, 1, True)


@pytest.mark.parametrize(
    ("name", "in_channels", "change", "message"),
    [
        ("resnet18", 1, {}, r'"conv1.weight" does not fit: .*\(64, 3, 7, 7\).*expects \(64, 1, 7, 7\)'),
        ("resnet18", 3, {"layer2.0.bn1.bias": None}, 'first "layer2.0.bn1.bias"'),
        (
            "resnet18",
            3,
            {"layer1.2.conv1.weight": torch.zeros(1)},
            "layers that the model does not have, .*layer1.2.conv1",
        ),
        ("resnet10t", 3, {}, "does not fit|not in the file"),
        ("convnext_atto", 3, {}, "not in the file"),
    ],
)
def test_weights_of_another_network(
    tmp_path: Path, resnet: Any, name: str, in_channels: int, change: dict, message: str
) -> None:
    state = {k: v for k, v in {**resnet.state_dict(), **change}.items() if v is not None}
    path = _save(tmp_path / "w.safetensors", state)
    with pytest.raises(KpnetError, match=message) as caught:
        build_backbone(name, in_channels, path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_counter_of_old_batch_norms_may_be_absent(tmp_path: Path, resnet: Any) -> None:
    state = {k: v for k, v in resnet.state_dict().items() if "num_batches" not in k}
    net: Any = build_backbone("resnet18", 3, _save(tmp_path / "w.pth", state)).net
    assert torch.equal(net.bn1.running_var, resnet.bn1.running_var)


def test_timm_download(monkeypatch: pytest.MonkeyPatch, resnet: Any) -> None:
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", lambda *_, **__: resnet.state_dict())
    net: Any = build_backbone("resnet18", 3, True).net
    assert torch.equal(net.layer4[1].conv2.weight, resnet.layer4[1].conv2.weight)


def test_torchvision_download(monkeypatch: pytest.MonkeyPatch) -> None:
    full = torchvision.models.squeezenet1_1()
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *_, **__: full.state_dict())
    net: Any = build_backbone("torchvision/squeezenet1_1", 3, True).net
    assert torch.equal(net.features[0].weight, full.features[0].weight)


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [
        ("resnet18", timm.models._builder, "load_state_dict_from_hf"),
        ("torchvision/alexnet", torchvision.models._api, "load_state_dict_from_url"),
    ],
)
def test_failing_download(monkeypatch: pytest.MonkeyPatch, name: str, module: object, function: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(module, function, fail)
    with pytest.raises(KpnetError, match=r"no route to host.*set pretrained to its path") as caught:
        build_backbone(name, 3, True)
    assert "\n" not in str(caught.value)
    with pytest.raises(KpnetError, match="take 3 input channels, found in_channels 1"):
        build_backbone(name, 1, True)


class _Evil:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_a_pickle_that_would_run_code(tmp_path: Path, protocol: int | None) -> None:
    path, target = tmp_path / "w.pth", tmp_path / "executed"
    content = {"conv1.weight": torch.zeros(1), "x": _Evil(target)}
    if protocol:
        path.write_bytes(pickle.dumps({"x": _Evil(target)}, protocol=protocol))
    else:
        torch.save(content, path)
    with pytest.raises(KpnetError, match="refused and not run"):
        load_weights(path)
    assert not target.exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("keep", [0.0, 0.0001, 0.5, 0.999])
def test_truncated_files(tmp_path: Path, resnet: Any, suffix: str, keep: float) -> None:
    path = _save(tmp_path / f"w{suffix}", {"conv1.weight": resnet.conv1.weight.detach()})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(KpnetError, match="corrupt or truncated") as caught:
        load_weights(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_without_weights(tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match="no such weight file"):
        load_weights(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("not a model")
    with pytest.raises(KpnetError, match="not a readable weight file"):
        load_weights(tmp_path / "text.pth")
    for content, message in (([1, 2], "found a list"), ({"epoch": 3}, "no weights found")):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(KpnetError, match=message):
            load_weights(tmp_path / "w.pth")

"""Detectors of torchvision as finders: the network that torchvision makes itself is the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from kpnet import KpnetError, Predictor, build_model, load_model
from kpnet.models.detectors import Detector
from kpnet.models.keypoint_model import KeypointModel

NAME, LARGER = "torchvision/ssdlite320_mobilenet_v3_large", "torchvision/fasterrcnn_mobilenet_v3_large_320_fpn"


def standin(name: str, size: int, label: int = 1) -> Any:
    """A network of torchvision with random weights that is sure of one class everywhere."""
    torch.manual_seed(0)
    sides = {} if "ssd" in name else {"min_size": size, "max_size": size}
    net: Any = torchvision.models.get_model(
        name.removeprefix("torchvision/"), weights=None, weights_backbone=None, num_classes=91, **sides
    ).eval()
    if "ssd" in name:
        for block in net.head.classification_head.module_list:
            block[1].bias.data.view(-1, 91)[:, label] = 8.0
    else:
        net.roi_heads.box_predictor.cls_score.bias.data[label] = 8.0
    return net


def crops_of(detector: Any, **instances: Any) -> KeypointModel:
    return build_model(
        backbone={"name": "conv_sandwich", "channels": [4]},
        head={"name": "heatmap", "stride": 2},
        num_keypoints=2,
        input_size=32,
        instances={"detector": detector, **instances},
    )


@pytest.mark.parametrize("name", [NAME, pytest.param(LARGER, marks=pytest.mark.slow)])
def test_boxes_are_those_of_torchvision(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = standin(name, 96)
    torch.save(net.state_dict(), tmp_path / "detector.pth")
    model = crops_of(name, pretrained=str(tmp_path / "detector.pth"), input_size=96)
    model.train()
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    found = model.find(images, threshold=0.2)
    with torch.no_grad():
        expected = net(list(images))
    assert len(expected[0]["boxes"]) > 3
    for ours, theirs in zip(found, expected, strict=True):
        kept = (theirs["labels"] == 1) & (theirs["scores"] >= 0.2)
        assert torch.allclose((ours.boxes + 1) * 48, theirs["boxes"][kept], atol=1e-3)
        assert torch.allclose(ours.scores, theirs["scores"][kept], atol=1e-5)
    few = model.find(images, 0.2, 2)[0]
    assert torch.equal(few.boxes, found[0].boxes[:2])

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a saved model downloads nothing")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fail)
    model.save(tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert torch.equal(again.find(images, 0.2)[1].boxes, found[1].boxes)
    image = np.random.default_rng(0).integers(0, 255, (60, 90), np.uint8)
    prediction = Predictor(tmp_path / "saved", max_instances=3, threshold=0.1)(image)
    assert 0 < len(prediction.keypoints) <= 3


def test_published_weights_of_another_class(monkeypatch: pytest.MonkeyPatch) -> None:
    net = standin(NAME, 320, label=18)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", lambda *_, **__: net.state_dict())
    detector = Detector({"name": NAME, "label": "dog", "threshold": 0.1}, (320, 320))
    image = torch.rand(1, 3, 320, 320, generator=torch.Generator().manual_seed(1))
    assert len(detector.find(image)[0].boxes)
    detector = Detector({"name": NAME, "threshold": 0.1}, (320, 320))
    assert detector.label == "person"
    assert not len(detector.find(image)[0].boxes)


def test_it_is_not_trained() -> None:
    model = build_model(
        backbone={"name": "conv_sandwich", "channels": [4]}, head={"name": "heatmap", "stride": 2}, num_keypoints=2
    )
    model.finder = Detector(NAME, (320, 320), weights=False)
    before = {name: value.clone() for name, value in model.finder.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.train()
    model.loss({"image": torch.rand(2, 3, 96, 96), "keypoints": torch.rand(2, 2, 2)}).backward()
    optimizer.step()
    assert not any(module.training for module in model.finder.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.finder.state_dict().items())


def test_what_is_no_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fail)
    (tmp_path / "none.pth").write_text("none")
    for detector, more, expected in (
        ("torchvision/ssdlite320_mobilenet_v3_larg", {}, f'did you mean "{NAME}"'),
        ("torchvision/resnet18", {}, 'model.instances.detector: unknown "torchvision/resnet18"'),
        ({"name": NAME, "label": "persn"}, {}, 'it knows no "persn" (did you mean "person"?)'),
        ({"name": NAME, "lable": "dog"}, {}, "lable"),
        ({"name": NAME, "threshold": 2}, {}, "threshold"),
        (NAME, {"backbone": "resnet18"}, "give either a detector, or backbone and head"),
        (NAME, {"pretrained": str(tmp_path / "none.pth")}, "none.pth"),
        (NAME, {}, "no route to host); fetch the file elsewhere and set model.instances.pretrained to its path"),
    ):
        with pytest.raises(KpnetError) as caught:
            crops_of(detector, **more)
        assert expected in str(caught.value), caught.value
        assert "\n" not in str(caught.value)

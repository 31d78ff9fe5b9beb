"""KeypointModel on a backbone with weights of another library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import kpnet
from kpnet import KpnetError, build_model, load_model


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A resnet18 as timm would publish it, batch statistics and classifier included."""
    torch.manual_seed(1)
    state = timm.create_model("resnet18", num_classes=10).state_dict()
    state = {k: v + 0.1 * torch.rand_like(v) if v.is_floating_point() else v for k, v in state.items()}
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(state, path)
    return path


def of_file(path: Path, channels: int) -> kpnet.KeypointModel:
    head = {"name": "regression", "pool": "avg"}
    values: dict[str, Any] = {
        "head": head,
        "num_keypoints": 4,
        "in_channels": channels,
        "input_size": 64,
        "pretrained": str(path),
    }
    return build_model(backbone="resnet18", **values).eval()


def test_grey_into_a_pretrained_rgb_stem_is_the_image_repeated(resnet_file: Path) -> None:
    grey, colour = of_file(resnet_file, 1), of_file(resnet_file, 3)
    colour.head.load_state_dict(grey.head.state_dict())
    images = torch.rand(2, 1, 64, 64)
    repeated = images.repeat(1, 3, 1, 1)
    assert torch.equal(grey(images), colour(repeated))

    # timm itself, fed as its documentation says.
    reference: Any = timm.create_model("resnet18", features_only=True, num_classes=10).eval()
    reference.load_state_dict({k: v for k, v in load_file(resnet_file).items() if not k.startswith("fc.")})
    mean, std = (torch.tensor(reference.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    wanted = reference((repeated - mean) / std)
    assert torch.allclose(grey.features(images)[-1], wanted[-1], rtol=1e-4, atol=1e-4)


def test_one_mean_for_all_channels_of_a_pretrained_stem(resnet_file: Path) -> None:
    one, three = (
        build_model(
            backbone="resnet18",
            head="heatmap",
            num_keypoints=2,
            in_channels=1,
            input_size=64,
            pretrained=str(resnet_file),
            mean=[0.5] * count,
            std=[0.25] * count,
        ).eval()
        for count in (1, 3)
    )
    images = torch.rand(1, 1, 64, 64)
    assert torch.equal(one.features(images)[-1], three.features(images)[-1])


def test_a_pretrained_grey_model_round_trips_without_its_weight_file(resnet_file: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.safetensors"
    gone.write_bytes(resnet_file.read_bytes())
    model = of_file(gone, 1)
    model.save(tmp_path / "model")
    gone.unlink()
    images = torch.rand(1, 1, 64, 64)
    assert torch.equal(load_model(tmp_path / "model")(images), model(images))


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_that_do_not_fit_the_weights(resnet_file: Path, channels: int) -> None:
    with pytest.raises(KpnetError) as caught:
        of_file(resnet_file, channels)
    assert str(resnet_file) in str(caught.value)
    assert f"(64, {channels}, 7, 7)" in str(caught.value)
    assert "(64, 3, 7, 7)" in str(caught.value)

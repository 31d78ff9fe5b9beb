"""Folders that kpnet wrote as `pretrained`: the backbone bit by bit, or a line that says why not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kpnet import build_model, load_model
from kpnet.backbones import BACKBONES
from kpnet.config.pretraining import PretrainModelConfig
from kpnet.core.errors import KpnetError
from kpnet.core.model_folder import weights_file
from kpnet.models.autoencoder import Autoencoder
from kpnet.models.keypoint_model import KeypointModel

SANDWICH = {"name": "conv_sandwich", "channels": [4, 8], "norm": "batch"}


def pretraining(folder: Path, backbone: Any = SANDWICH, side: int = 32, **values: Any) -> Path:
    """What a pretraining leaves, with nothing at its initial value."""
    torch.manual_seed(7)
    config = {"backbone": backbone, "in_channels": 1, "input_size": side, **values}
    model = Autoencoder(PretrainModelConfig.model_validate(config))
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    model.save(folder / "final")
    return folder


def model_of(backbone: Any = SANDWICH, **values: Any) -> KeypointModel:
    torch.manual_seed(1)
    defaults = {"head": "regression", "num_keypoints": 3, "in_channels": 1, "input_size": 32}
    return build_model(backbone=backbone, **{**defaults, **values})


def equals_file(model: KeypointModel, folder: Path) -> bool:
    state = load_file(folder / "final" / "model.safetensors")
    ours = {f"backbone.{name}": value for name, value in model.backbone.state_dict().items()}
    return all(torch.equal(value, state[name]) for name, value in ours.items())


@pytest.mark.parametrize(
    ("backbone", "side"),
    [
        (SANDWICH, 32),
        ({"name": "mlp", "hidden": 16}, 32),  # the decoder is its mirror: the same names, other shapes
        ({"name": "mlp", "hidden": 1024, "latent": 1024}, 32),  # the first and the last layer have the mirror's shape
        ("test_resnet", 64),
        ("test_vit", 64),
        ("torchvision/squeezenet1_1", 64),
    ],
    ids=["conv_sandwich", "mlp", "square mlp", "timm", "vit", "torchvision"],
)
def test_a_pretrained_encoder_is_the_backbone_bit_by_bit(tmp_path: Path, backbone: Any, side: int) -> None:
    """A grey image too: a stem that was trained with one channel stays one."""
    run = pretraining(tmp_path / "run", backbone, side)
    for path in (run, run / "final", run / "final" / "model.safetensors"):
        model = model_of(backbone, input_size=side, pretrained=path)
        assert equals_file(model, run), path
    assert not equals_file(model_of(backbone, input_size=side), run)
    image = torch.rand(2, 1, side, side)
    model.eval().save(tmp_path / "model")
    shutil.rmtree(run)  # a saved model needs its source no more
    assert torch.equal(load_model(tmp_path / "model")(image), model(image))


def test_a_transformers_position_embedding_is_resampled(tmp_path: Path) -> None:
    model = model_of("test_vit", input_size=96, pretrained=pretraining(tmp_path / "run", "test_vit", 64))
    assert model(torch.rand(1, 1, 96, 96)).shape == (1, 3, 2)


def test_a_run_of_keypoints_is_a_source_too(tmp_path: Path, trained: Path) -> None:
    spec = {"name": "conv_sandwich", "channels": [8, 16], "norm": "batch"}
    model = model_of(spec, head="heatmap", num_keypoints=5, pretrained=trained)
    assert equals_file(model, trained)
    with pytest.raises(KpnetError, match=r"run: holds the backbone conv_sandwich \{.*\[8, 16\].*asks for test_resnet:"):
        model_of("test_resnet", pretrained=trained)


def keypoint_run(folder: Path, head: Any = "regression") -> KeypointModel:
    """A run of three named points, with nothing at its initial value."""
    model = model_of(SANDWICH, head=head, num_keypoints=None, skeleton=["nose", "left_ear", "right_ear"])
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.rand(parameter.shape, generator=generator) - 0.05)
    model.save(folder / "final")
    return model.eval()


@pytest.mark.parametrize("path", ["", "final", "final/model.safetensors", "final/model.yaml"])
def test_a_trained_head_goes_on_with_its_points(path: str, tmp_path: Path) -> None:
    """Points in another order and a new one; a fixed skeleton of the new training."""
    before = keypoint_run(tmp_path / "run")
    names = ["right_ear", "tail", "nose"]
    model = model_of(SANDWICH, num_keypoints=None, skeleton=names, pretrained=tmp_path / "run" / path).eval()
    image = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(model(image)[:, [0, 2]], before(image)[:, [2, 0]])
    assert model.head.loaded is not None
    assert model.head.loaded.new_points == ["tail"]
    assert model.backbone.loaded is not None
    assert not model.backbone.loaded.unused


@pytest.mark.parametrize("head", ["rle", {"name": "heatmap", "decoder": {"name": "top_down", "width": 8}}])
def test_another_head_starts_anew_on_the_trained_backbone(head: Any, tmp_path: Path) -> None:
    keypoint_run(tmp_path / "run")
    model = model_of(SANDWICH, head=head, pretrained=tmp_path / "run")
    assert model.head.loaded is None
    assert equals_file(model, tmp_path / "run")
    fresh = model_of(SANDWICH, head=head).head.state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in model.head.state_dict().items())


@pytest.mark.parametrize("path", ["", "final", "final/model.safetensors"])
def test_another_backbone_is_refused_by_name(tmp_path: Path, path: str) -> None:
    run = pretraining(tmp_path / "run") / path
    asked = [("mlp", 32, "mlp"), ("resnet18", 32, "resnet18")]
    for spec, side, name in asked:
        with pytest.raises(KpnetError) as caught:
            model_of(spec, input_size=side, pretrained=run)
        assert str(caught.value).startswith(
            f"{run}: holds the backbone conv_sandwich {{channels: [4, 8], norm: batch}}"
        )
        assert f"asks for {name}:" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_another_backbone_is_refused_where_its_weights_would_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As tf_efficientnet_b0's would, which pads otherwise than efficientnet_b0."""
    run = pretraining(tmp_path / "run")
    monkeypatch.setitem(BACKBONES, "twin", BACKBONES["conv_sandwich"])
    with pytest.raises(
        KpnetError, match=r"asks for twin .*: set model.backbone to the first, or pretrained to a run of"
    ):
        model_of({**SANDWICH, "name": "twin"}, pretrained=run)


def test_timms_tag_of_published_weights_is_no_other_backbone(tmp_path: Path) -> None:
    run = pretraining(tmp_path / "run", "test_resnet.r160_in1k")
    assert equals_file(model_of("test_resnet", pretrained=run), run)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channels": [4, 9]}, ["[4, 8]", "[4, 9]", "blocks.1.0.weight"]),
        ({"channels": [4, 8, 8]}, ["[4, 8]", "[4, 8, 8]", "not in the file"]),
        ({"channels": [4]}, ["[4, 8]", "[4]", "layers that the model does not have"]),
        ({"norm": "none"}, ["norm: batch", "norm: none"]),
        ({"residual": 1}, ["asks for conv_sandwich {channels: [4, 8], norm: batch, residual: 1}", "not in the file"]),
    ],
)
def test_other_options_are_refused_with_both_named(tmp_path: Path, change: dict[str, Any], words: list[str]) -> None:
    run = pretraining(tmp_path / "run")
    with pytest.raises(KpnetError) as caught:
        model_of({**SANDWICH, **change}, pretrained=run)
    assert all(word in str(caught.value) for word in [str(run), *words]), caught.value
    assert "\n" not in str(caught.value)


def test_options_that_have_no_weights_may_differ(tmp_path: Path) -> None:
    run = pretraining(tmp_path / "run")
    assert equals_file(model_of({**SANDWICH, "dropout": 0.5}, pretrained=run), run)


def test_a_wrong_option_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match=r'^backbone "conv_sandwich": unknown key "chanels"'):
        model_of({"name": "conv_sandwich", "chanels": [4, 8]}, pretrained=pretraining(tmp_path / "run"))


def test_another_size_of_an_mlp_names_both(tmp_path: Path) -> None:
    run = pretraining(tmp_path / "run", {"name": "mlp", "hidden": 16}, 16)
    with pytest.raises(KpnetError, match=r"for 16x16 pixels, but the config asks for mlp {hidden: 16} for 32x32"):
        model_of({"name": "mlp", "hidden": 16}, pretrained=run)


@pytest.mark.parametrize("backbone", [SANDWICH, "test_resnet"])
def test_channels(tmp_path: Path, backbone: Any) -> None:
    grey = pretraining(tmp_path / "grey", backbone)
    with pytest.raises(KpnetError, match=r"was trained with in_channels 1, found 3: set model.in_channels to 1"):
        model_of(backbone, in_channels=3, pretrained=grey)
    # A grey image into a stem that was trained in colour is the image three times, as with published weights.
    colour = pretraining(tmp_path / "colour", backbone, in_channels=3)
    model, three = model_of(backbone, pretrained=colour).eval(), model_of(backbone, in_channels=3, pretrained=colour)
    three.head.load_state_dict(model.head.state_dict())
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(model(image), three.eval()(image.repeat(1, 3, 1, 1)))
    model.save(tmp_path / "model")
    shutil.rmtree(colour)
    assert torch.equal(load_model(tmp_path / "model")(image), model(image))


def test_the_statistics_come_with_the_weights(tmp_path: Path) -> None:
    """Those that the encoder was trained with, in the saved model too; the config's own win."""
    run = pretraining(tmp_path / "run", mean=[0.1], std=[0.7])
    model = model_of(pretrained=run)
    assert (model.mean.item(), model.std.item()) == (pytest.approx(0.1), pytest.approx(0.7))
    model.save(tmp_path / "model")
    again = model_of(pretrained=tmp_path / "model")  # and from model to model
    shutil.rmtree(run)
    for loaded in (load_model(tmp_path / "model"), again):
        assert (loaded.mean.item(), loaded.std.item()) == (pytest.approx(0.1), pytest.approx(0.7))
    own = model_of(pretrained=tmp_path / "model", mean=[0.5], std=[0.25])
    assert own.mean.item() == 0.5


def test_weights_file(tmp_path: Path) -> None:
    run = pretraining(tmp_path / "run")
    file = run / "final" / "model.safetensors"
    assert weights_file(run) == weights_file(run / "final") == weights_file(file) == file
    assert weights_file("some.pth") == Path("some.pth")
    shutil.rmtree(run / "final")
    with pytest.raises(KpnetError, match=r"run: expected a run folder or a saved model, found no model.safetensors"):
        weights_file(run)
    (run / "last.ckpt").touch()
    with pytest.raises(KpnetError, match=r"run: this run has not ended; go on with --resume$"):
        model_of(pretrained=run)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [1, 2", "not YAML: .*expected the config of a saved model"),
        ("model: {in_channels: 1}", '"model.backbone" is missing'),
        ("", "model.yaml: "),
        ("model: !!python/object/apply:os.mkdir [executed]", "not YAML: .*expected the config of a saved model"),
    ],
)
def test_damaged_descriptions(tmp_path: Path, text: str, message: str) -> None:
    run = pretraining(tmp_path / "run")
    (run / "final" / "model.yaml").write_text(text)
    with pytest.raises(KpnetError, match=message) as caught:
        model_of(pretrained=run)
    assert "model.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path("executed").exists()


def test_a_pretraining_is_no_keypoint_model(tmp_path: Path) -> None:
    run = pretraining(tmp_path / "run")
    with pytest.raises(
        KpnetError, match=f"written by kpnet pretrain, not a keypoint model: train with model.pretrained={run}"
    ):
        load_model(run)


def test_a_corrupt_file_is_reported_as_such(tmp_path: Path) -> None:
    run = pretraining(tmp_path / "run")
    weights = weights_file(run)
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(KpnetError, match=r"model\.safetensors: not a readable safetensors file, corrupt or truncated"):
        model_of(pretrained=str(run))


def test_another_weight_file_beside_a_model_is_its_own(tmp_path: Path) -> None:
    folder = pretraining(tmp_path / "run") / "final"
    other = BACKBONES.build({"name": "conv_sandwich", "channels": [6]}, 1)
    torch.save(other.state_dict(), folder / "other.pth")
    built = model_of({"name": "conv_sandwich", "channels": [6]}, pretrained=str(folder / "other.pth"))
    assert all(torch.equal(v, built.backbone.state_dict()[k]) for k, v in other.state_dict().items())

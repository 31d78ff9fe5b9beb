"""KeypointModel: building, the answer's form, freezing, saving and loading."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from course import evaluate_model
from recipes import TRAINED
from safetensors.torch import load_file, save_file
from torch import Tensor

import kpnet
from kpnet import KpnetError, build_model, load_model

SANDWICH = {"name": "conv_sandwich", "channels": [8, 16]}


def small(**changes: Any) -> kpnet.KeypointModel:
    """A model of 32x32 grey images with 3 points."""
    values = {"backbone": SANDWICH, "head": "heatmap", "num_keypoints": 3, "in_channels": 1, "input_size": 32}
    torch.manual_seed(0)
    return build_model(**{**values, **changes})


class Marker:
    """A pickle of it makes a file when it is executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


# Building


def test_by_keywords_as_the_design_shows() -> None:
    model = build_model(backbone="resnet18", head="heatmap", num_keypoints=15, in_channels=1, input_size=96)
    images = torch.rand(2, 1, 96, 96)
    xy = model(images)
    assert xy.shape == (2, 15, 2)
    assert xy.abs().max() <= 1
    xy.square().sum().backward()
    gradient = next(model.backbone.parameters()).grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
    assert model.config.pretrained is False
    assert len(list(model.head.parameters())) > 0


def test_from_mapping_file_and_typed_config_alike(tiny: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny))
    typed = kpnet.load_config(path)
    image = torch.rand(1, 1, 32, 32)
    names = tiny["data"]["skeleton"]
    bare = {**tiny["model"], "num_keypoints": 3}
    whole = [(source, None) for source in (path, str(path), tiny, typed)]
    answers = []
    for source, skeleton in [*whole, (bare, names), (typed.model, names)]:
        torch.manual_seed(0)
        model = build_model(source, skeleton=skeleton)
        answers.append(model.eval()(image))
        assert model.skeleton.names == tuple(names)
    assert build_model(bare).skeleton.names == ("0", "1", "2")
    assert all(torch.equal(answers[0], answer) for answer in answers)


def test_keywords_override_a_config(tiny: dict[str, Any]) -> None:
    before = yaml.safe_dump(tiny)
    model = build_model(tiny, in_channels=3, input_size=(64, 48), head={"name": "regression", "hidden": [4]})
    assert model(torch.rand(1, 3, 64, 48)).shape == (1, 3, 2)
    assert model.skeleton.names == ("left_eye", "right_eye", "nose")
    assert yaml.safe_dump(tiny) == before


@pytest.mark.parametrize("name", TRAINED)
def test_every_shipped_recipe_builds(name: str) -> None:
    model = build_model(name, pretrained=False)  # there is no network
    assert model(torch.rand(2, 1, 96, 96)).view(-1, 15, 2).shape == (2, 15, 2)


@pytest.mark.parametrize("size", [(32, 64), (96, 64)], ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize(
    "head",
    [
        {"name": "regression", "pool": "flatten"},
        {"name": "regression", "pool": "avg", "activation": "none"},
        {"name": "heatmap", "decoder": "top_down", "stride": 4},
        {"name": "heatmap", "decoder": "deconv", "stride": 2},
    ],
    ids=lambda h: f"{h['name']}-{h.get('pool', h.get('decoder'))}",
)
@pytest.mark.parametrize(
    ("backbone", "points", "channels"),
    [(SANDWICH, 1, 1), ("resnet18", 7, 3), ("torchvision/squeezenet1_0", 2, 1), ("mobilenetv3_small_050", 68, 4)],
    ids=["conv_sandwich", "resnet18", "squeezenet", "mobilenetv3"],
)
def test_any_backbone_in_any_head(backbone: Any, points: int, channels: int, head: dict[str, Any], size: Any) -> None:
    model = build_model(backbone=backbone, head=head, num_keypoints=points, in_channels=channels, input_size=size)
    images = torch.rand(2, channels, *size)
    xy = model(images)
    assert xy.shape == (2, points, 2)
    assert xy.isfinite().all()
    xy.sum().backward()
    assert all(p.grad is not None for p in model.parameters()), "an unused parameter stops DDP"


@pytest.mark.parametrize("rests", [False, True], ids=["trains", "frozen"])
def test_maps_of_a_network_without_norms_are_standardised(rests: bool, tmp_path: Path) -> None:
    """An ImageNet SqueezeNet's reach 4000, and no head trains on that; nor on one frozen with the scale unknown."""
    model = build_model(backbone="torchvision/squeezenet1_1", head="heatmap", num_keypoints=3, input_size=64)
    with torch.no_grad():
        for p in model.backbone.parameters():
            p *= 3
    if rests:
        model.freeze_backbone()
    images = torch.rand(8, 3, 64, 64)
    raw = model.backbone((images - model.mean) / model.std)
    for maps, before in zip(model.train().features(images), raw, strict=True):
        alive = before.var((0, 2, 3)) > 1e-3
        assert alive.any()
        assert torch.allclose(maps.mean((0, 2, 3)), torch.zeros(1), atol=1e-3)
        assert torch.allclose(maps.var((0, 2, 3), correction=0)[alive], torch.ones(1), atol=2e-2)
    model.save(tmp_path)
    assert torch.equal(load_model(tmp_path)(images), model.eval()(images))


def test_maps_of_a_network_with_norms_stay_as_they_are() -> None:
    model = build_model(backbone="resnet18", head="heatmap", num_keypoints=3, input_size=64)
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(model.features(images)[0], model.backbone((images - model.mean) / model.std)[0])
    assert not any("norms" in name for name in model.state_dict())


def test_points_follow_the_picture_axes() -> None:
    """A bright column in a wide map moves x alone: H and W are not swapped anywhere."""
    model = small(input_size=(32, 64), head={"name": "heatmap", "stride": 2})
    output = model.output(torch.rand(1, 1, 32, 64))
    assert output.logits is not None
    assert output.logits.shape == (1, 3, 16, 32)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"backbone": "resnet81"}, ["resnet81", "resnet18"]),
        ({"head": "heatmop"}, ["heatmop", "heatmap"]),
        ({"num_keypoint": 3}, ["num_keypoint", "num_keypoints"]),
        ({"num_keypoints": None}, ["num_keypoints"]),
        ({"num_keypoints": 0}, ["num_keypoints", "0"]),
        ({"input_size": (33, 32)}, ["33x32", "input_size", "32"]),
        ({"in_channels": 0}, ["in_channels", "0"]),
        ({"skeleton": ["a", "b"]}, ["3", "2"]),
        ({"mean": [0.1, 0.2]}, ["mean", "2"]),
    ],
)
def test_bad_arguments(changes: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(KpnetError) as caught:
        small(**changes)
    message = str(caught.value)
    assert all(word in message for word in expected), message
    assert "\n" not in message


# Input


@pytest.mark.parametrize("head", ["heatmap", "regression"])
def test_a_single_image_is_a_batch_of_one(head: str) -> None:
    model = small(head=head).eval()
    image = torch.rand(1, 32, 32)
    assert torch.equal(model(image), model(image[None]))
    assert model.infer(image).keypoints.shape == (1, 3, 2)


@pytest.mark.parametrize("shape", [(2, 3, 32, 32), (3, 32, 32), (32, 32), (1, 1, 1, 32, 32), (1, 1, 31, 32)])
def test_wrong_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(KpnetError) as caught:
        small()(torch.rand(shape))
    message = str(caught.value)
    assert "(B, 1, H, W)" in message or ("31x32" in message and "multiples" in message), message


def test_other_sizes_where_the_head_allows_it() -> None:
    images = torch.rand(1, 1, 48, 64)
    assert small()(images).shape == (1, 3, 2)
    with pytest.raises(KpnetError, match="input_size"):
        small(head="regression")(images)


def test_the_model_normalises() -> None:
    """Mean and std of the config act on the image and nowhere else."""
    plain, moved = small(mean=[0.0], std=[1.0]).eval(), small(mean=[0.25], std=[2.0]).eval()
    image = torch.rand(1, 1, 32, 32)
    assert torch.allclose(moved(image), plain((image - 0.25) / 2), atol=1e-6)
    assert not torch.allclose(moved(image), plain(image), atol=1e-4)


# infer


def test_infer_heatmap() -> None:
    model = small(input_size=(32, 48)).eval()
    images = torch.rand(4, 1, 32, 48)
    answer = model.infer(images)
    assert answer.keypoints.shape == (4, 3, 2)
    assert torch.equal(answer.keypoints, model(images))
    assert answer.confidence is not None
    assert answer.confidence.shape == (4, 3)
    assert ((answer.confidence >= 0) & (answer.confidence <= 1)).all()
    assert answer.heatmaps is not None
    assert answer.heatmaps.shape == (4, 3, 8, 12)
    assert torch.allclose(answer.heatmaps.sum((-2, -1)), torch.ones(4, 3), atol=1e-5)
    assert answer.covariance is not None
    assert answer.covariance.shape == (4, 3, 2, 2)
    # The moments of the maps, summed cell by cell.
    y, x = torch.meshgrid((2 * torch.arange(8) + 1) / 8 - 1, (2 * torch.arange(12) + 1) / 12 - 1, indexing="ij")
    for b in range(4):
        for k in range(3):
            p = answer.heatmaps[b, k]
            mean = torch.stack([(p * x).sum(), (p * y).sum()])
            assert torch.allclose(answer.keypoints[b, k], mean, atol=1e-5)
            d = torch.stack([x, y]) - mean[:, None, None]
            assert torch.allclose(answer.covariance[b, k], torch.einsum("hw,ihw,jhw->ij", p, d, d), atol=1e-5)


def test_infer_regression_has_points_alone() -> None:
    answer = small(head="regression").infer(torch.rand(2, 1, 32, 32))
    assert answer.keypoints.shape == (2, 3, 2)
    assert answer.confidence is answer.covariance is answer.heatmaps is None


@pytest.mark.parametrize("training", [True, False])
def test_infer_leaves_mode_and_statistics(training: bool) -> None:
    model = small(backbone={**SANDWICH, "norm": "batch", "dropout": 0.5}).train(training)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    images = torch.rand(4, 1, 32, 32, requires_grad=True)
    first, second = model.infer(images).keypoints, model.infer(images).keypoints
    assert torch.equal(first, second), "dropout is off"
    assert not first.requires_grad
    assert all(module.training is training for module in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_infer_restores_the_mode_after_an_error() -> None:
    model = small().train()
    with pytest.raises(KpnetError):
        model.infer(torch.rand(1, 2, 32, 32))
    assert model.training


# Freezing


def test_frozen_backbone_rests_through_train() -> None:
    model = small(backbone={**SANDWICH, "norm": "batch", "dropout": 0.5})
    images = torch.rand(4, 1, 32, 32)
    moving, other = model.features(images), model.features(images)
    assert not torch.equal(moving[-1], other[-1]), "dropout is on before the freeze"
    model.freeze_backbone()
    for _ in range(2):
        model.train()
        assert not any(module.training for module in model.backbone.modules())
        assert model.head.training
        before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
        first, second = model.features(images), model.features(images)
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        model(images).sum().backward()
        assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
        assert all(p.grad is None and not p.requires_grad for p in model.backbone.parameters())
        assert all(p.grad is not None for p in model.head.parameters())
        model.infer(images)  # goes through eval and back

    model.unfreeze_backbone()
    assert all(p.requires_grad for p in model.backbone.parameters())
    assert all(module.training for module in model.modules())
    statistics = {k: v.clone() for k, v in model.backbone.named_buffers()}
    model(images).sum().backward()
    assert any(not torch.equal(v, statistics[k]) for k, v in model.backbone.named_buffers())
    assert all(p.grad is not None for p in model.backbone.parameters())


def test_unfreezing_in_eval_mode_stays_in_eval_mode() -> None:
    model = small().eval()
    model.freeze_backbone()
    model.unfreeze_backbone()
    assert not any(module.training for module in model.modules())


# Saving and loading


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": {**SANDWICH, "norm": "batch"}, "skeleton": ["left_eye", "right_eye", "nose"]},
        {"head": {"name": "regression", "hidden": [6], "activation": "none"}, "input_size": (32, 48), "mean": [0.2]},
        {"backbone": "resnet18", "in_channels": 3, "input_size": 64},
    ],
    ids=["heatmap", "regression", "timm"],
)
def test_round_trip_is_exact(changes: dict[str, Any], tmp_path: Path) -> None:
    model = small(**changes)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(0.05 * torch.rand_like(tensor))
    model.save(tmp_path / "a" / "b")
    again = load_model(tmp_path / "a" / "b")
    assert not again.training
    assert again.skeleton == model.skeleton
    assert again.config == model.config
    state, loaded = model.state_dict(), again.state_dict()
    assert state.keys() == loaded.keys()
    assert all(torch.equal(state[k], loaded[k]) for k in state)
    images = torch.rand(2, model.config.in_channels, *model.config.input_size)
    assert torch.equal(model.eval()(images), again(images))
    assert {p.name for p in (tmp_path / "a" / "b").iterdir()} == {"model.safetensors", "model.yaml"}


def test_a_run_gives_its_final_model(trained: Path) -> None:
    final = load_file(trained / "final" / "model.safetensors")
    state = load_model(trained).state_dict()
    assert all(torch.equal(value, final[key]) for key, value in state.items())
    assert load_model(str(trained / "best")).skeleton.names == ("left_eye", "right_eye", "nose")


WITHOUT_LIGHTNING = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lightning", "pytorch_lightning", "lightning_fabric"):
            raise ImportError(name + " is not installed")
sys.meta_path.insert(0, Block())
import torch
from kpnet import Predictor, load_model
model = load_model(sys.argv[1])
torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
Predictor(model, device="cpu")(torch.zeros(20, 30).byte().numpy())
try: import lightning
except ImportError: print("no lightning")
"""


def test_a_saved_model_loads_without_lightning(tmp_path: Path) -> None:
    model = small().eval()
    model.save(tmp_path / "model")
    images = torch.rand(2, 1, 32, 32)
    torch.save(images, tmp_path / "images.pt")
    arguments = [tmp_path / "model", tmp_path / "images.pt", tmp_path / "answer.pt"]
    command = [sys.executable, "-c", WITHOUT_LIGHTNING, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "no lightning"
    assert torch.allclose(torch.load(tmp_path / "answer.pt"), model(images), atol=1e-6)


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[8:40] = bytes(32)
    path.write_bytes(data)


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def foreign(folder: Path) -> None:
    save_file({"fc.weight": torch.zeros(3, 3)}, folder / "model.safetensors")


def other_shape(folder: Path) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    key = next(k for k in state if state[k].ndim == 4)
    save_file({**state, key: torch.zeros(5, 1, 3, 3)}, path)


def no_config(folder: Path) -> None:
    (folder / "model.yaml").unlink()


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def config_not_yaml(folder: Path) -> None:
    (folder / "model.yaml").write_text("model: [1, 2")


def config_binary(folder: Path) -> None:
    (folder / "model.yaml").write_bytes(b"\xff\xfe\x00\x01")


def config_empty(folder: Path) -> None:
    (folder / "model.yaml").write_text("")


def config_half(folder: Path) -> None:
    path = folder / "model.yaml"
    text = path.read_text()
    path.write_text(text[: len(text) // 2])


def config_other(folder: Path) -> None:
    (folder / "model.yaml").write_text("model: {backbone: conv_sandwich, head: heatmap}\nskeleton: {names: 3}\n")


def config_python(folder: Path) -> None:
    (folder / "model.yaml").write_text(f"model: !!python/object/apply:os.mkdir [{folder / 'executed'}]\n")


@pytest.mark.parametrize(
    "damage",
    [
        *(truncate, flip_header, empty, foreign, other_shape, no_config, no_weights, config_not_yaml, config_binary),
        *(config_empty, config_half, config_other, config_python),
    ],
)
def test_damaged_files(damage: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    small().save(folder)
    load_model(folder)
    damage(folder)
    with pytest.raises(KpnetError) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (folder / "executed").exists()


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match="no such"):
        load_model(tmp_path / "nothing")


def test_a_pickle_in_safetensors_clothing_is_not_executed(tmp_path: Path) -> None:
    folder, marker = tmp_path / "model", tmp_path / "executed"
    small().save(folder)
    evil = pickle.dumps(Marker(marker))
    pickle.loads(evil)
    assert marker.is_dir(), "the pickle is a live one"
    marker.rmdir()
    (folder / "model.safetensors").write_bytes(evil)
    with pytest.raises(KpnetError):
        load_model(folder)
    torch.save({"state_dict": Marker(marker)}, folder / "model.safetensors")
    with pytest.raises(KpnetError):
        load_model(folder)
    torch.save(Marker(marker), tmp_path / "weights.pth")
    with pytest.raises(KpnetError, match="refused and not run"):
        small(pretrained=str(tmp_path / "weights.pth"))
    assert not marker.exists()


def test_a_failed_save_keeps_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree: Any) -> None:
    model = small()
    model.save(tmp_path / "model")
    before = tree(tmp_path)
    write = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        write(self, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(OSError, match="No space") as caught:
        model.save(tmp_path / "model")
    assert "model.safetensors" in str(caught.value.filename)
    monkeypatch.undo()
    assert tree(tmp_path) == before


# Weights of other libraries


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
    values = {"head": head, "num_keypoints": 4, "in_channels": channels, "input_size": 64, "pretrained": str(path)}
    return build_model(backbone="resnet18", **values).eval()


def test_grey_into_a_pretrained_rgb_stem_is_the_image_repeated(resnet_file: Path) -> None:
    grey, colour = of_file(resnet_file, 1), of_file(resnet_file, 3)
    colour.head.load_state_dict(grey.head.state_dict())
    images = torch.rand(2, 1, 64, 64)
    repeated = images.repeat(1, 3, 1, 1)
    assert torch.equal(grey(images), colour(repeated))

    # timm itself, fed as its documentation says.
    reference = timm.create_model("resnet18", features_only=True, num_classes=10).eval()
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


# The course


def squared_error(model: kpnet.KeypointModel, images: Tensor, truth: Tensor) -> float:
    return float((model.infer(images).keypoints.double() - truth.double()).square().mean())


@pytest.mark.parametrize("head", ["heatmap", "regression"])
def test_the_course_loop_on_synthetic_faces(head: str) -> None:
    dataset = kpnet.data.SyntheticFaces(4, seed=0)
    model = build_model(backbone=SANDWICH, head=head, num_keypoints=15, in_channels=1, input_size=96)
    items = [dataset[i] for i in range(4)]
    images, truth = (torch.stack([item[k] for item in items]) for k in ("image", "keypoints"))
    assert evaluate_model(model, dataset) == pytest.approx(1 / (2 * squared_error(model, images, truth)), rel=1e-4)


def test_the_course_loop_on_a_csv(faces15: Path) -> None:
    from kpnet.engine.evaluation import evaluate

    dataset = kpnet.data.KaggleCSV(faces15 / "val.csv")
    model = build_model(backbone=SANDWICH, head="regression", num_keypoints=15, in_channels=1, input_size=96)
    assert evaluate_model(model, dataset) == pytest.approx(evaluate(model, dataset)["score"], rel=1e-4)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("head", ["heatmap", "simcc", "offset", "rle", "regression"])
def test_an_answer_that_is_not_finite_names_the_head(head: str, bad: float) -> None:
    model = build_model(backbone="conv_sandwich", head=head, num_keypoints=3, in_channels=1, input_size=32)
    images = torch.rand(3, 1, 32, 32)
    images[1, 0, 5, 5] = bad
    with pytest.raises(KpnetError, match=f'head "{head}": the answer to image 1 of the batch is not finite'):
        model.infer(images)
    assert model.infer(images[[0, 2]]).keypoints.isfinite().all()


def test_several_heads_by_their_short_form() -> None:
    heads = {"coarse": "laplace_nll", "fine": {"name": "heatmap", "stride": 8}}
    model = build_model(backbone="conv_sandwich", heads=heads, num_keypoints=3, in_channels=1, input_size=32)
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 3, 2)
    assert model.config.head == {"name": "multi", "heads": heads}
    # In place of a recipe's own head, but not beside one.
    assert build_model("facial_heatmap", heads=heads).config.head == model.config.head
    with pytest.raises(KpnetError, match="give either head or heads"):
        build_model(backbone="conv_sandwich", head="heatmap", heads=heads, num_keypoints=3)


def test_a_model_of_several_heads_goes_through_a_file(tmp_path: Path) -> None:
    model = build_model(
        backbone="conv_sandwich", heads={"a": "rle", "b": "simcc"}, num_keypoints=3, in_channels=1, input_size=32
    )
    model.save(tmp_path)
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(load_model(tmp_path)(images), model.eval()(images))

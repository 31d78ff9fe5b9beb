"""What an ONNX file predicts is what `kpnet.Predictor` predicts, for every head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.exports import KINDS, SIZE, Exports, check_equal, graph_inputs, odd_images, small
from support.paths import SHARED

import kpnet
from kpnet import KeypointModel, Predictor
from kpnet.config.loading import load_config
from kpnet.core.errors import KpnetError
from kpnet.data.build import build_dataset
from kpnet.export import onnx as module
from kpnet.export import to_onnx
from kpnet.export.parity import dataset_samples
from kpnet.heads import HEADS

IMAGES = odd_images(33)


def run(path: Path, images: np.ndarray, matrices: np.ndarray) -> list[np.ndarray]:
    """What onnxruntime gives, by the graph's names and without kpnet."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {"images": images, "matrices": matrices})
    return found


def check_batches(model: Any, predictor: Predictor, path: Path) -> None:
    pixels, matrices = graph_inputs(model, IMAGES)
    expected = predictor(IMAGES)
    assert np.ptp([each.keypoints / IMAGES[i].shape[1::-1] for i, each in enumerate(expected)]) > 0.01
    for count in (1, 7, 33):
        check_equal(run(path, pixels[:count], matrices[:count]), expected[:count])


def test_every_head_is_exported() -> None:
    assert set(HEADS) - {"heatmap", "centers"} < set(KINDS)


def test_a_head_of_several_instances_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match="the head centers finds 0 to N instances, and an exported file predicts one"):
        to_onnx(small("centers"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_points_confidence_and_covariance_are_those_of_predictor(exports: Exports, kind: str) -> None:
    """In batches of 1, 7 and 33 of images of five odd sizes, grey and colour; half of the heads are calibrated."""
    exported = exports(kind)
    check_batches(exported.model, exported.predictor(), exported.path)
    assert exported.info.parity is not None
    assert exported.info.parity.pixels <= 1e-3


def test_a_clip_with_motion(exports: Exports) -> None:
    """The frames of a clip are in their order: `Predictor.track` is the reference."""
    exported = exports("temporal")
    frames = [np.roll(IMAGES[3], 5 * shift, 1) for shift in range(5)]
    expected = list(exported.predictor().track(frames))
    pixels, matrices = graph_inputs(exported.model, frames)
    clips = np.stack([pixels[i - 1 : i + 2, 0] for i in range(1, 4)])
    check_equal(run(exported.path, clips, matrices[1:4]), expected[1:4])
    assert np.abs(expected[2].keypoints - exported.predictor()(frames[2]).keypoints).max() > 0.01


def test_a_flip_test_is_inside(exports: Exports) -> None:
    exported = exports("ensemble")
    assert exported.info.flip_test
    plain = Predictor(exported.model)(IMAGES[0]).keypoints
    assert np.abs(exported.predictor()(IMAGES[0]).keypoints - plain).max() > 0.01


def test_images_of_any_size(exports: Exports) -> None:
    """At another size than the model's input the graph is that of `infer`, in pixels."""
    exported = exports("blend")
    assert isinstance(exported.model, KeypointModel)
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 28, 1), dtype=np.uint8)
    matrices = np.tile(np.array([[2, 0, 3], [0, 2, -5]], np.float32), (3, 1, 1))
    expected = exported.model.infer(torch.from_numpy(images).movedim(-1, 1) / 255)
    pixels = ((expected.keypoints.numpy() + 1) * (28, 40) - 1) / 2
    points, confidence, _ = run(exported.path, images, matrices)
    assert expected.confidence is not None
    assert np.abs(points - (pixels - (3, -5)) / 2).max() <= 1e-3
    assert np.abs(confidence - expected.confidence.numpy()).max() <= 1e-4
    with pytest.raises(KpnetError, match="29x28 do not fit: height and width must be multiples of 4"):
        kpnet.models.exported.ExportedModel(exported.path).infer(torch.zeros(1, 1, 29, 28))


def test_the_file_describes_itself(exports: Exports) -> None:
    exported = exports("rle")
    proto = onnx.load(exported.path)
    assert proto.producer_name == "kpnet"
    assert [each.version for each in proto.opset_import if not each.domain] == [18]
    assert [each.name for each in proto.graph.input] == ["images", "matrices"]
    assert [each.name for each in proto.graph.output] == [
        "points",
        "confidence",
        "covariance",
        "radius",
        "joint_radius",
    ]
    found = json.loads(next(each.value for each in proto.metadata_props if each.key == "kpnet"))
    assert found["names"] == ["left_eye", "right_eye", "nose"]
    assert found["pairs"] == [["left_eye", "right_eye"]]
    assert (found["input_size"], found["channels"], found["dof"]) == (list(SIZE), 3, 4.0)
    assert found["calibration"]["exponent"] == 0.8
    assert found["parity"]["images"] == 20
    assert len(found["weights"]) == 64


def test_no_folder_of_the_machine(exports: Exports) -> None:
    data = exports("rle").path.read_bytes()
    for words in (str(Path(kpnet.__file__).parent), str(Path(torch.__file__).parent), "stack_trace", '.py"'):
        assert words.encode() not in data, words


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = module.importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(KpnetError, match=r'needs onnxscript, .*: pip install "kpnet\[export\]"'):
        to_onnx(small("regression"), tmp_path / "a.onnx")


def test_a_precision_that_there_is_not(tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match='precision: expected fp32, fp16, int8, found "bf16"'):
        to_onnx(small("regression"), tmp_path / "a.onnx", precision="bf16")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_int8_asks_for_images(tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match="int8: expected images of the training data"):
        to_onnx(small("regression"), tmp_path / "a.onnx", precision="int8")


# Other backbones, and photographs

# Sums over a flattened map of random weights round to 0.0012 px of an image of ten times the input's size.
POOLED = {"name": "regression", "pool": "avg"}
BACKBONES: dict[str, tuple[Any, tuple[Any, Any], tuple[int, int]]] = {
    "mlp": ({"name": "mlp", "hidden": 32}, ("regression", "rle"), (32, 32)),
    "resnet18": ({"name": "resnet18"}, ("heatmap", "simcc"), (64, 96)),
    "mobilenet": ({"name": "mobilenetv3_small_100"}, ("offset", "laplace_nll"), (64, 96)),
    "convnext": ({"name": "convnext_atto"}, ("heatmap", "gaussian_nll"), (64, 96)),
    "squeezenet": ({"name": "torchvision/squeezenet1_0"}, ("heatmap", POOLED), (64, 96)),
    "vit": ({"name": "vit_tiny_patch16_224"}, ("heatmap", "rle"), (64, 96)),
}


@pytest.mark.slow
@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", BACKBONES)
def test_other_backbones(tmp_path: Path, name: str, number: int, calibrated: bool) -> None:
    backbone, heads, size = BACKBONES[name]
    model = small(heads[number], backbone=backbone, channels=1 + 2 * number, calibrated=calibrated, size=size)
    to_onnx(model, tmp_path / "a.onnx")
    check_batches(model, Predictor(model), tmp_path / "a.onnx")


@pytest.mark.slow
def test_a_neck_and_padded_images(tmp_path: Path) -> None:
    """Patches of 16 and images of 36x52: the network sees 48x64, and the neck brings its map to stride 4."""
    model = small("heatmap", backbone={"name": "test_vit"}, channels=3, size=(36, 52))
    assert model.neck is not None
    to_onnx(model, tmp_path / "a.onnx")
    check_batches(model, Predictor(model), tmp_path / "a.onnx")


@pytest.mark.slow
def test_any_size_on_a_pretrained_network(tmp_path: Path) -> None:
    """The sides of images are multiples of its largest stride, 32."""
    model = small("heatmap", backbone=BACKBONES["convnext"][0], size=(64, 96))
    to_onnx(model, tmp_path / "a.onnx", any_size=True)
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 128, 1), dtype=np.uint8)
    expected = model.infer(torch.from_numpy(images).movedim(-1, 1) / 255)
    points = run(tmp_path / "a.onnx", images, np.tile(np.eye(2, 3, dtype=np.float32), (2, 1, 1)))[0]
    assert np.abs(points - ((expected.keypoints.numpy() + 1) * (128, 96) - 1) / 2).max() <= 1e-3
    exported = kpnet.models.exported.ExportedModel(tmp_path / "a.onnx")
    with pytest.raises(KpnetError, match="multiples of 32"):
        exported.infer(torch.zeros(1, 1, 80, 128))


def check_dataset(tmp_path: Path, data: dict[str, Any], source: str, size: tuple[int, int], channels: int) -> None:
    values = {"backbone": "conv_sandwich", "head": "heatmap", "input_size": list(size), "in_channels": channels}
    config = load_config({"model": values, "data": data})
    dataset = build_dataset(config.data, config.model, source)
    model = kpnet.build_model(config, skeleton=dataset.skeleton).eval()
    parity = to_onnx(model, tmp_path / "a.onnx", samples=list(dataset_samples(dataset, 100))).parity
    assert parity is not None
    assert parity.images == min(100, len(dataset))
    assert parity.pixels <= 1e-3
    assert parity.confidence <= 1e-4
    assert parity.covariance <= 1e-3


@pytest.mark.slow
def test_photographs_of_faces(faces15: Path, tmp_path: Path) -> None:
    check_dataset(tmp_path, {"root": str(faces15), "skeleton": "facial15"}, "val.csv", (96, 96), 1)


@pytest.mark.slow
def test_crops_of_coco(tmp_path: Path) -> None:
    folder = SHARED / "data" / "coco_mini"
    if not folder.is_dir():
        pytest.skip(f"no COCO images at {folder} (set KPNET_SHARED)")
    data = {"format": "coco", "root": str(folder), "crop": "box", "skeleton": "coco17"}
    check_dataset(tmp_path, data, "person_keypoints.json", (64, 48), 3)

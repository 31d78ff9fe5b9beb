"""An exported file as a model: it predicts and is measured as the model was, and says what is wrong with it."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from support.exports import PLAIN, SIZE, Exports, check_equal, odd_images, small

from kpnet import Predictor
from kpnet.core.errors import KpnetError, NotFiniteError
from kpnet.evaluation.measurement import evaluate
from kpnet.export import reference
from kpnet.heads.base import POINT_VALUES
from kpnet.models.ensemble import Ensemble, load_ensemble
from kpnet.models.exported import ExportedModel
from kpnet.models.test_time import TestTime


def rewritten(source: Path, path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """A copy of an exported file with a changed description; a string stands as it is, None removes it."""
    proto = onnx.load(source)
    values = json.loads(proto.metadata_props[0].value)
    changed = change(values)
    del proto.metadata_props[:]
    if changed is not None:
        onnx.helper.set_model_props(proto, {"kpnet": changed if isinstance(changed, str) else json.dumps(changed)})
    onnx.save(proto, path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(KpnetError) as caught:
        load_ensemble(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))
    return str(caught.value)


@pytest.mark.parametrize("kind", ["blend", "rle", "temporal", "ensemble"])
def test_predictor_runs_the_file_as_the_model(exports: Exports, kind: str) -> None:
    """On files of odd sizes, in batches; boxes, and the frames of a video, too."""
    exported, images = exports(kind), odd_images(7)
    own, model = Predictor(exported.path), exported.predictor()
    assert isinstance(own.model, ExportedModel)
    for found, expected in zip(own(images), model(images), strict=True):
        check_equal(arrays(found), [expected])
        assert (found.names, found.dof) == (expected.names, expected.dof)
    frames = [np.roll(images[3], 5 * shift, 1) for shift in range(4)]
    check_equal([np.concatenate(each) for each in zip(*map(arrays, own.track(frames)), strict=True)],
                list(model.track(frames)))  # fmt: skip
    boxes = [(20.0, 30.0, 200.5, 180.0), (-40.0, 10.0, 90.0, 400.0)]
    check_equal(arrays(own(images[4], boxes)), [model(images[4], boxes)])


def arrays(prediction: Any) -> list[np.ndarray]:
    given = (getattr(prediction, name) for name in ("keypoints", *POINT_VALUES))
    return [each for each in given if each is not None]


@pytest.mark.parametrize("kind", ["dark", "regression"])
def test_the_file_is_evaluated_as_its_model(exports: Exports, data: Path, kind: str) -> None:
    exported = exports(kind)
    found, expected = (evaluate(each, data / "val.csv") for each in (exported.path, exported.model))
    numbers, own = dict(flat(found)), dict(flat(expected))
    assert numbers.keys() == own.keys()
    assert len(own) > 10
    for name, value in own.items():
        assert numbers[name] == pytest.approx(value, rel=1e-4, abs=1e-4, nan_ok=True), name


def flat(values: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in nested measures."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from flat(value, f"{name}.{key}")
    elif isinstance(values, (list, tuple)):
        for index, value in enumerate(values):
            yield from flat(value, f"{name}.{index}")
    elif isinstance(values, (int, float)):
        yield name, float(values)


def test_an_ensemble_of_a_file_and_a_model(exports: Exports) -> None:
    exported, other, images = exports("blend"), small(PLAIN["blend"], seed=5), odd_images(5)
    expected = Predictor([exported.model, other])(images)  # type: ignore[list-item]
    for found, own in zip(Predictor([exported.path, other])(images), expected, strict=True):
        check_equal(arrays(found), [own])
    with pytest.raises(KpnetError, match="some models of the ensemble are calibrated and some are not"):
        load_ensemble([exports("simcc").path, other])


def test_test_time_views_of_a_file(exports: Exports) -> None:
    """Views outside of the file, the one inside of it, and those that would not fit."""
    exported, images, views = exports("blend"), torch.rand(2, 1, *SIZE).mul(255).round() / 255, TestTime(shift=2.0)
    assert not isinstance(exported.model, Ensemble)
    flip = TestTime(flip=True)
    found, expected = ExportedModel(exported.path).infer(images, flip), exported.model.infer(images, flip)
    torch.testing.assert_close(found.keypoints, expected.keypoints, atol=1e-4, rtol=0)
    own = ExportedModel(exports("ensemble").path)
    assert torch.equal(own.infer(images, flip).keypoints, own.infer(images).keypoints)
    with pytest.raises(KpnetError, match="has the mirrored image inside: leave out"):
        own.infer(images, views)
    with pytest.raises(KpnetError, match="is calibrated for the image alone: leave out"):
        ExportedModel(exports("simcc").path).infer(images, flip)


# What is wrong with a file or an image


def test_files_that_are_no_onnx(exports: Exports, tmp_path: Path) -> None:
    whole, path = exports("regression").path.read_bytes(), tmp_path / "a.onnx"
    for data in (whole[: len(whole) // 2], whole[:100], b"", b"not an ONNX file"):
        path.write_bytes(data)
        assert "export it again with kpnet export" in refusal(path)
    assert "No such file" in refusal(tmp_path / "gone.onnx")
    (tmp_path / "folder.onnx").mkdir()
    assert "Is a directory" in refusal(tmp_path / "folder.onnx")


def test_the_file_of_another_program(exports: Exports, tmp_path: Path) -> None:
    path = rewritten(exports("regression").path, tmp_path / "a.onnx", lambda values: None)
    assert "not one that kpnet export wrote" in refusal(path)
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "other", values[:1], values[1:])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.helper.set_model_props(proto, {"kpnet": "{}"})
    onnx.save(proto, path)
    assert "not one that kpnet export wrote" in refusal(path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda v: {**v, "format": 2, "kpnet": "9.9"}, "written by kpnet 9.9 in format 2, expected 1: export"),
        (lambda v: "{" + json.dumps(v), "its description is damaged"),
        (lambda v: "", "its description is damaged"),
        (lambda v: "[1, 2]", "description"),
        (lambda v: "null", "description"),
        (lambda v: {**v, "chanels": 1}, 'unknown key "chanels" (did you mean "channels"?)'),
        (lambda v: {k: w for k, w in v.items() if k != "crop"}, '"crop" is missing'),
        (lambda v: {**v, "channels": 4}, "channels"),
        (lambda v: {**v, "model": {**v["model"], "in_channels": -1}}, "in_channels"),
        (lambda v: {**v, "skeleton": {"names": []}}, "skeleton"),
        (lambda v: "[" * 100_000, "its description is damaged"),
        (lambda v: {**v, "names": ["\ud800", *v["names"][1:]]}, "its description is damaged"),
        (lambda v: {**v, "window": [-3, 0]}, "window"),
        (lambda v: {**v, "box_scale": -1.0}, "box_scale"),
        (lambda v: {**v, "bits": 17}, "bits"),
        (lambda v: {**v, "names": v["names"][:2]}, "names: found"),
        (lambda v: {**v, "edges": [["nose", "left_eye"]]}, "edges: found"),
        (lambda v: {**v, "input_size": [32, 32]}, "input_size: found"),
        (lambda v: {**v, "crop": "box"}, "crop: found"),
        (lambda v: {**v, "window": [1, 1]}, "window: found"),
        (lambda v: {**v, "outputs": ["points", "confidence"]}, "outputs: found"),
        (lambda v: {**v, "names": ["a", "b"], "pairs": [], "skeleton": {"names": ["a", "b"]}}, "names: found"),
    ],
)
def test_descriptions_that_do_not_fit(
    exports: Exports, tmp_path: Path, change: Callable[[dict[str, Any]], Any], expected: str
) -> None:
    assert expected in refusal(rewritten(exports("regression").path, tmp_path / "a.onnx", change))


def test_weights_in_further_files_are_not_looked_for(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrusted file could name any file of the user's."""
    path = tmp_path / "a.onnx"
    onnx.save(onnx.load(exports("regression").path), path, save_as_external_data=True, location="w.bin")
    assert (tmp_path / "w.bin").is_file()
    monkeypatch.chdir(tmp_path)
    assert "not a readable ONNX file" in refusal(path)


def test_a_copy_for_another_device_shares_the_session(exports: Exports) -> None:
    model, images = ExportedModel(exports("simcc").path), torch.rand(2, 1, *SIZE)
    moved = copy.deepcopy(model).to("meta")
    assert (moved.place.device.type, model.place.device.type) == ("meta", "cpu")
    assert moved.infer(images).keypoints.device.type == "meta"
    assert torch.equal(copy.deepcopy(model).infer(images).keypoints, model.infer(images).keypoints)


def test_images_of_16_bits_are_read_as_the_file_says(exports: Exports, tmp_path: Path) -> None:
    path = rewritten(exports("regression").path, tmp_path / "a.onnx", lambda values: {**values, "bits": 12})
    grey = np.arange(32 * 48, dtype=np.uint16).reshape(32, 48) * 2
    cv2.imwrite(str(tmp_path / "a.png"), grey)
    expected = Predictor(path)((grey >> 4).astype(np.uint8)).keypoints
    assert np.array_equal(Predictor(path)(tmp_path / "a.png").keypoints, expected)
    assert not np.array_equal(Predictor(exports("regression").path)(tmp_path / "a.png").keypoints, expected)
    own = reference.Model(path)
    found = own(reference.read_image(tmp_path / "a.png", own.info["bits"]))["points"]
    assert np.abs(found - expected).max() <= 1e-3


def test_a_missing_runtime_is_named(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exports("regression").path
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert 'needs onnxruntime, which is not installed: pip install "kpnet[export]"' in refusal(path)


def test_images_that_do_not_fit(exports: Exports) -> None:
    model, clips = ExportedModel(exports("rle").path), ExportedModel(exports("temporal").path)
    for own, images, expected in (
        (model, torch.zeros(1, 1, *SIZE), r"expected images \(B, 3, H, W\), got \(1, 1, 32, 48\)"),
        (model, torch.zeros(1, 2, 3, *SIZE), r"expected images \(B, 3, H, W\)"),
        (model, torch.zeros(1, 3, *SIZE, dtype=torch.uint8), "torch.uint8: divide by 255"),
        (model, torch.zeros(1, 3, 48, 32), "takes images of 32x48, got 48x32: resize them, or export"),
        (clips, torch.zeros(1, 2, 1, *SIZE), "clips of at least 3 frames"),
    ):
        with pytest.raises(KpnetError, match=expected):
            own.infer(images)
    with pytest.raises(KpnetError, match=r"rle\.onnx: "):
        model.run(np.zeros((1, *SIZE, 3), np.float32), np.eye(2, 3, dtype=np.float32)[None])


def test_images_and_clips_as_the_model_takes_them(exports: Exports) -> None:
    """One image without a batch, and clips that are longer than the window."""
    exported = exports("temporal")
    own, clip = ExportedModel(exported.path), torch.rand(2, 5, 1, *SIZE).mul(255).round() / 255
    assert not isinstance(exported.model, Ensemble)
    for images in (clip, clip[0, 0], clip[:, 0]):
        found, expected = own.infer(images).keypoints, exported.model.infer(images).keypoints
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_prediction_that_is_not_finite(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ExportedModel(exports("regression").path)
    monkeypatch.setattr(
        model, "run", lambda images, matrices: {"points": np.full((len(images), 3, 2), np.nan, np.float32)}
    )
    with pytest.raises(NotFiniteError, match=r"regression\.onnx: the prediction for image 0"):
        model.infer(torch.zeros(1, 1, *SIZE))

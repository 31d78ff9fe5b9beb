"""The example server: requests that arrive together are one batch, and a bad image stops nobody else's."""

from __future__ import annotations

import importlib
import io
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.paths import ROOT

from kpnet import Predictor, build_model
from kpnet.data import SyntheticFaces
from kpnet.export import to_onnx

SIZES = ((96, 96), (61, 87), (240, 135), (333, 200), (40, 120))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, its script and the server side by side, and images, as a user has them."""
    folder = tmp_path_factory.mktemp("served")
    model = build_model(backbone="conv_sandwich", head="heatmap", num_keypoints=4, in_channels=1, input_size=32)
    to_onnx(model, folder / "model.onnx")
    model.save(folder / "model")
    shutil.copy(ROOT / "kpnet" / "export" / "reference.py", folder / "predict.py")
    shutil.copy(ROOT / "examples" / "serving" / "serve.py", folder)
    for number, (height, width) in enumerate(SIZES):
        face = SyntheticFaces(1, size=max(height, width), seed=number).read(0)[0]
        Image.fromarray(face[:height, :width]).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def serve(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # which the server lowers
    yield importlib.import_module("serve")
    for name in ("serve", "predict"):
        del sys.modules[name]


@pytest.fixture
def batches(serve: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that the model runs, as they come."""
    sizes: list[int] = []
    run = serve.Model.run

    def counted(self: Any, views: Any) -> Any:
        sizes.append(len(views))
        return run(self, views)

    monkeypatch.setattr(serve.Model, "run", counted)
    monkeypatch.setattr(serve, "WAIT", 1.0)  # however slow the machine is
    return sizes


def post_together(client: TestClient, bodies: list[bytes]) -> list[Any]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: client.post("/predict", content=body), bodies))


def test_requests_that_arrive_together_are_one_batch(folder: Path, serve: ModuleType, batches: list[int]) -> None:
    paths = [folder / f"{number}.png" for number in range(len(SIZES))]
    with TestClient(serve.build_app(str(folder / "model.onnx"))) as client:
        found = [each.json() for each in post_together(client, [path.read_bytes() for path in paths])]
    assert batches == [len(SIZES)]
    for path, values in zip(paths, found, strict=True):
        expected = Predictor(folder / "model", device="cpu")(path)
        assert values.keys() == {"names", "points", "confidence"}
        assert values["names"] == ["0", "1", "2", "3"]
        assert np.abs(np.array(values["points"]) - expected.keypoints[0]).max() < 1e-3
        assert expected.confidence is not None
        assert np.abs(np.array(values["confidence"]) - expected.confidence[0]).max() < 1e-4


def test_a_bad_image_is_refused_and_the_others_are_predicted(
    folder: Path, serve: ModuleType, batches: list[int]
) -> None:
    good = (folder / "0.png").read_bytes()
    large = io.BytesIO()
    Image.new("1", (9000, 9000)).save(large, "PNG")
    bad = [b"", b"no image", good[: len(good) // 2], large.getvalue()]
    with TestClient(serve.build_app(str(folder / "model.onnx"))) as client:
        found = post_together(client, [*bad, good])
    for response in found[:-1]:
        assert response.status_code == 400
        assert len(response.text.splitlines()) == 1
        assert "0x" not in response.text  # no addresses of Python's
    assert "81000000 pixels" in found[3].text
    assert found[-1].status_code == 200
    assert batches == [1]


def test_an_upload_is_bounded(folder: Path, serve: ModuleType, batches: list[int]) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(serve.BYTES // 1_000_000 + 1):
            yield bytes(1_000_000)

    with TestClient(serve.build_app(str(folder / "model.onnx"))) as client:
        assert client.post("/predict", content=bytes(serve.BYTES + 1)).status_code == 413
        assert client.post("/predict", content=endless()).status_code == 413
        assert client.post("/predict", content=(folder / "0.png").read_bytes()).status_code == 200
    assert batches == [1]


def test_a_batch_is_bounded(folder: Path, serve: ModuleType, batches: list[int], monkeypatch: Any) -> None:
    monkeypatch.setattr(serve, "BATCH", 2)
    with TestClient(serve.build_app(str(folder / "model.onnx"))) as client:
        found = post_together(client, 4 * [(folder / "0.png").read_bytes()])
    assert {each.status_code for each in found} == {200}
    assert batches == [2, 2]


def test_a_batch_that_fails_does_not_stop_the_server(
    folder: Path, serve: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, fails = serve.Model.run, iter([True, False])
    monkeypatch.setattr(serve.Model, "run", lambda self, views: 1 / 0 if next(fails) else run(self, views))
    body = (folder / "0.png").read_bytes()
    with TestClient(serve.build_app(str(folder / "model.onnx")), raise_server_exceptions=False) as client:
        assert client.post("/predict", content=body).status_code == 500
        assert client.post("/predict", content=body).status_code == 200


def test_it_is_short() -> None:
    code = [line for line in (ROOT / "examples" / "serving" / "serve.py").read_text().splitlines() if line.strip()]
    assert len(code) <= 55

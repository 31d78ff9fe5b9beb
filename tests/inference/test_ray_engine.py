"""Predictions on Ray: workers and driver that are killed, and clusters that cannot be used.

Each start of Ray takes several seconds, so that few tests start it, and do much.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ray import cloudpickle
from support.paths import ROOT

import kpnet
from kpnet.core.errors import KpnetError
from kpnet.inference import ray_engine, shards
from kpnet.models.calibration import Calibration

COUNT, SIZE = 240, 4
CALL = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from kpnet.inference.inputs import stream_images
from kpnet.inference.predictor import Predictor
from kpnet.inference.ray_engine import predict_on_ray
model, photos, out, gate = map(Path, sys.argv[1:5])
settings = {"batch_size": 4, "bits": 16}
predictor = Predictor(str(model), device="cpu", **settings)
done = lambda: len(list((out / "predictions").glob("[0-9]*.parquet")))
limit = done() + 2
def wait(*_):  # once there are two shards more, workers stop until the gate is open
    while done() >= limit and not gate.exists():
        time.sleep(0.01)
predictor.model.backbone.register_forward_pre_hook(wait)
listed = lambda failures: stream_images([photos], failures)
outcome = predict_on_ray(predictor, settings, listed, [], out, {"inputs": str(photos)}, size=int(sys.argv[5]))
print(outcome)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("ray") / "model"
    kpnet.build_model(backbone="conv_sandwich", head="heatmap", num_keypoints=2, input_size=(64, 64)).save(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many images, of which number 7 is none."""
    folder = tmp_path_factory.mktemp("ray") / "photos"
    folder.mkdir()
    texture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8), (0, 0), 3)
    for number in range(COUNT):
        cv2.imwrite(str(folder / f"{number:03}.png"), texture[number // 16 :, number % 16 :][:200, :200])
    (folder / "007.png").write_text("none")
    return folder


def start(model: Path, photos: Path, out: Path, gate: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_raylet_start_wait_time_s": "120"}
    command = [sys.executable, "-c", CALL, *map(str, (model, photos, out, gate, SIZE))]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for_shards(out: Path, count: int, process: subprocess.Popen[str]) -> set[Path]:
    end = time.monotonic() + 240
    while time.monotonic() < end and process.poll() is None:
        found = set((out / "predictions").glob("[0-9]*.parquet"))
        if len(found) >= count:
            return found
        time.sleep(0.01)
    raise AssertionError(process.communicate(timeout=30)[0])


def workers() -> list[int]:
    """The processes of Ray's actors that belong to this user."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            if path.stat().st_uid == os.getuid() and b"ray::" in command and b"ShardWorker" in command:
                found.append(int(path.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the workers in /proc")
def test_each_image_is_predicted_once_over_a_killed_driver_and_a_killed_worker(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    out, gate, total = tmp_path / "out", tmp_path / "gate", COUNT // SIZE
    others = set(workers())
    first = start(model, photos, out, gate)
    before = wait_for_shards(out, 2, first)
    first.kill()
    first.wait(60)
    end = time.monotonic() + 120
    while set(workers()) - others and time.monotonic() < end:  # they end with the driver
        time.sleep(0.1)
    before = set((out / "predictions").glob("[0-9]*.parquet"))
    assert len(before) < total
    stamps = {path: path.stat().st_mtime_ns for path in before}
    assert not (out / "failed.csv").exists()

    second = start(model, photos, out, gate)
    found = wait_for_shards(out, len(before) + 2, second)
    killed = (set(workers()) - others).pop()
    os.kill(killed, signal.SIGKILL)
    assert len(found) < total
    (out / "predictions" / ".kpnet-0123.part.000004.parquet").touch()  # as if it was killed while it wrote
    gate.touch()
    said = second.communicate(timeout=400)[0]
    assert second.returncode == 0, said
    assert f"{COUNT - 1} input(s)" in said
    assert {path: path.stat().st_mtime_ns for path in before} == stamps, "what is done is not done again"

    paths = sorted((out / "predictions").iterdir())
    assert [path.name for path in paths] == [f"{number:06}.parquet" for number in range(total)]
    table = pq.read_table(out / "predictions").to_pandas()
    good = [str(path) for path in sorted(photos.iterdir()) if path.stem != "007"]
    assert table[table["name"] == table["name"].iloc[0]]["image"].tolist() == good
    assert (out / "failed.csv").read_text().count("007.png: not a readable image") == 1
    predictor = kpnet.Predictor(str(model), device="cpu")
    expected = np.concatenate([prediction.keypoints[0] for prediction in predictor(good[:12])])
    np.testing.assert_allclose(table[["x", "y"]].to_numpy()[: len(expected)], expected, atol=1e-3)


def test_a_cluster_that_does_not_respond_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        for address in (f"127.0.0.1:{port}", "no.such.host.invalid:6379", "127.0.0.1:99999999"):
            with pytest.raises(KpnetError, match=f"no Ray cluster responds at {address}"):
                ray_engine.check_address(address)
        held.listen()
        monkeypatch.setattr(ray_engine, "_HEALTH", 0.5)  # it accepts and says nothing
        with pytest.raises(KpnetError, match="no Ray cluster responds"):
            ray_engine.check_address(f"127.0.0.1:{port}")
    for address in ("auto", "ray://127.0.0.1:10001", "127.0.0.1:", ":1"):
        with pytest.raises(KpnetError, match="expected HOST:PORT"):
            ray_engine.check_address(address)


def test_two_models_have_the_same_digest_only_if_they_are_the_same(model: Path) -> None:
    one, two = kpnet.Predictor(str(model)), kpnet.Predictor(str(model))
    assert ray_engine.digest(one) == ray_engine.digest(two)
    with torch.no_grad():
        next(two.model.parameters()).add_(1e-3)
    assert ray_engine.digest(one) != ray_engine.digest(two)
    two = kpnet.Predictor(str(model))
    two.model.calibration = Calibration([0.0, 0.0], 1.0, 5.0, 100)
    assert ray_engine.digest(one) != ray_engine.digest(two)


def test_a_machine_without_kpnet_of_another_version_or_apart_is_named(tmp_path: Path) -> None:
    (tmp_path / "list").mkdir()
    listed = tmp_path / "list" / shards.INPUTS
    pq.write_table(pa.table({"x": [1]}), listed)
    key = f"{kpnet.__version__} {shards.read_key(listed)}"
    look = ray_engine.machine_check()
    assert look(str(listed), key)[1] == ""
    assert look(str(tmp_path / "gone"), key)[1] == "does not see the output folder"
    assert look(str(listed), f"9.9 {shards.read_key(listed)}")[1] == f"has kpnet {kpnet.__version__}"
    # As Ray sends it, to where there is no kpnet.
    program = f"""
import pickle, sys
sys.modules["kpnet"] = None
print(pickle.loads({cloudpickle.dumps(look)!r})("a", "b")[1])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "has no kpnet\n", done

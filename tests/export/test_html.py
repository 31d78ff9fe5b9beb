"""Which model the page gets; what the page does with it is in test_page.py."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.console import Run

from kpnet import Predictor, build_model
from kpnet.core.errors import KpnetError
from kpnet.export import html
from kpnet.export.html import to_html
from kpnet.export.page.runtime import Runtime
from kpnet.models.exported import ExportedModel
from kpnet.models.keypoint_model import KeypointModel

pytest.importorskip("onnx")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What was written as a page: the model's bytes and their metadata."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr(html, "load_runtime", lambda folder: Runtime("1", b"", b""))
    monkeypatch.setattr(html, "write_page", lambda model, about, path, **more: seen.update(model=model, about=about))
    return seen


@pytest.fixture(scope="module")
def model() -> KeypointModel:
    backbone = {"name": "conv_sandwich", "channels": [8, 16]}
    return build_model(backbone=backbone, head="regression", num_keypoints=3, input_size=32, in_channels=1)


def test_weights_are_rounded_unless_points_move(
    model: KeypointModel, written: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the fewest bits with which the points stay within the limit, and else not at all."""
    parities: list[float] = []
    sizes: list[int] = []
    for limit in (9.0, None, 1e-9):  # random weights, on drawings 30 times the input's size
        monkeypatch.setattr(html, "MOST_PIXELS", parities[0] / 2 if limit is None else limit)
        info = to_html(model, tmp_path / "a.html")
        assert written["about"] == info.model_dump(mode="json")
        assert info.parity is not None
        parities.append(info.parity.pixels)
        sizes.append(len(gzip.compress(written["model"])))
    assert parities[0] > 2 * parities[1] > 2 * parities[2]
    assert sizes == sorted(sizes)
    image, matrix = np.full((1, 32, 32, 1), 77, np.uint8), np.eye(2, 3, dtype=np.float32)[None]
    found = ExportedModel(written["model"], "a").run(image, matrix)["points"]
    np.testing.assert_allclose(found, Predictor(model)(image[0, ..., 0]).keypoints, atol=1e-4)


def test_a_missing_runtime_is_found_before_the_export(model: KeypointModel, tmp_path: Path) -> None:
    with pytest.raises(KpnetError, match="gone: no such folder"):
        to_html(model, tmp_path / "a.html", runtime=tmp_path / "gone")
    assert not list(tmp_path.iterdir())


def test_the_command(kpnet: Run, trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(html, "load_runtime", lambda folder: Runtime("1", b"", b""))
    done = kpnet("export", trained, "--to", "html")
    assert done.code == 0, done.err
    assert "exported/run.html: points to" in done.out
    assert "on 25 validation images and drawn faces" in done.out
    before = (tmp_path / "exported" / "run.html").read_bytes()
    kpnet("export", trained, "--to", "html").refused("run.html: exists", "--force")
    assert (tmp_path / "exported" / "run.html").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--to", "html", "--any-size"], "--any-size: the page fits images into the model's input"),
        (["--to", "html", "--int8"], "--int8: only --to onnx has it"),
        (["--to", "onnx", "--runtime", "."], "--runtime: only --to html has it"),
        (["--to", "html", "--runtime", "gone"], "gone: no such folder; run `npm pack onnxruntime-web@"),
    ],
)
def test_options_that_do_not_fit(kpnet: Run, trained: Path, tmp_path: Path, options: list[str], expected: str) -> None:
    kpnet("export", trained, *options).refused(expected)
    assert not list(tmp_path.iterdir())

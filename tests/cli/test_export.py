"""`kpnet export`: what it writes, prints and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.console import Run

from kpnet import load_model
from kpnet.export import onnx, reference, score, to_onnx
from kpnet.models.exported import ExportedModel, ExportInfo

Tree = Callable[[Path], dict[str, bytes | None]]
SCRIPT = Path(reference.__file__).read_bytes()


@pytest.fixture(scope="module")
def written(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What `to_onnx` writes of the run, by precision: no other test needs another export."""
    path = tmp_path_factory.mktemp("written") / "a.onnx"
    to_onnx(load_model(trained), path)
    return {"fp32": path.read_bytes()}


@pytest.fixture
def quick(written: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """`to_onnx` writes what it wrote before; the keywords of its calls."""
    calls: list[dict[str, Any]] = []

    def write(model: Any, path: Path, **options: Any) -> ExportInfo:
        calls.append(options)
        path.write_bytes(written["fp32"])
        return ExportedModel(path).info

    monkeypatch.setattr(onnx, "to_onnx", write)
    return calls


def test_end_to_end(kpnet: Run, run_copy: Path, tmp_path: Path) -> None:
    """The files and what is printed; the file predicts and is measured as the run."""
    done = kpnet("export", run_copy, "--to", "onnx")
    assert (done.code, done.err) == (0, "")
    first, second = done.out.splitlines()
    assert first.startswith("exported/tiny.onnx: points to ")
    assert first.endswith("on 5 validation images")
    assert float(first.split("points to ")[1].split()[0]) <= 1e-3
    assert second == "exported/predict.py: python exported/predict.py exported/tiny.onnx photo.jpg"
    assert sorted(each.name for each in (tmp_path / "exported").iterdir()) == [".kpnet", "predict.py", "tiny.onnx"]
    assert (tmp_path / "exported" / "predict.py").read_bytes() == SCRIPT

    file = tmp_path / "exported" / "tiny.onnx"
    tables = []
    for model, out in ((run_copy, "a"), (file, "b")):
        assert kpnet("predict", model, run_copy / "predictions.png", "--out", out).code == 0
        tables.append(pd.read_csv(tmp_path / out / "predictions.csv"))
    assert list(tables[0].name) == list(tables[1].name)
    for column, most in (("x", 2e-3), ("y", 2e-3), ("confidence", 1e-4)):
        assert np.abs(tables[0][column] - tables[1][column]).max() <= most


def test_evaluate_takes_the_file(kpnet: Run, trained: Path, written: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(written["fp32"])
    val = trained.parent / "data" / "val.csv"
    found, expected = (json.loads(kpnet("evaluate", each, val, "--json").out) for each in ("tiny.onnx", trained))
    assert found["score"] == pytest.approx(expected["score"], rel=1e-4)
    assert found["rmse_px"] == pytest.approx(expected["rmse_px"], abs=1e-3)


def test_existing_files(kpnet: Run, trained: Path, tmp_path: Path, tree: Tree, quick: list[dict[str, Any]]) -> None:
    """They are replaced with --force alone, and only those that kpnet wrote."""
    assert kpnet("export", trained, "--to", "onnx").code == 0
    file, script = (tmp_path / "exported" / name for name in ("run.onnx", "predict.py"))
    before = tree(tmp_path)
    kpnet("export", trained, "--to", "onnx").refused("exported/run.onnx: exists", "--force")
    assert tree(tmp_path) == before
    assert kpnet("export", trained, "--to", "onnx", "--force").code == 0
    script.write_text("print('mine')\n")
    before = tree(tmp_path)
    for options in ([], ["--force"]):
        kpnet("export", trained, "--to", "onnx", *options).refused("exported/")
        assert tree(tmp_path) == before
    assert kpnet("export", trained, "--to", "onnx", "--out", "other").code == 0
    file.write_bytes(b"mine")
    script.write_bytes(SCRIPT)
    kpnet("export", trained, "--to", "onnx", "--force").refused("run.onnx: was changed after kpnet wrote it")
    assert file.read_bytes() == b"mine"
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "predict.py").write_text("print('mine')")
    kpnet("export", trained, "--to", "onnx", "--out", "own", "--force").refused("predict.py: exists, and kpnet did not")
    assert (tmp_path / "own" / "predict.py").read_text() == "print('mine')"


def test_a_precision_that_costs_too_much(
    kpnet: Run, trained: Path, tmp_path: Path, quick: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than 2 % of the score is refused, and --force accepts it."""
    cost = score.Cost(score=(97.0, 100.0), size=(1_000_000, 4_000_000), milliseconds=(1.0, 2.0))
    monkeypatch.setattr(score, "measure_cost", lambda *_: cost)
    done = kpnet("export", trained, "--to", "onnx", "--int8")
    assert done.code == 1
    assert done.err.startswith("kpnet: int8: score 97.0 instead of 100.0, 1.0 MB instead of 4.0, ")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "exported").exists()
    assert quick[-1]["precision"] == "int8"
    assert len(quick[-1]["calibration_samples"]) == 8
    done = kpnet("export", trained, "--to", "onnx", "--int8", "--force")
    assert done.code == 0
    assert "; score 97.0 instead of 100.0" in done.out
    assert (tmp_path / "exported" / "run.onnx").is_file()


def test_what_is_refused(
    kpnet: Run, trained: Path, tmp_path: Path, written: dict[str, bytes], tree: Tree, quick: list[dict[str, Any]]
) -> None:
    (tmp_path / "a.onnx").write_bytes(written["fp32"])
    load_model(trained).save(tmp_path / "saved")
    before = tree(tmp_path)
    kpnet("export", trained, "--to", "torch", "--int8").refused("--int8: only --to onnx has it")
    kpnet("export", "a.onnx", "--to", "torch").refused("exported one already", "export the run")
    kpnet("export", "a.onnx", "--to", "onnx", "--decoding", "dark").refused("a.onnx: its decoding is part of the file")
    kpnet("evaluate", "a.onnx", "--decoding", "dark").refused("a.onnx: its decoding is part of the file")
    kpnet("export", "saved", "--to", "onnx", "--int8").refused("int8 is calibrated on training images", "saved")
    kpnet("export", trained, "--to", "jpeg").refused("--to", "jpeg")
    kpnet("export", "gone", "--to", "onnx").refused("gone")
    assert tree(tmp_path) == before


def test_an_exported_file_is_not_exported_as_onnx(kpnet: Run, written: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(written["fp32"])
    kpnet("export", "a.onnx", "--to", "onnx").refused("exported one already", "export the run")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.onnx"]


def test_a_torch_archive(kpnet: Run, trained: Path, tmp_path: Path) -> None:
    done = kpnet("export", trained, "--to", "torch", "--out", "out")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("out/run.pt2: points to ")
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [".kpnet", "run.pt2"]

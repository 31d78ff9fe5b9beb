"""`kpnet train` where it is one of several processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.console import Run
from support.shapes import shapes_config, write_shapes

from kpnet.core.yaml import write_yaml
from kpnet.training.supervised import TrainedRun


@pytest.mark.parametrize(("node", "lines"), [("0", 1), ("1", 0)])
def test_only_the_first_machine_says_where_the_run_is(
    kpnet: Run, monkeypatch: pytest.MonkeyPatch, node: str, lines: int
) -> None:
    """The run folder is on the first machine; Lightning sets NODE_RANK on each."""
    model: Any = type("Model", (), {"skeleton": type("Skeleton", (), {"name": None})})
    monkeypatch.setattr("kpnet.training.supervised.train", lambda *_, **__: TrainedRun(Path("out"), model, {}))
    monkeypatch.setenv("NODE_RANK", node)
    done = kpnet("train", "demo", "--out", "out")
    assert done.code == 0, done
    assert done.out.count("the run is in out") == lines


def test_a_training_says_what_its_model_finds(kpnet: Run, tmp_path: Path) -> None:
    labels, val = write_shapes(tmp_path / "data", [2, 1, 3]), write_shapes(tmp_path / "data", [1, 2, 0], seed=1)
    (tmp_path / "config.yaml").write_text(write_yaml(shapes_config(labels, val)))
    done = kpnet("train", tmp_path / "config.yaml", "train.epochs=1", "--out", tmp_path / "run")
    assert done.code == 0, done
    assert "instances that it finds itself: 3 images with 3 instances" in done.out
    saved = json.loads((tmp_path / "run" / "final" / "training.json").read_text())
    measured = json.loads(kpnet("evaluate", tmp_path / "run", "--json").out)["instances"]
    for name in ("AP", "recall", "precision"):
        assert saved[f"found_{name.lower()}"] == pytest.approx(measured[name], abs=1e-3)


@pytest.mark.parametrize(
    ("given", "expected"),
    [((), None), (("--self-train",), 0.5), (("--self-train", "train.self_train={min_confidence: 0.7}"), 0.7)],
)
def test_self_training_is_asked_for_by_a_flag(
    kpnet: Run, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], expected: float | None
) -> None:
    configs: list[Any] = []
    model: Any = type("Model", (), {"skeleton": type("Skeleton", (), {"name": None})})

    def train(config: Any, **_: Any) -> TrainedRun:
        configs.append(config.train.self_train)
        return TrainedRun(Path("out"), model, {})

    monkeypatch.setattr("kpnet.training.supervised.train", train)
    assert kpnet("train", "demo", *given, "--out", "out").code == 0
    assert [None if each is None else each.min_confidence for each in configs] == [expected]
    kpnet("train", "demo", "--self-train", "--overfit", "1").refused("--overfit writes no run", "--self-train")

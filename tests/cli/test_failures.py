"""Full disks, trainings that go wrong and the sanity check, at the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support.console import Run

from kpnet import load_model

Tree = Callable[[Path], dict[str, bytes | None]]


# Full and read-only disks


def test_out_beneath_a_file(kpnet: Run, recipe: Path, trained: Path, data: Path, tmp_path: Path, tree: Tree) -> None:
    before = tree(tmp_path)
    kpnet("train", recipe, "--out", recipe / "run").refused("tiny.yaml/run", "expected a folder")
    kpnet("predict", trained, data / "val.csv", "--out", recipe / "new").refused("tiny.yaml/new", "expected a folder")
    assert tree(tmp_path) == before


class FullDisk:
    """`Path.write_bytes` fills the disk at a file whose name holds `at`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
        self.at, self.write = at, Path.write_bytes
        monkeypatch.setattr(Path, "write_bytes", lambda path, content: self(path, content))

    def __call__(self, path: Path, content: bytes) -> int:
        if self.at not in path.name:
            return self.write(path, content)
        self.write(path, content[: len(content) // 2])
        raise OSError(28, "No space left on device")


def test_full_disk_at_the_start(kpnet: Run, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    FullDisk(monkeypatch, "")
    kpnet("train", recipe).refused("runs/tiny/.kpnet", "No space left")
    assert not [p for p in (tmp_path / "runs").rglob("*") if p.is_file()]


def test_full_disk_in_the_second_epoch(
    kpnet: Run, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("kpnet.training.callbacks.append_durably", full)
    done = kpnet("train", recipe)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "metrics.csv" in done.err
    assert "No space left" in done.err
    run = tmp_path / "runs" / "tiny"
    assert list(pd.read_csv(run / "metrics.csv").epoch) == [0]
    assert not list(run.rglob("*.part"))
    load_model(run / "best")
    assert kpnet("evaluate", "runs/tiny").code == 2  # it has no final model yet
    monkeypatch.undo()


def test_full_disk_inside_the_checkpoint(
    kpnet: Run, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning's own writing; its error does not name a file."""
    from lightning.pytorch import Trainer

    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Trainer, "save_checkpoint", full)
    done = kpnet("train", recipe)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "runs/tiny" in done.err
    assert "No space left" in done.err


def test_full_disk_at_predict(kpnet: Run, trained: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "predictions/predictions.csv")

    monkeypatch.setattr("kpnet.inference.tables.PredictionTable.add", full)
    done = kpnet("predict", trained, data / "val.csv")
    assert done.code == 2, "nothing was predicted"
    assert done.err == "kpnet: predictions/predictions.csv: No space left on device\n"


# Training that goes wrong

DIVERGING = [
    "train.optimizer={name: sgd, lr: 0.3, momentum: 0.0}",
    "train.schedule={name: constant}",
    "model.head={name: regression, activation: none, loss: {mse: 1.0}}",
    "model.backbone.norm=none",
]


def test_a_loss_that_is_not_finite(kpnet: Run, recipe: Path, tmp_path: Path) -> None:
    done = kpnet("train", recipe, *DIVERGING, "train.epochs=60", "train.optimizer.lr=1e12")
    assert done.code == 2
    assert done.err.count("\n") == 1
    for word in ("not finite", "epoch", "step", "train.optimizer.lr", "train.clip_norm"):
        assert word in done.err
    assert not (tmp_path / "runs" / "tiny" / "final").exists()
    assert not list((tmp_path / "runs").rglob("*.part"))


def test_a_late_divergence_keeps_the_best_model(kpnet: Run, recipe: Path, tmp_path: Path) -> None:
    # A warm-up: the first epoch hardly moves, later ones explode.
    schedule = "train.schedule={name: cosine, warmup_epochs: 30}"
    done = kpnet("train", recipe, *DIVERGING, "train.epochs=40", "train.optimizer.lr=1.0", schedule)
    assert done.code == 2, done.err
    assert "not finite" in done.err
    best = json.loads((tmp_path / "runs" / "tiny" / "best" / "training.json").read_text())
    rows = pd.read_csv(tmp_path / "runs" / "tiny" / "metrics.csv")
    assert len(rows) >= 1
    assert best["val_score"] == pytest.approx(rows.val_score.max())
    model = load_model(tmp_path / "runs" / "tiny" / "best")
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert kpnet("train", recipe).code == 2  # it exists
    kpnet("evaluate", "runs/tiny").refused("not ended", "--resume", "best")


def test_a_saturated_run_warns_and_goes_on(kpnet: Run, recipe: Path, tmp_path: Path) -> None:
    settings = [*DIVERGING, "model.head.activation=tanh", "train.optimizer.lr=30", "train.epochs=3"]
    done = kpnet("train", recipe, *settings)
    assert done.code == 0, done.err
    text = " ".join((done.out + done.err).split())
    assert "saturated" in text
    assert "train.optimizer.lr than 30" in text
    assert len(pd.read_csv(tmp_path / "runs" / "tiny" / "metrics.csv")) == 3


def test_a_healthy_run_does_not_warn(kpnet: Run, recipe: Path, data: Path, make_csv: Callable[[int, int], str]) -> None:
    (data / "train.csv").write_text(make_csv(240, 0))
    settings = ["train.optimizer.lr=0.01", "train.schedule={name: constant}", "data.val=null"]
    done = kpnet("train", recipe, *settings, "model.head.loss={cross_entropy: 1.0, l1: 1.0}")
    assert done.code == 0, done.err
    assert "saturated" not in done.out + done.err


def test_labels_that_are_all_the_same_are_no_failure(kpnet: Run, recipe: Path, data: Path) -> None:
    head, *lines = (data / "train.csv").read_text().splitlines()
    same = [",".join(["12,12,20,12,16,20", line.split(",")[-1]]) for line in lines]
    (data / "train.csv").write_text("\n".join([head, *same]) + "\n")
    done = kpnet("train", recipe, "train.epochs=2")
    assert (done.code, done.err) == (0, "")
    assert "saturated" not in done.out


def test_momentum_one_is_allowed(kpnet: Run, recipe: Path) -> None:
    settings = "train.optimizer={name: sgd, lr: 1.0e-4, momentum: 1.0}"
    assert kpnet("train", recipe, settings, "train.epochs=1").code == 0
    kpnet("train", recipe, "train.optimizer={name: sgd, lr: 1, momentum: -1}", "--out", "x").refused("momentum", "-1")


# The sanity check


def test_overfit(kpnet: Run, recipe: Path, tmp_path: Path, tree: Tree) -> None:
    before = tree(tmp_path)
    done = kpnet("train", recipe, "--overfit", "1", "train.overfit={name: adam, lr: 0.02}")
    assert (done.code, done.err) == (0, "")
    assert done.out.lstrip().startswith("pass: ")
    failed = kpnet("train", recipe, "--overfit", "2", "train.overfit={name: sgd, lr: 1.0e-9}")
    assert failed.code == 1
    assert failed.out.lstrip().startswith("FAIL: ")
    assert "lr" in failed.out
    assert tree(tmp_path) == before


def test_overfit_of_too_many(kpnet: Run, recipe: Path, tmp_path: Path) -> None:
    kpnet("train", recipe, "--overfit", "9").refused("--overfit 9", "1 to 8")
    assert kpnet("train", recipe, "--overfit", "0").code == 2
    assert not (tmp_path / "runs").exists()

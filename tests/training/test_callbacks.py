"""What a training writes while it runs, from epochs whose measures are given."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from support.recipes import small

from kpnet import coordinates, load_model
from kpnet.config.loading import load_config
from kpnet.core.errors import KpnetError
from kpnet.data import SyntheticFaces
from kpnet.models.keypoint_model import KeypointModel
from kpnet.training.callbacks import MetricsLogger, RunFolderCallback, StopEarly, draw_samples, save_model
from kpnet.training.module import KeypointModule


class Epoch:
    """What the callbacks see of a Trainer in an epoch."""

    def __init__(self, epoch: int, groups: list[dict[str, Any]] | None = None, first: bool = True) -> None:
        self.current_epoch, self.global_step, self.max_epochs = epoch, 10 * (epoch + 1), 40
        self.optimizers = [SimpleNamespace(param_groups=groups or [{"part": "model", "lr": 0.1}])]
        self.is_global_zero, self.loggers = first, [self]
        self.logged: list[tuple[dict[str, float], int]] = []

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.logged.append((values, step))


def record(callback: MetricsLogger, trainer: Any, loss: float, text: str = "") -> None:
    callback.on_train_epoch_start(trainer, trainer)
    callback.record(trainer, loss, text)


def test_a_row_an_epoch_in_the_file_the_logger_and_the_terminal(tmp_path: Path) -> None:
    shown = io.StringIO()
    callback = MetricsLogger(tmp_path, Console(file=shown, width=100), bar=False)
    groups = [{"part": "head", "lr": 0.1}, {"part": "head", "lr": 0.1}, {"part": "backbone", "lr": 0.01}]
    for epoch in range(2):
        trainer = Epoch(epoch, groups)
        record(callback, trainer, 0.5 / (epoch + 1), "  and more")
        values, step = trainer.logged[0]
        assert step == epoch
        assert values.keys() == {"lr", "lr_backbone", "train_loss", "seconds"}
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert table.epoch.tolist() == [0, 1]
    assert table.step.tolist() == [10, 20]
    assert table.train_loss.tolist() == [0.5, 0.25]
    assert table.lr.tolist() == [0.1, 0.1]
    assert table.lr_backbone.tolist() == [0.01, 0.01]
    assert (table.seconds >= 0).all()
    lines = shown.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [["epoch", "1/40"], ["epoch", "2/40"]]
    assert "0.25  and more" in lines[1]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_the_history_goes_on_where_it_was_saved(tmp_path: Path) -> None:
    console = Console(quiet=True)
    first = MetricsLogger(tmp_path, console, bar=True)
    record(first, Epoch(0), 0.5)
    state = json.loads(json.dumps(first.state_dict()))
    resumed = MetricsLogger(tmp_path, console, bar=True)
    resumed.load_state_dict(state)
    record(resumed, Epoch(1), 0.25)
    assert pd.read_csv(tmp_path / "metrics.csv").train_loss.tolist() == [0.5, 0.25]


@pytest.mark.parametrize("after", ["", "1,20,0.1,0.125,0.0\n", "1,20,0.", "\0\0"])
def test_rows_after_the_checkpoint_are_dropped_whole_or_torn(after: str, tmp_path: Path) -> None:
    """The epoch after the last checkpoint is trained again, whatever a crash has left of its row."""
    losses = [0.1 + 0.2, 1 / 3, 2e-300]  # to the last bit
    first = MetricsLogger(tmp_path, Console(quiet=True), bar=True)
    record(first, Epoch(0), losses[0])
    record(first, Epoch(1), losses[1])
    state = first.state_dict()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write(after)
    resumed = MetricsLogger(tmp_path, Console(quiet=True), bar=True)
    resumed.load_state_dict(state)
    assert resumed.history == first.history
    record(resumed, Epoch(2), losses[2])
    table = pd.read_csv(tmp_path / "metrics.csv", float_precision="round_trip")
    assert table.train_loss.tolist() == losses


def test_a_column_that_comes_later_is_in_the_file(tmp_path: Path) -> None:
    """A part that is unfrozen, or a validation that is not after each epoch."""
    callback = MetricsLogger(tmp_path, Console(quiet=True), bar=True)
    record(callback, Epoch(0), 0.5)
    callback.measured = {}
    callback.on_train_epoch_start(Epoch(1), Epoch(1))  # type: ignore[arg-type]
    callback.measured = {"val_loss": 0.25}
    callback.record(Epoch(1), 0.5, "")  # type: ignore[arg-type]
    record(callback, Epoch(2), 0.5)
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert table.epoch.tolist() == [0, 1, 2]
    assert table.val_loss.isna().tolist() == [True, False, True]


def test_an_epoch_costs_as_much_after_many_as_after_few(tmp_path: Path) -> None:
    """Neither the checkpoint's state nor what is written to the file grows with the epochs before."""
    callback = MetricsLogger(tmp_path, Console(quiet=True), bar=True)
    written = []
    for epoch in range(30):
        before = (tmp_path / "metrics.csv").stat() if epoch else None
        record(callback, Epoch(epoch), 0.5)
        now = (tmp_path / "metrics.csv").stat()
        if before is not None:
            assert now.st_ino == before.st_ino, "appended to, and not written again"
            written.append(now.st_size - before.st_size)
    assert max(written) - min(written) <= 4
    assert len(json.dumps(callback.state_dict())) < 30


def test_a_file_that_is_not_the_metrics_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(KpnetError, match=r"metrics\.csv: not the metrics of a run"):
        MetricsLogger(tmp_path, Console(quiet=True), bar=True).load_state_dict({"epochs": 1})


def test_metrics_that_are_gone_begin_again(tmp_path: Path) -> None:
    callback = MetricsLogger(tmp_path, Console(quiet=True), bar=True)
    callback.load_state_dict({"epochs": 1})
    assert callback.history == []


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    record(MetricsLogger(tmp_path, Console(quiet=True), bar=True), Epoch(0, first=False), 0.5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("epochs", "expected"), [(3, 3), (10, 10), (19, 19), (20, 11), (100, 11)])
def test_about_ten_epochs_and_the_last_are_drawn(epochs: int, expected: int, tmp_path: Path) -> None:
    callback = MetricsLogger(tmp_path, Console(quiet=True), bar=True)
    trainers: list[Any] = [SimpleNamespace(current_epoch=epoch, max_epochs=epochs) for epoch in range(epochs)]
    drawn = [callback.draws(trainer) for trainer in trainers]
    assert sum(drawn) == expected
    assert drawn[0]
    assert drawn[-1]


class Measured:
    """In place of a metric: what it has found."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def compute(self) -> Any:
        return self.value


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module without a Trainer."""
    model = small(num_keypoints=15)
    config = load_config({"model": {"backbone": "conv_sandwich", "head": "heatmap"}}).train
    made: Any = KeypointModule(model, config)
    monkeypatch.setattr(KeypointModule, "log", lambda *_, **__: None)
    monkeypatch.setattr(KeypointModule, "log_dict", lambda *_, **__: None)
    return made


def validate(callback: RunFolderCallback, module: Any, epoch: int, score: float) -> None:
    """An epoch whose weights have all its number."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(epoch)
    values = {"score": score, "rmse_px": 1.0, "mre_px": float("nan"), "nme": 0.1}
    measures = {name: torch.tensor(value) for name, value in values.items()}
    for name, found in (("val_metrics", Measured(measures)), ("val_loss", Measured(torch.tensor(0.5)))):
        module._modules.pop(name, None)
        object.__setattr__(module, name, found)
    trainer: Any = Epoch(epoch)
    trainer.current_epoch = epoch
    callback.on_validation_epoch_end(trainer, module)


def saved(folder: Path) -> tuple[int, float]:
    """The epoch that the saved weights are of, by the weights and by the file beside them."""
    values = json.loads((folder / "best" / "training.json").read_text())
    weights = next(load_model(folder / "best").parameters())
    assert values["epoch"] == weights.flatten()[0]
    return values["epoch"], values["val_score"]


def test_the_best_model_is_kept_by_its_validation_score(module: Any, tmp_path: Path) -> None:
    callback = RunFolderCallback(tmp_path, None, Console(quiet=True), bar=True)
    for epoch, (score, best) in enumerate([(3.0, (0, 3.0)), (5.0, (1, 5.0)), (4.0, (1, 5.0)), (5.0, (1, 5.0))]):
        validate(callback, module, epoch, score)
        assert saved(tmp_path) == best
    values = json.loads((tmp_path / "best" / "training.json").read_text())
    assert values["val_loss"] == 0.5
    assert values["val_mre_px"] is None, "JSON has no NaN"
    resumed = RunFolderCallback(tmp_path, None, Console(quiet=True), bar=True)
    resumed.load_state_dict(callback.state_dict())
    validate(resumed, module, 4, 4.5)
    assert saved(tmp_path) == (1, 5.0)
    validate(resumed, module, 5, 5.5)
    assert saved(tmp_path) == (5, 5.5)


def test_a_saved_model_says_of_which_epoch_it_is(tmp_path: Path) -> None:
    model = small()
    save_model(model, tmp_path, 4, {"val_score": 2.5})
    assert json.loads((tmp_path / "training.json").read_text()) == {"epoch": 4, "val_score": 2.5}
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(load_model(tmp_path)(image), model.eval()(image))


@pytest.mark.parametrize(("count", "shown"), [(3, 3), (30, 12)])
def test_samples_are_drawn_with_their_true_and_predicted_points(count: int, shown: int) -> None:
    model: KeypointModel = small(num_keypoints=15)
    data = SyntheticFaces(count, image_size=(32, 32), in_channels=1)
    figure = draw_samples(model, data)
    assert len(figure.axes) == shown
    truth, predicted = (np.stack([line.get_xdata(), line.get_ydata()], -1) for line in figure.axes[2].get_lines())
    item = data[2]
    expected = [item["keypoints"], model.eval()(item["image"][None])[0].detach()]
    for found, points in zip((truth, predicted), expected, strict=True):
        np.testing.assert_allclose(found, coordinates.normalized_to_pixel(points, (32, 32)), atol=1e-4)
    assert draw_samples(model, None) is None


def test_a_resumed_run_has_its_own_patience() -> None:
    ended, resumed = (StopEarly("val_score", mode="max", patience=patience) for patience in (1, 5))
    ended.wait_count = 1
    resumed.load_state_dict(ended.state_dict())
    assert (resumed.patience, resumed.wait_count) == (5, 1)

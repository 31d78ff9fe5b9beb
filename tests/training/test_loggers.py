"""Loggers: which ones a run gets, what they are given, and one line where they cannot start. No network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kpnet.config.trainer import CSV, MLflow, TensorBoard, Wandb
from kpnet.core.errors import KpnetError
from kpnet.training.loggers import begin, build_loggers, end, log_figure, log_metrics


class Recorder:
    """In place of a service's run or client: notes every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def service(base: type[Logger], recorder: Recorder) -> Any:
    """A logger of this kind that sends nothing."""

    def note(name: str) -> Any:
        return lambda _, *args, **kwargs: recorder.calls.append((name, args, kwargs))

    def start(_: Any, **options: Any) -> None:
        recorder.calls.append(("init", (), options))

    noted = {name: note(name) for name in ("log_hyperparams", "log_image", "finalize")}
    held = {"_experiment": recorder, "experiment": recorder, "run_id": "run", "__init__": start}
    return type("Fake", (base,), {**noted, **held})


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recorder]:
    made = {"wandb": Recorder(), "mlflow": Recorder()}
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("kpnet.training.loggers.WandbLogger", service(WandbLogger, made["wandb"]))
    monkeypatch.setattr("kpnet.training.loggers.MLFlowLogger", service(MLFlowLogger, made["mlflow"]))
    return made


def test_every_logger_gets_parameters_images_and_the_end(
    services: dict[str, Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings: list[Any] = [TensorBoard(), CSV(), Wandb(project="faces", offline=True), MLflow(experiment="points")]
    made = build_loggers(settings, "mine", tmp_path)
    assert len(made) == 3
    assert not list(tmp_path.iterdir())
    begin(made, {"train": {"epochs": 3}})
    figure = Figure((1, 1))
    figure.add_subplot()
    log_figure(made, "val/predictions", figure, 7)
    end(made, succeeded=False)
    wandb, mlflow = ({name: (args, kwargs) for name, args, kwargs in each.calls} for each in services.values())
    assert wandb["init"][1] == {
        **{"name": "mine", "save_dir": tmp_path, "project": "faces", "entity": None, "offline": True}
    }
    assert mlflow["init"][1] == {
        **{"experiment_name": "points", "run_name": "mine", "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db"},
        "artifact_location": f"file://{tmp_path}/mlflow",
    }
    for calls in (wandb, mlflow):
        assert calls["log_hyperparams"][0] == ({"train": {"epochs": 3}},)
        assert calls["finalize"][0] == ("failed",)
    assert wandb["finish"][1] == {"exit_code": 1}
    (name, (image,)), step = wandb["log_image"]
    assert (name, image.size, step) == ("val/predictions", (100, 100), {"step": 7})
    assert mlflow["log_image"][0][0] == "run"
    assert mlflow["log_image"][0][2] == "val/predictions/0007.png"
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [each.step for each in events.Images("val/predictions")] == [7]


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_missing_package_is_told_with_what_to_install(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings: Any = {"wandb": Wandb(), "mlflow": MLflow()}[package]
    with pytest.raises(
        KpnetError, match=rf'^trainer.logger: {package} is not installed: pip install "kpnet\[{package}\]"$'
    ):
        build_loggers([settings], "mine", tmp_path)


@pytest.mark.parametrize("error", [ConnectionError("no route"), RuntimeError("no API key\nlog in")])
def test_a_service_that_refuses_is_one_line(
    services: dict[str, Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    (logger,) = build_loggers([Wandb()], "mine", tmp_path)

    def refuse(*_: Any) -> None:
        raise error

    monkeypatch.setattr(type(logger), "log_hyperparams", refuse)
    with pytest.raises(KpnetError, match=rf"^trainer.logger: wandb: {type(error).__name__}: no [a-zA-Z ]+$"):
        begin([logger], {})


def test_a_service_that_fails_in_mid_training_costs_no_training(
    services: dict[str, Recorder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = build_loggers([MLflow(experiment="points"), TensorBoard()], "mine", tmp_path)

    def dropped(*_: Any, **__: Any) -> None:
        raise ConnectionError("connection reset")

    monkeypatch.setattr(type(made[0]), "log_metrics", dropped, raising=False)
    log_metrics(made, {"loss": 1.0}, 4)
    end(made[1:], succeeded=True)
    assert "mlflow: ConnectionError: connection reset; epoch 5 goes without" in caplog.text
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert read.Scalars("loss")[0].step == 4


def test_tensorboard_alone_is_the_default(tmp_path: Path) -> None:
    from kpnet.config.trainer import TrainerConfig

    (logger,) = build_loggers(TrainerConfig().logger, "mine", tmp_path)
    assert isinstance(logger, TensorBoardLogger)
    assert build_loggers([], "mine", tmp_path) == build_loggers([CSV()], "mine", tmp_path) == []

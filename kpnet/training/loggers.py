"""Loggers of a run, chosen by `trainer.logger`: TensorBoard, Weights & Biases, MLflow."""

from __future__ import annotations

import importlib.util
import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from PIL import Image

from kpnet.config import trainer as schema
from kpnet.core.errors import KpnetError, first_line

log = logging.getLogger("kpnet")


def build_loggers(settings: list[schema.Logger], name: str, folder: Path) -> list[Logger]:
    """Build the loggers of a run; nothing is written or sent yet.

    Args:
        settings: The list `trainer.logger`.
        name: Name of the run.
        folder: The run folder, where local files are written.

    Returns:
        Lightning's loggers; none for `csv`, which every run writes anyway.

    Raises:
        KpnetError: A package is missing.
    """
    found: list[Logger] = []
    for each in settings:
        if isinstance(each, schema.Wandb):
            _require("wandb")
            found.append(
                WandbLogger(name=name, save_dir=folder, project=each.project, entity=each.entity, offline=each.offline)
            )
        elif isinstance(each, schema.MLflow):
            _require("mlflow")
            server = os.environ.get("MLFLOW_TRACKING_URI")
            found.append(
                MLFlowLogger(
                    experiment_name=each.experiment,
                    run_name=name,
                    tracking_uri=server or f"sqlite:///{(folder / 'mlflow.db').absolute()}",
                    artifact_location=None if server else (folder / "mlflow").absolute().as_uri(),
                )
            )
        elif isinstance(each, schema.TensorBoard):
            found.append(TensorBoardLogger(folder, name="tensorboard", version="", default_hp_metric=False))
    return found


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise KpnetError(f'trainer.logger: {package} is not installed: pip install "kpnet[{package}]"')


def begin(loggers: list[Logger], parameters: dict[str, Any]) -> None:
    """Start the loggers and log the run's hyper-parameters.

    Raises:
        KpnetError: A logger cannot start, as nobody is logged in or no server is found.
    """
    for logger in loggers:
        with _named(logger):
            logger.log_hyperparams(parameters)


def end(loggers: list[Logger], succeeded: bool) -> None:
    """Write what is left, close the loggers, and log the run as finished or failed."""
    for logger in loggers:
        with _named(logger):
            logger.finalize("success" if succeeded else "failed")
            if isinstance(logger, WandbLogger) and logger._experiment is not None:
                logger._experiment.finish(exit_code=0 if succeeded else 1)


def log_metrics(loggers: list[Logger], metrics: dict[str, float], epoch: int) -> None:
    """Log the metrics of an epoch; a service that refuses them is warned about, and the training goes on."""
    for logger in loggers:
        with _tolerated(logger, epoch):
            logger.log_metrics(metrics, step=epoch)


def log_figure(loggers: list[Logger], name: str, figure: Figure, epoch: int) -> None:
    """Log a figure in every logger that takes images, as `log_metrics` does."""
    for logger in loggers:
        with _tolerated(logger, epoch):
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure(name, figure, epoch, close=False)
            elif isinstance(logger, WandbLogger):
                logger.log_image(name, [_image(figure)], step=epoch)
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_image(logger.run_id, _image(figure), f"{name}/{epoch:04d}.png")


def _image(figure: Figure) -> Image.Image:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file)


@contextmanager
def _named(logger: Logger) -> Iterator[None]:
    """Raise what a logging service raises as an error of one line, without the address that was tried."""
    try:
        yield
    except Exception as error:
        if isinstance(logger, TensorBoardLogger):  # such as a full disk, which the command line reports
            raise
        name = "wandb" if isinstance(logger, WandbLogger) else "mlflow"
        raise KpnetError(f"trainer.logger: {name}: {first_line(error, with_type=True)}") from None


@contextmanager
def _tolerated(logger: Logger, epoch: int) -> Iterator[None]:
    try:
        with _named(logger):
            yield
    except KpnetError as error:
        log.warning("%s; epoch %d goes without", error, epoch + 1)

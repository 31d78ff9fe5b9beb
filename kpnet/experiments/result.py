"""The result of a finished run: predictions for the validation images, measures and costs."""

from __future__ import annotations

import io
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import timm
import torch
import torchvision

from kpnet import __version__
from kpnet.config.loading import run_config
from kpnet.config.schema import ModelConfig
from kpnet.core.errors import KpnetError
from kpnet.core.files import write_atomic, write_json
from kpnet.core.runtime import best_device
from kpnet.data.build import build_splits
from kpnet.evaluation.found import find_and_measure
from kpnet.evaluation.measurement import evaluate_predictions, predict_dataset
from kpnet.evaluation.run_data import validation_dataset
from kpnet.heads import window_of
from kpnet.models.build import load_model
from kpnet.models.detectors import InputConfig
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.record import read_record
from kpnet.models.summary import summarize

FILE, ARRAYS = "result.json", "predictions.npz"
HELD = ("predicted", "target", "visible", "images")  # in the second file
BATCHES = {1: 20, 64: 5}  # batch size to number of timed repeats


@dataclass
class Result:
    """The result of one run.

    Attributes:
        predicted: Predicted points (N, K, 2), normalised.
        target: True points (N, K, 2), normalised.
        visible: Which true points are labelled, bool (N, K).
        images: Number of the image that each sample is of, int (N,).
        names: Names of the K points.
        input_size: Height and width of the model's input.
        measures: What `kpnet evaluate` measures.
        cost: Times in seconds and sizes in bytes of the training and the model.
        versions: Versions of the libraries, and the device.
    """

    predicted: np.ndarray
    target: np.ndarray
    visible: np.ndarray
    images: np.ndarray
    names: list[str]
    input_size: tuple[int, int]
    measures: dict[str, Any]
    cost: dict[str, Any]
    versions: dict[str, str]

    def save(self, folder: Path) -> None:
        """Write the result into a run folder; the JSON comes last, as it marks the run as finished."""
        arrays = io.BytesIO()
        np.savez_compressed(arrays, **{name: getattr(self, name) for name in HELD})
        write_atomic(folder / ARRAYS, arrays.getvalue())
        values = {k: v for k, v in asdict(self).items() if k not in HELD}
        write_json(folder / FILE, values)


def load_result(folder: Path) -> Result:
    """Load the result that `Result.save` wrote into a run folder, or raise KpnetError."""
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        with np.load(folder / ARRAYS) as arrays:
            held = {name: arrays[name] for name in HELD}
        return Result(**held, **{**values, "input_size": tuple(values["input_size"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise KpnetError(f"{folder}: no result of a finished run: {error}") from None


def measure_run(run: Path, *, peak_bytes: int | None = None) -> Result:
    """Measure the final model of a run on its validation data.

    Args:
        run: The run folder.
        peak_bytes: Peak memory of its training, if known.

    Returns:
        The predictions, the measures, the costs of training and prediction, and the versions of the libraries.

    Raises:
        KpnetError: The model cannot be loaded, or the run has no validation data.
    """
    model = load_model(run).to(best_device())
    dataset = validation_dataset(run, model)
    predictions = predict_dataset(model, dataset)
    measures = evaluate_predictions(predictions, model)
    if model.finds_instances:
        measures["instances"] = find_and_measure(model, dataset).measures
    _take_cross_fitted(measures, model)
    return Result(
        predictions.predicted.keypoints.numpy(),
        predictions.target.numpy(),
        predictions.visible.numpy(),
        predictions.images,
        list(model.skeleton.names),
        model.config.input_size,
        measures,
        {**_training_cost(run), "peak_bytes": peak_bytes, **_model_cost(model)},
        versions(),
    )


def _take_cross_fitted(measures: dict[str, Any], model: KeypointModel) -> None:
    """Take the reliability that the training recorded: its own is of the data that the calibration was fitted to."""
    record = read_record(model.folder, model)
    if record is None or record["outdated"]:
        return
    recorded = record["measures"]
    if recorded.get("reliability", {}).get("cross_fitted"):
        measures |= {name: recorded[name] for name in ("reliability", "presence") if name in recorded}
    if "instances" in recorded and model.instance_calibration is not None:
        measures["instances"]["reliability"] = recorded["instances"]["reliability"]


def versions() -> dict[str, str]:
    """Return the versions of the libraries, and the device, that the numbers depend on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} thread(s)"
    modules = {"torch": torch, "torchvision": torchvision, "timm": timm, "numpy": np}
    return {"kpnet": __version__, **{name: m.__version__ for name, m in modules.items()}, "device": device}


def _training_cost(run: Path) -> dict[str, Any]:
    """Return the time of the run's epochs from its metrics: with validation, without interruptions."""
    try:
        history = pd.read_csv(run / "metrics.csv")
        seconds, epochs, steps = float(history["seconds"].sum()), len(history), int(history["step"].iloc[-1])
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise KpnetError(f"{run / 'metrics.csv'}: no metrics of a run: {error}") from None
    config = run_config(run)
    assert config is not None
    samples = len(build_splits(config, window_of(config.model.head))[0])
    seen = min(samples * epochs, steps * config.train.batch_size)  # fewer if the trainer limits the batches
    rate = seen / seconds if seconds else None
    return {"train_seconds": seconds, "epochs": epochs, "train_images_per_second": rate}


def _model_cost(model: KeypointModel) -> dict[str, Any]:
    """Return the model's size, and its latency for several batch sizes; with a finder, a pass of that is added."""
    summary = summarize(model, (model.config.in_channels, *model.config.input_size))
    latency = {f"latency_{batch}": _latency(model, batch, repeats) for batch, repeats in BATCHES.items()}
    macs, finder = summary.macs, model.finder
    if finder is not None:
        network = finder if isinstance(finder, KeypointModel) else finder.net
        macs += summarize(network, (finder.config.in_channels, *finder.config.input_size)).macs
    return {"parameters": summary.parameters, "macs": macs, "model_bytes": summary.model_bytes, **latency}


def _latency(model: KeypointModel, batch: int, repeats: int) -> float:
    """Return the median time in seconds of `infer`, after `find` in as many whole images where there is a finder."""
    images = _random_images(model.config, batch, model.mean.device)
    whole = None if model.finder is None else _random_images(model.finder.config, batch, model.mean.device)
    times = []
    for _ in range(repeats + 1):  # the first is a warm-up
        start = time.perf_counter()
        if whole is not None:
            model.find(whole)
        model.infer(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _random_images(config: ModelConfig | InputConfig, batch: int, device: torch.device) -> torch.Tensor:
    return torch.rand(batch, config.in_channels, *config.input_size, device=device)

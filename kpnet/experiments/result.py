"""What is kept of a finished run: its answers to the validation images, its measures, its costs."""

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
from kpnet.core.errors import KpnetError
from kpnet.core.files import write_atomic, write_json
from kpnet.core.runtime import best_device
from kpnet.data.build import build_splits
from kpnet.evaluation.measurement import evaluate_predictions, predict_dataset
from kpnet.evaluation.run_data import evaluation_dataset
from kpnet.heads import window_of
from kpnet.models.build import load_model
from kpnet.models.keypoint_model import KeypointModel
from kpnet.models.summary import summarize

FILE, ARRAYS = "result.json", "predictions.npz"
BATCHES = {1: 20, 64: 5}  # images at once: timed repeats


@dataclass
class Result:
    """Of one run. Points (N, K, 2) are normalised; a time is in seconds, a size in bytes."""

    predicted: np.ndarray
    target: np.ndarray
    visible: np.ndarray  # bool (N, K)
    names: list[str]  # of the points
    input_size: tuple[int, int]  # H, W
    measures: dict[str, Any]
    cost: dict[str, Any]
    versions: dict[str, str]

    def save(self, folder: Path) -> None:
        """Into a run folder; the JSON last, by which the run counts as finished."""
        arrays = io.BytesIO()
        np.savez_compressed(arrays, predicted=self.predicted, target=self.target, visible=self.visible)
        write_atomic(folder / ARRAYS, arrays.getvalue())
        values = {k: v for k, v in asdict(self).items() if k not in ("predicted", "target", "visible")}
        write_json(folder / FILE, values)


def load_result(folder: Path) -> Result:
    """Of a run that `Result.save` was called for; a KpnetError says what is missing."""
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        with np.load(folder / ARRAYS) as arrays:
            held = {name: arrays[name] for name in ("predicted", "target", "visible")}
        return Result(**held, **{**values, "input_size": tuple(values["input_size"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise KpnetError(f"{folder}: no result of a finished run: {error}") from None


def measure_run(run: Path, *, peak_bytes: int | None = None) -> Result:
    """The final model of a run on its config's validation data."""
    model = load_model(run).to(best_device())
    dataset = evaluation_dataset(run, None, model)
    answers = predict_dataset(model, dataset)
    measures = evaluate_predictions(answers, model)
    return Result(
        answers.predicted.keypoints.numpy(),
        answers.target.numpy(),
        answers.visible.numpy(),
        list(model.skeleton.names),
        model.config.input_size,
        measures,
        {**_training_cost(run), "peak_bytes": peak_bytes, **_model_cost(model)},
        versions(),
    )


def versions() -> dict[str, str]:
    """Of what the numbers depend on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} thread(s)"
    modules = {"torch": torch, "torchvision": torchvision, "timm": timm, "numpy": np}
    return {"kpnet": __version__, **{name: m.__version__ for name, m in modules.items()}, "device": device}


def _training_cost(run: Path) -> dict[str, Any]:
    """From the run's metrics: what its epochs took, validation included and interruptions left out."""
    try:
        history = pd.read_csv(run / "metrics.csv")
        seconds, epochs, steps = float(history["seconds"].sum()), len(history), int(history["step"].iloc[-1])
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise KpnetError(f"{run / 'metrics.csv'}: no metrics of a run: {error}") from None
    config = run_config(run)
    assert config is not None
    samples = len(build_splits(config, window_of(config.model.head))[0])
    seen = min(samples * epochs, steps * config.train.batch_size)  # unless batches are limited
    rate = seen / seconds if seconds else None
    return {"train_seconds": seconds, "epochs": epochs, "train_images_per_second": rate}


def _model_cost(model: KeypointModel) -> dict[str, Any]:
    summary = summarize(model, (model.config.in_channels, *model.config.input_size))
    latency = {f"latency_{batch}": _latency(model, batch, repeats) for batch, repeats in BATCHES.items()}
    return {"parameters": summary.parameters, "macs": summary.macs, "model_bytes": summary.model_bytes, **latency}


def _latency(model: KeypointModel, batch: int, repeats: int) -> float:
    """Median seconds of `infer`."""
    images = torch.rand(batch, model.config.in_channels, *model.config.input_size, device=model.mean.device)
    times = []
    for _ in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        model.infer(images)
        if images.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])

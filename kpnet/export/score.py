"""What a lower precision costs and gains: score, size and time."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kpnet.data import KeypointDataset
from kpnet.evaluation.measurement import evaluate_predictions, predict_dataset
from kpnet.models.exported import ExportedModel

CALLS = 30


@dataclass(frozen=True)
class Cost:
    """An exported file beside the same model in single precision.

    Attributes:
        score: Its score, and that in single precision; None where there are no labels.
        size: Its size in bytes, and that in single precision.
        milliseconds: Its median time for one image, and that in single precision.
    """

    score: tuple[float, float] | None
    size: tuple[int, int]
    milliseconds: tuple[float, float]

    @property
    def lost(self) -> float:
        """The share of the score that is lost; NaN where it is not known."""
        return math.nan if self.score is None or not self.score[1] > 0 else 1 - self.score[0] / self.score[1]

    def __str__(self) -> str:
        size, each = (f"{n / 1e6:.1f}" for n in self.size), (f"{n:.1f}" for n in self.milliseconds)
        score = "" if self.score is None else f"score {self.score[0]:.1f} instead of {self.score[1]:.1f}, "
        return f"{score}{' MB instead of '.join(size)}, {' ms an image instead of '.join(each)} with onnxruntime"


def measure_cost(small: Path, exact: Path, dataset: KeypointDataset | None) -> Cost:
    """Compare an exported file with the same model in single precision.

    Args:
        small: The file.
        exact: The file in single precision.
        dataset: Labelled data that neither was trained on, or None.

    Returns:
        The costs; times are medians of calls that take turns.
    """
    models = ExportedModel(small), ExportedModel(exact)
    scores = [evaluate_predictions(predict_dataset(m, dataset), m)["score"] for m in models] if dataset else []
    info = models[0].info
    frames = (1 + sum(info.window),) if sum(info.window) else ()
    images = np.zeros((1, *frames, *info.input_size, info.channels), np.uint8)
    matrices = np.eye(2, 3, dtype=np.float32)[None]
    times: tuple[list[float], list[float]] = [], []
    for _ in range(CALLS):
        for model, taken in zip(models, times, strict=True):
            start = time.perf_counter()
            model.run(images, matrices)
            taken.append(1e3 * (time.perf_counter() - start))
    return Cost(
        (scores[0], scores[1]) if scores else None,
        (small.stat().st_size, exact.stat().st_size),
        (statistics.median(times[0]), statistics.median(times[1])),
    )

"""The summary of held-out data that new data is compared with: a few numbers of each image, and no image."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from kpnet import __version__
from kpnet.coordinates import normalized_distance_to_pixel
from kpnet.core.errors import KpnetError, first_line
from kpnet.core.model_folder import WATCH
from kpnet.heads import Keypoints
from kpnet.models.test_time import TestTime
from kpnet.uncertainty import expected_distance

MAX_IMAGES = 1000  # whose numbers a summary holds
AXES = 32  # of the features that it holds
CONFIDENCE, SPREAD, EXPECTED, FEATURES = 0, 1, 2, 3  # columns of signals; the features are all from the last on


@contextmanager
def pooled_maps(backbone: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the mean over the cells of the coarsest map, (B, C), of each pass of a backbone in this thread."""
    thread, found = threading.get_ident(), []

    def collect(_module: nn.Module, _inputs: object, maps: list[Tensor]) -> None:
        if threading.get_ident() == thread:
            found.append(maps[-1].detach().float().mean((-2, -1)))

    handle = backbone.register_forward_hook(collect)
    try:
        yield found
    finally:
        handle.remove()


def compute_signals(predicted: Keypoints, features: Tensor, size: tuple[int, int], has_spread: bool = True) -> Tensor:
    """Return what is watched of predictions.

    Args:
        predicted: The predictions for B inputs.
        features: The mean (B, C) of the coarsest map of each.
        size: Height and width of the inputs.
        has_spread: Whether the head predicts a covariance of its own; that of a calibration alone is not watched.

    Returns:
        Signals (B, 3 + C), float32 on the CPU: the mean confidence of the points, the mean logarithm of their standard
        deviation and their mean expected error, both as fractions of the input's longer side, and the features. NaN
        where there is none.
    """
    signals = features.new_full((len(features), FEATURES), math.nan)
    if has_spread and predicted.confidence is not None:
        signals[:, CONFIDENCE] = predicted.confidence.float().mean(-1)
    if has_spread and predicted.covariance is not None:
        scale = normalized_distance_to_pixel(predicted.covariance.new_ones(2), size) / max(size)
        variance = (predicted.covariance.diagonal(dim1=-2, dim2=-1) * scale.square()).float().mean(-1)
        signals[:, SPREAD] = variance.clamp(min=1e-20).log().mean(-1) / 2
        signals[:, EXPECTED] = expected_distance(predicted.covariance, size, predicted.dof).float().mean(-1)
    return torch.cat([signals, features], 1).cpu()


def image_signals(signals: np.ndarray, has_spread: bool) -> np.ndarray:
    """Return the signals (3 + C,) of an image from those of its instances (N, 3 + C).

    An image in which a model with a spread finds no instance has a confidence of 0, and nothing else.
    """
    if len(signals):
        return np.asarray(signals.mean(0))
    none = np.full(signals.shape[1], np.nan, signals.dtype)
    none[CONFIDENCE] = 0 if has_spread else np.nan
    return none


@dataclass(frozen=True)
class WatchReference:
    """What is kept of held-out data.

    Attributes:
        signals: Signals of at most 1000 of its images, float32 (N, 3 + D); see `compute_signals`. The features are
            projected.
        projection: Orthonormal columns (C, D) that project the features. They are drawn at random, not fitted: axes
            that are fitted to the held-out images would show them more alike than new ones.
        images: Number of held-out images.
        test_time: Test-time views of the predictions.
        setting: Digest of the head and the calibration that the predictions were made with.
    """

    signals: Tensor
    projection: Tensor
    images: int
    test_time: TestTime = field(default_factory=TestTime)
    setting: str = ""

    @classmethod
    def from_signals(cls, signals: np.ndarray, images: int, model: Any, test_time: TestTime | None) -> WatchReference:
        """Make the summary of the signals (N, 3 + C) of held-out images, of which there were `images`."""
        channels = signals.shape[1] - FEATURES
        projection = np.eye(channels)
        if channels > AXES:
            projection = np.linalg.qr(np.random.default_rng(0).standard_normal((channels, AXES)))[0]
        axes = torch.from_numpy(projection).float()
        return cls(project(torch.from_numpy(signals), axes), axes, images, test_time or TestTime(), setting_of(model))

    def project(self, signals: np.ndarray) -> np.ndarray:
        """Return signals (N, 3 + C) with projected features, (N, 3 + D)."""
        return project(torch.from_numpy(signals), self.projection).numpy()

    def check(self, model: Any, test_time: TestTime | None) -> None:
        """Raise KpnetError where predictions of a model with these test-time views cannot be compared with it."""
        again = "make it again: kpnet guarantee RUN HELD_OUT"
        if self.test_time != (test_time or TestTime()):
            raise KpnetError(
                f"watch: the summary of the held-out data was made with {_views(self.test_time)}, and not with "
                f"{_views(test_time or TestTime())}: predict with the same, or {again}"
            )
        if self.setting != setting_of(model):
            raise KpnetError(
                "watch: the summary of the held-out data was made with another decoding or calibration of the model: "
                f"predict as then, or {again}"
            )

    def to_bytes(self) -> bytes:
        """Return the content of its file."""
        about = {"images": self.images, "test_time": dataclasses.asdict(self.test_time), "setting": self.setting}
        tensors = {"signals": self.signals.contiguous(), "projection": self.projection.contiguous()}
        return save(tensors, metadata={"format": "pt", "kpnet": __version__, "watch": json.dumps(about)})

    @classmethod
    def load(cls, path: Path) -> WatchReference:
        """Read it from its file.

        Raises:
            KpnetError: The file is damaged, or no such summary.
        """
        expected = "expected the summary of held-out data that kpnet guarantee writes"
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {})["watch"])
                signals, projection = file.get_tensor("signals"), file.get_tensor("projection")
            views = about["test_time"]
            test_time = TestTime(bool(views["flip"]), tuple(views["scales"]), float(views["shift"]))
            found = cls(signals, projection, int(about["images"]), test_time, str(about["setting"]))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, KpnetError) as error:
            raise KpnetError(f"{path}: {expected}: {first_line(error, with_type=True)}") from None
        if signals.ndim != 2 or projection.ndim != 2 or signals.shape[1] != FEATURES + projection.shape[1]:
            raise KpnetError(f"{path}: {expected}, found {tuple(signals.shape)} and {tuple(projection.shape)}")
        return found


def project(signals: Tensor, projection: Tensor) -> Tensor:
    """Return signals (N, 3 + C) with their features projected by (C, D)."""
    return torch.cat([signals[:, :FEATURES], signals[:, FEATURES:] @ projection], 1)


def setting_of(model: Any) -> str:
    """Return a digest of what else than weights decides on a model's predictions: its head and its calibration."""
    calibrations = (model.calibration, model.instance_calibration)
    known = [model.config.head, *(None if each is None else dataclasses.asdict(each) for each in calibrations)]
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


def load_reference(folder: Path) -> WatchReference | None:
    """Return the summary beside a saved model, or None where there is none."""
    return WatchReference.load(folder / WATCH) if (folder / WATCH).is_file() else None


def _views(test_time: TestTime) -> str:
    if test_time == TestTime():
        return "no further view"
    return f"the views flip={test_time.flip}, scales={list(test_time.scales)}, shift={test_time.shift:g}"

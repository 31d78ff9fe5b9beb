"""Keypoints of pictures, in the pixels of the original image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch

from kpnet import coordinates
from kpnet.core.runtime import best_device
from kpnet.data.images import Box, model_inputs, read_image
from kpnet.models.ensemble import Ensemble, Model, load_ensemble
from kpnet.models.test_time import TestTime

T = TypeVar("T")


@dataclass
class Prediction:
    """The N instances of one image: keypoints (N, K, 2) and covariance (N, K, 2, 2) in its pixels,
    confidence (N, K) in [0, 1]; the last two are None where the head has none. dof: as in Keypoints, for
    `kpnet.uncertainty.ellipse_radius`."""

    image: str
    names: tuple[str, ...]
    keypoints: np.ndarray
    confidence: np.ndarray | None
    covariance: np.ndarray | None
    dof: float = math.inf

    def to_frame(self) -> pd.DataFrame:
        """A row per point: image, instance, name, x, y, confidence."""
        count, points = self.keypoints.shape[:2]
        return pd.DataFrame(
            {
                "image": self.image,
                "instance": np.repeat(np.arange(count), points),
                "name": list(self.names) * count,
                "x": self.keypoints[..., 0].ravel(),
                "y": self.keypoints[..., 1].ravel(),
                "confidence": np.nan if self.confidence is None else self.confidence.ravel(),
            }
        )


class Predictor:
    """Fits an image, or what lies about each box of it, into the model's input and maps the answer back.

    `model` is a KeypointModel or the path of a run, or a list of them, whose answers are averaged. test_time:
    mirrored, scaled and shifted views too. `device` None: a GPU where there is one.
    """

    def __init__(
        self,
        model: Model | Ensemble | Sequence[Model],
        *,
        test_time: TestTime | None = None,
        device: str | torch.device | None = None,
        batch_size: int = 32,
    ) -> None:
        self.model = load_ensemble(model)
        self.test_time = test_time
        self.device = torch.device(device) if device else best_device()
        self.model.to(self.device).eval()
        self.batch_size = batch_size

    def __call__(self, image: str | Path | np.ndarray, boxes: Sequence[Box] | None = None) -> Prediction:
        """One image: a file, or uint8 (H, W) or RGB (H, W, 3). boxes: (x0, y0, x1, y1) each; None: the whole image."""
        name = "" if isinstance(image, np.ndarray) else str(image)
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        return next(self.stream([(name, pixels, boxes)]))

    def stream(self, images: Iterable[tuple[str, np.ndarray, Sequence[Box] | None]]) -> Iterator[Prediction]:
        """Predictions of (name, image, boxes) triples in their order, in batches."""
        iterator = iter(images)
        while group := list(itertools.islice(iterator, self.batch_size)):
            yield from self._predict(group)

    def track(self, frames: Iterable[np.ndarray]) -> Iterator[Prediction]:
        """Predictions of a video's frames, RGB uint8 (H, W, 3), in their order; no more than a batch is in memory.

        A temporal head sees each among its neighbours; before the first and after the last the picture stands still.
        """
        past, future = self.model.frame_window
        if not past + future:
            yield from self.stream(("", frame, None) for frame in frames)
            return
        held: list[tuple[np.ndarray, np.ndarray]] = []  # views that are answered next, and the windows around them
        views = (model_inputs(frame, None, self.model.config)[0] for frame in frames)
        for view in _pad_edge_frames(views, past, future):
            held.append(view)
            if len(held) == past + self.batch_size + future:
                yield from self._answer_clip(held)
                held = held[self.batch_size :]
        if len(held) > past + future:
            yield from self._answer_clip(held)

    def _answer_clip(self, views: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[Prediction]:
        """Of the frames whose window lies inside."""
        past, future = self.model.frame_window
        xy, confidence, covariance, dof = self._infer(np.stack([pixels for pixels, _ in views]), clip=True)
        for i, (_, matrix) in enumerate(views[past : len(views) - future]):
            answer = (None if a is None else a[i : i + 1] for a in (xy, confidence, covariance))
            yield replace(self._to_image_pixels("", [matrix], *answer), dof=dof)

    def _predict(self, group: list[tuple[str, np.ndarray, Sequence[Box] | None]]) -> Iterator[Prediction]:
        views = [model_inputs(image, boxes, self.model.config) for _, image, boxes in group]
        inputs = [pixels for view in views for pixels, _ in view]
        parts = [
            self._infer(np.stack(c))
            for c in (inputs[i : i + self.batch_size] for i in range(0, len(inputs), self.batch_size))
        ]
        xy, confidence, covariance = (
            None if not parts or parts[0][j] is None else np.concatenate([p[j] for p in parts]) for j in range(3)
        )
        dof = parts[0][3] if parts else math.inf
        start = 0
        for (name, _, _), view in zip(group, views, strict=True):
            rows = slice(start, start + len(view))
            start += len(view)
            answer = (None if a is None else a[rows] for a in (xy, confidence, covariance))
            yield replace(self._to_image_pixels(name, [m for _, m in view], *answer), dof=dof)

    def _infer(
        self, pixels: np.ndarray, clip: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, float]:
        images = torch.from_numpy(pixels)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        images = images[None] if clip else images
        answer = self.model.infer(images.to(self.device).float() / 255, self.test_time)
        size = self.model.config.input_size
        xy = coordinates.normalized_to_pixel(answer.keypoints.cpu().double(), size).numpy()
        confidence = None if answer.confidence is None else answer.confidence.float().cpu().numpy()
        if answer.covariance is None:
            return xy, confidence, None, answer.dof
        scale = coordinates.normalized_distance_to_pixel(torch.ones(2, dtype=torch.float64), size)
        covariance = answer.covariance.cpu().double() * scale[:, None] * scale[None, :]
        return xy, confidence, covariance.numpy(), answer.dof

    def _to_image_pixels(
        self,
        name: str,
        matrices: list[np.ndarray],
        xy: np.ndarray | None,
        confidence: np.ndarray | None,
        covariance: np.ndarray | None,
    ) -> Prediction:
        names = self.model.skeleton.names
        if xy is None or not matrices:
            return Prediction(name, names, np.zeros((0, len(names), 2)), None, None)
        inverses = [coordinates.invert(m) for m in matrices]
        points = np.stack([coordinates.transform(p, m) for p, m in zip(xy, inverses, strict=True)])
        if covariance is not None:
            linear = np.stack([m[:, :2] for m in inverses])[:, None]
            covariance = linear @ covariance @ linear.swapaxes(-1, -2)
        return Prediction(name, names, points, confidence, covariance)


def _pad_edge_frames(items: Iterable[T], past: int, future: int) -> Iterator[T]:
    """The items, the first one `past` times more and the last one `future` times."""
    item: T | None = None
    for i, item in enumerate(items):
        yield from itertools.repeat(item, 1 if i else 1 + past)
    if item is not None:
        yield from itertools.repeat(item, future)

"""Keypoints of images, in pixels of the original image."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from kpnet import coordinates
from kpnet.core.runtime import best_device
from kpnet.data.images import Box, model_inputs, read_image
from kpnet.models.ensemble import Ensemble, Model, load_ensemble
from kpnet.models.test_time import TestTime

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


@dataclass
class Prediction:
    """The keypoints of the N instances of one image.

    Attributes:
        image: Name of the image.
        names: Names of the K keypoints.
        keypoints: Points (N, K, 2) in pixels of the original image.
        confidence: Probability (N, K) that a point lies within 5 % of the input's longer side. None if the model
            predicts none.
        covariance: Covariance (N, K, 2, 2) in pixels squared. None if the model predicts none.
        dof: Degrees of freedom of the errors' Student t distribution, for `kpnet.uncertainty.ellipse_radius`; infinite
            for normal errors.
    """

    image: str
    names: tuple[str, ...]
    keypoints: np.ndarray
    confidence: np.ndarray | None
    covariance: np.ndarray | None
    dof: float = math.inf

    def to_frame(self) -> pd.DataFrame:
        """Return a table with a row for each point.

        Returns:
            The columns image, instance, name, x, y and confidence (NaN without one).
        """
        import pandas as pd  # a third of a second that only tables need

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
    """Predicts keypoints of images and videos of any size, in pixels of the original image.

    An image, or the region around each of its boxes, is fitted into the model's input, and the prediction is mapped
    back.

    Args:
        model: A model or the folder of a run or of a saved model, or several of them, whose predictions are averaged.
        test_time: Average over mirrored, scaled and shifted views.
        device: The device to predict on. None: a GPU if there is one.
        batch_size: Images, or boxes, per forward pass.

    Raises:
        KpnetError: A model cannot be loaded, or the models do not share their points and input.

    Example:
        ```python
        predictor = kpnet.Predictor("runs/facial_heatmap")
        prediction = predictor("photo.jpg")
        print(prediction.to_frame())
        ```
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
        """Predict the keypoints of one image.

        Args:
            image: A file, or uint8 (H, W) or RGB (H, W, 3).
            boxes: One (x0, y0, x1, y1) for each instance, in pixels. None: the whole image is one instance.

        Returns:
            The prediction, with one instance for each box.

        Raises:
            KpnetError: The image cannot be read, or a box is not valid.
        """
        name = "" if isinstance(image, np.ndarray) else str(image)
        pixels = image if isinstance(image, np.ndarray) else read_image(image)
        return next(self.stream([(name, pixels, boxes)]))

    def stream(self, images: Iterable[tuple[str, np.ndarray, Sequence[Box] | None]]) -> Iterator[Prediction]:
        """Predict many images, in batches.

        Args:
            images: Triples of a name, an image, uint8 (H, W) or RGB (H, W, 3), and its boxes or None.

        Yields:
            A prediction for each image, in their order.
        """
        iterator = iter(images)
        while group := list(itertools.islice(iterator, self.batch_size)):
            yield from self._predict(group)

    def track(self, frames: Iterable[np.ndarray]) -> Iterator[Prediction]:
        """Predict the frames of a video, with no more than a batch of them in memory.

        A temporal head sees each frame among its neighbours; the first and the last frame are repeated at the ends.

        Args:
            frames: RGB frames, uint8 (H, W, 3).

        Yields:
            A prediction for each frame, in their order.
        """
        past, future = self.model.frame_window
        if not past + future:
            yield from self.stream(("", frame, None) for frame in frames)
            return
        held: list[tuple[np.ndarray, np.ndarray]] = []  # views that are predicted next, and the windows around them
        views = (model_inputs(frame, None, self.model.config)[0] for frame in frames)
        for view in _pad_edge_frames(views, past, future):
            held.append(view)
            if len(held) == past + self.batch_size + future:
                yield from self._predict_clip(held)
                held = held[self.batch_size :]
        if len(held) > past + future:
            yield from self._predict_clip(held)

    def _predict_clip(self, views: list[tuple[np.ndarray, np.ndarray]]) -> Iterator[Prediction]:
        """Yield predictions for frames with a complete window."""
        past, future = self.model.frame_window
        xy, confidence, covariance, dof = self._infer(np.stack([pixels for pixels, _ in views]), clip=True)
        for i, (_, matrix) in enumerate(views[past : len(views) - future]):
            own = (None if each is None else each[i : i + 1] for each in (xy, confidence, covariance))
            yield replace(self._to_image_pixels("", [matrix], *own), dof=dof)

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
            own = (None if each is None else each[rows] for each in (xy, confidence, covariance))
            yield replace(self._to_image_pixels(name, [m for _, m in view], *own), dof=dof)

    def _infer(
        self, pixels: np.ndarray, clip: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None, float]:
        images = torch.from_numpy(pixels)
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        images = images[None] if clip else images
        predicted = self.model.infer(images.to(self.device).float() / 255, self.test_time)
        size = self.model.config.input_size
        xy = coordinates.normalized_to_pixel(predicted.keypoints.cpu().double(), size).numpy()
        confidence = None if predicted.confidence is None else predicted.confidence.float().cpu().numpy()
        if predicted.covariance is None:
            return xy, confidence, None, predicted.dof
        scale = coordinates.normalized_distance_to_pixel(torch.ones(2, dtype=torch.float64), size)
        covariance = predicted.covariance.cpu().double() * scale[:, None] * scale[None, :]
        return xy, confidence, covariance.numpy(), predicted.dof

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
    """Yield the items, with the first one repeated `past` times before and the last one `future` times after."""
    item: T | None = None
    for i, item in enumerate(items):
        yield from itertools.repeat(item, 1 if i else 1 + past)
    if item is not None:
        yield from itertools.repeat(item, future)

"""The instances that a model finds in whole images, in pixels of the images."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kpnet import coordinates
from kpnet.coordinates import Size
from kpnet.core.skeleton import Skeleton
from kpnet.data.images import letterbox, to_channels
from kpnet.inference.prediction import Prediction
from kpnet.models.detectors import Detector
from kpnet.oks import sigmas_of, suppress_by_oks

if TYPE_CHECKING:
    from kpnet.heads.centers import Detections

SAME = 0.9  # similarity of two predictions of one instance


@dataclass
class Found:
    """The instances that were found in one image, best first.

    Attributes:
        boxes: Boxes (N, 4) in pixels of the image: edges x0, y0, x1, y1, cut to the image.
        scores: Scores (N,).
        detections: The same in normalised coordinates of the network's input.
        matrix: Matrix (2, 3) from pixels of the image to pixels of that input.
    """

    boxes: np.ndarray
    scores: np.ndarray
    detections: Detections
    matrix: np.ndarray


def instance_limits(model: Any) -> Any:
    """Return what has the `threshold` and the `max_instances` of a model that finds instances: a head or a detector."""
    finder = model if model.finder is None else model.finder
    return finder if isinstance(finder, Detector) else finder.head


def find_instances(
    model: Any,
    channels: int,
    size: Size,
    images: Sequence[np.ndarray],
    device: torch.device,
    batch_size: int,
    threshold: float | None = None,
    limit: int | None = None,
) -> Iterator[tuple[Tensor, list[Found]]]:
    """Find the instances of images.

    Args:
        model: A model that finds instances.
        channels: Channels of the images that the network takes which looks for them.
        size: Height and width of these images.
        images: Images uint8 (H, W) or RGB (H, W, 3).
        device: The model's device.
        batch_size: Images per forward pass.
        threshold: Least score of an instance. None: the model's own.
        limit: How many instances of an image are found at most. None: as many as the model's own limit allows.

    Yields:
        For each batch its input (B, C, H, W), float in [0, 1], and what was found in its images. An instance whose box
        has no area on its image is left out.
    """
    views = (letterbox(to_channels(image, channels), size) for image in images)
    sizes = iter([(image.shape[0], image.shape[1]) for image in images])
    while batch := list(itertools.islice(views, batch_size)):
        inputs = unit_batch(np.stack([pixels for pixels, _ in batch])).to(device)
        found = model.find(inputs, threshold, limit)
        yield (
            inputs,
            [_on_image(each, matrix, size, next(sizes)) for each, (_, matrix) in zip(found, batch, strict=True)],
        )


def unit_batch(pixels: np.ndarray) -> Tensor:
    """Return images uint8 (B, H, W) or (B, H, W, C) as floats (B, C, H, W) in [0, 1]."""
    images = torch.from_numpy(pixels)
    return (images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)).float() / 255


def normalized_boxes(boxes: Sequence[Sequence[float]], matrix: np.ndarray, size: Size) -> Tensor:
    """Return boxes (N, 4) in pixels of an image in normalised coordinates of an input of it.

    Args:
        boxes: Edges x0, y0, x1, y1 of each.
        matrix: Matrix (2, 3) from pixels of the image to pixels of the input.
        size: Height and width of the input.
    """
    corners = coordinates.transform(np.asarray(boxes, np.float64).reshape(-1, 2), matrix)
    return torch.from_numpy(coordinates.pixel_to_normalized(corners, size)).reshape(-1, 4).float()


def _on_image(found: Detections, matrix: np.ndarray, size: Size, image: Size) -> Found:
    """Return detections in an input of `size` as boxes on the image (H, W) that it shows."""
    corners = coordinates.normalized_to_pixel(found.boxes.double().cpu().reshape(-1, 2), size).numpy()
    corners = coordinates.transform(corners, coordinates.invert(matrix))
    corners = np.clip(corners, -0.5, (image[1] - 0.5, image[0] - 0.5))
    boxes = corners.reshape(-1, 4)
    there = (boxes[:, 2:] > boxes[:, :2]).all(-1)  # not with NaN either
    kept = torch.from_numpy(np.flatnonzero(there)).to(found.boxes.device)
    return Found(boxes[there], found.scores.double().cpu().numpy()[there], found.take(kept), matrix)


def distinct(prediction: Prediction, skeleton: Skeleton) -> np.ndarray:
    """Return the indices of the instances that repeat no better one, in their order.

    Two are the same if their points' similarity (OKS, with the area of the better one's box) is above `SAME`.

    Args:
        prediction: Instances with boxes, best first.
        skeleton: The keypoints, of which the sigmas are used.
    """
    points = torch.from_numpy(prediction.keypoints)
    sides = torch.from_numpy(prediction.boxes[:, 2:] - prediction.boxes[:, :2])  # type: ignore[index]
    scores = torch.from_numpy(prediction.scores)
    return suppress_by_oks(points, scores, sides.prod(-1), sigmas_of(skeleton), SAME).numpy()

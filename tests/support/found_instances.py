"""Models that find instances by the brightness of images: what they find is known, without training."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from kpnet import build_model
from kpnet.core.skeleton import Skeleton
from kpnet.heads import Keypoints
from kpnet.heads.centers import Detections
from kpnet.models.keypoint_model import KeypointModel

SKELETON = {"names": ["l_blob", "r_blob"], "pairs": [["l_blob", "r_blob"]], "edges": [["l_blob", "r_blob"]]}


def blobs(size: tuple[int, int], *places: tuple[float, float], light: float = 250, sigma: float = 3) -> np.ndarray:
    """Grey uint8 of `size` (H, W) with a blob at each (x, y) in pixels; each is darker than the one before."""
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.zeros(size)
    for number, (px, py) in enumerate(places):
        image = np.maximum(image, (light - 10 * number) * np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * sigma**2)))
    return np.round(image).astype(np.uint8)


def find_blobs(image: Tensor, threshold: float, side: float) -> tuple[Tensor, Tensor]:
    """Centres (N, 2) and scores (N,) of the bright regions of an image (C, H, W), best first, normalised."""
    light = image.mean(0).numpy()
    count, labels = cv2.connectedComponents((light > 0.35).astype(np.uint8))
    weights = [np.where(labels == n, light, 0) for n in range(1, count)]
    y, x = np.mgrid[: light.shape[0], : light.shape[1]]
    points = [((w * x).sum() / w.sum(), (w * y).sum() / w.sum()) for w in weights]
    scores = torch.tensor([float(w.max()) for w in weights], dtype=torch.float32)
    size = torch.tensor(light.shape[::-1])
    xy = (2 * torch.tensor(np.array(points).reshape(-1, 2)) + 1) / size - 1
    order = [i for i in scores.argsort(descending=True).tolist() if scores[i] >= threshold]
    return xy[order].float(), scores[order]


class BlobFinder(nn.Module):
    """In place of a finder: boxes of `side` (normalised) about each blob."""

    def __init__(self, config: Any, side: float = 0.3, default: float = 0.4) -> None:
        super().__init__()
        self.config, self.side, self.default = config, side, default
        self.batches: list[tuple[int, ...]] = []  # shapes of the images that it was given
        self.repeats = 1  # how often each instance is found
        self.outside = False  # whether one beside the image is found, too
        self.max_instances = 100

    @property
    def head(self) -> BlobFinder:
        """What has the limits."""
        return self

    def find(self, images: Tensor, threshold: float | None = None, max_instances: int | None = None) -> list[Any]:
        self.batches.append(tuple(images.shape))
        found = []
        most = self.max_instances if max_instances is None else max_instances
        for image in images:
            xy, scores = find_blobs(image, self.default if threshold is None else threshold, self.side)
            xy, scores = xy.repeat_interleave(self.repeats, 0), scores.repeat_interleave(self.repeats)
            if self.outside:
                xy, scores = torch.cat([xy.new_full((1, 2), 3.0), xy]), torch.cat([scores.new_ones(1), scores])
            boxes = torch.cat([xy - self.side / 2, xy + self.side / 2], -1)
            found.append(Detections(boxes[:most], scores[:most]))
        return found


def two_stage(size: tuple[int, int] = (32, 32), finder_size: tuple[int, int] = (64, 64)) -> KeypointModel:
    """A model of grey crops, which predicts the brightest pixels' centre and a point an eighth to its right."""
    model = build_model(
        backbone={"name": "conv_sandwich", "channels": [4]},
        head={"name": "heatmap", "stride": 2},
        in_channels=1,
        input_size=size,
        skeleton=Skeleton.load(SKELETON),
    ).eval()
    other = model.config.model_copy(update={"input_size": finder_size})
    model.finder = BlobFinder(other)  # type: ignore[assignment]
    model.crops = []  # type: ignore[assignment]

    def infer(images: Tensor, test_time: object = None) -> Keypoints:
        model.crops.append(len(images))  # type: ignore[operator, union-attr]
        light = images.double().sum(1).square()
        width, height = light.shape[-1], light.shape[-2]
        total = light.sum((-2, -1)) + 1e-9
        x = (light.sum(-2) * torch.arange(width)).sum(-1) / total
        y = (light.sum(-1) * torch.arange(height)).sum(-1) / total
        xy = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
        points = torch.stack([xy, xy + torch.tensor([0.25, 0.0])], 1)
        covariance = torch.eye(2, dtype=torch.float64).expand(len(images), 2, 2, 2) * 0.01
        return Keypoints(points, torch.full(points.shape[:2], 0.75), covariance)

    model.infer = infer  # type: ignore[method-assign]
    return model

"""Which image to label next: the ones that a model is least sure of, and that differ from each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from kpnet.core.errors import KpnetError
from kpnet.data.base import KeypointDataset
from kpnet.data.images import Box, letterbox, to_channels
from kpnet.inference.instances import unit_batch
from kpnet.inference.prediction import Prediction
from kpnet.inference.predictor import Predictor
from kpnet.models.keypoint_model import KeypointModel

POOL = 4  # candidates for each image that is chosen

Candidate = tuple[int, Callable[[], np.ndarray], Sequence[Box] | None]  # its index, what reads it, and its boxes


@dataclass(frozen=True)
class Ranked:
    """An image that a model has predicted.

    Attributes:
        index: Index of the image.
        expected_error: Root of the mean squared error that the covariance predicts, in pixels, the mean of its points;
            infinite where the model found no instance.
        share: The same as a share of the image's longer side.
        prediction: The prediction.
    """

    index: int
    expected_error: float
    share: float
    prediction: Prediction


def rank_uncertain(
    predictor: Predictor,
    images: Iterable[Candidate],
    count: int,
    *,
    progress: Callable[[int], bool | None] = lambda done: None,
    failed: Callable[[int, KpnetError], None] = lambda index, error: None,
) -> list[Ranked]:
    """Rank images by how much a label would teach a model.

    Images in which the model finds no instance have the largest expected error of all. Of the images with the largest
    expected error (`POOL` times as many as are wanted), the first is the most uncertain one. Each further one is the
    one whose features, the mean of the backbone's coarsest map, are farthest from all chosen before: consecutive frames
    of a video are not chosen together.

    Args:
        predictor: The predictor of one model that predicts covariances.
        images: The images.
        count: How many to choose so; all others follow by their expected error.
        progress: Called with the number of images after each; True ends the ranking with those.
        failed: Called for an image that cannot be read or predicted, which is skipped.

    Returns:
        The images, the one to label first at the beginning.

    Raises:
        KpnetError: The model is no single one of kpnet's, or predicts no covariance.
    """
    model = predictor.model
    if not isinstance(model, KeypointModel):
        raise KpnetError("the queue needs the folder of a run: its backbone's features tell images apart")
    ranked: list[Ranked] = []
    features: list[np.ndarray] = []
    with _coarsest_map(model.backbone) as maps:
        for done, (index, load, boxes) in enumerate(images, 1):
            maps.clear()
            try:
                image = load()
                prediction = predictor(image, boxes)
            except KpnetError as error:
                failed(index, error)
                continue
            if prediction.covariance is None:
                raise KpnetError("the model predicts no uncertainty; expected a head that does, such as heatmap")
            error_px = np.inf
            if len(prediction.keypoints):
                error_px = float(np.sqrt(np.trace(prediction.covariance, axis1=-2, axis2=-1)).mean())
            if model.finds_instances:  # its backbone saw crops, or nothing
                maps.clear()
                _see_whole(model, image, predictor.device)
            ranked.append(Ranked(index, error_px, error_px / max(image.shape[:2]), prediction))
            features.append(torch.cat(maps).float().mean(0).cpu().numpy())
            if progress(done):
                break
    order = np.argsort([-each.share for each in ranked], kind="stable").tolist()
    pool = order[: POOL * count]
    chosen = [pool[k] for k in choose_far_apart(np.stack([features[i] for i in pool]), count)] if pool else []
    return [ranked[i] for i in (*chosen, *(i for i in order if i not in set(chosen)))]


def choose_far_apart(features: np.ndarray, count: int) -> list[int]:
    """Choose rows that are far from each other, greedily.

    Args:
        features: Features (N, C), the row to begin with first. Each column is standardised.
        count: How many to choose.

    Returns:
        Indices of min(count, N) rows in the order in which they were chosen.
    """
    scaled = (features - features.mean(0)) / (features.std(0) + 1e-6)
    chosen = [0]
    nearest = np.linalg.norm(scaled - scaled[0], axis=-1)
    while len(chosen) < min(count, len(features)):
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(scaled - scaled[chosen[-1]], axis=-1))
    return chosen[:count]


@torch.no_grad()
def _see_whole(model: KeypointModel, image: np.ndarray, device: torch.device) -> None:
    """Run a model's backbone on a whole image."""
    config = model.config
    pixels, _ = letterbox(to_channels(image, config.in_channels), config.input_size)
    model.features(unit_batch(pixels[None]).to(device))


class _coarsest_map:
    """Collects the coarsest map of a backbone, averaged over its pixels, (B, C) at each forward pass."""

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.maps: list[Tensor] = []

    def __enter__(self) -> list[Tensor]:
        self.hook = self.backbone.register_forward_hook(
            lambda module, given, maps: self.maps.append(maps[-1].flatten(2).mean(-1))
        )
        return self.maps

    def __exit__(self, *error: object) -> None:
        self.hook.remove()


class PredictedDataset(KeypointDataset):
    """Images with their predicted points, for a contact sheet.

    Args:
        predictor: The predictor.
        ranked: The images.
        read: Returns an image by its index.
        name: Returns an image's name by its index.
    """

    def __init__(
        self,
        predictor: Predictor,
        ranked: Sequence[Ranked],
        read: Callable[[int], np.ndarray],
        name: Callable[[int], str],
    ) -> None:
        super().__init__()
        self.skeleton = predictor.model.skeleton
        self.ranked, self._read, self._name = ranked, read, name

    def __len__(self) -> int:
        return len(self.ranked)

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        each = self.ranked[index]
        points = each.prediction.keypoints
        return self._read(each.index), points[0] if len(points) else np.full((len(self.skeleton), 2), np.nan)

    def image_name(self, index: int) -> str:
        return self._name(self.ranked[index].index)


def candidates(dataset: KeypointDataset) -> Iterator[Candidate]:
    """Yield the images of a dataset that have no label, each once.

    Args:
        dataset: The dataset.

    Yields:
        The index of the image's first sample, a function that reads it, and its boxes or None.
    """
    labelled, groups = np.asarray(dataset.labels().any(-1)), defaultdict[str, list[int]](list)
    for index in range(len(dataset)):
        groups[dataset.image_key(index)].append(index)
    for indices in groups.values():
        if not labelled[indices].any():
            boxes = [box.tolist() for i in indices if (box := dataset.box(i)) is not None]
            yield indices[0], partial(_read, dataset, indices[0]), boxes or None


def _read(dataset: KeypointDataset, index: int) -> np.ndarray:
    return dataset.read(index)[0]
